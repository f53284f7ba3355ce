package action

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/action/git"
	"github.com/dockbell/dockbell/trigger/secret"
)

// Do sets the image in the newest state of the branch and pushes a commit on
// top of it. It is safe to repeat: what is there already is not set again.
func (a *gitAction) Do(ctx context.Context, run trigger.Run, log io.Writer) error {
	if run.Event.Tag == "" && run.Event.Digest == "" {
		return errors.New("the event has neither tag nor digest to write")
	}
	slow := time.AfterFunc(slowAnswer, func() { trigger.AwaitsAnswer(ctx) })
	defer slow.Stop()
	o := &gitOrder{action: a, run: run, done: make(chan struct{})}
	err := a.world.desks.with(a.spec.deskKey(), func(d *gitDesk) error {
		return d.place(ctx, o, a.spec.Gather, func(orders []*gitOrder) { carryOut(ctx, orders) })
	})
	if err != nil {
		return err
	}
	if !o.judged {
		return trigger.Retry(errors.New("the run that made the commit for this one, too, broke off"))
	}
	if _, err := io.WriteString(log, o.text); err != nil {
		return err
	}
	return o.err
}

// carryOut makes one commit of several orders and gives each its outcome.
func carryOut(ctx context.Context, orders []*gitOrder) {
	a := orders[0].action
	var secrets []string
	err := func() error {
		remote, err := a.remote(ctx, &secrets)
		if err != nil {
			return err
		}
		clone, err := a.world.clones.Open(ctx, remote)
		if err != nil {
			return err
		}
		defer clone.Close()
		requests, err := a.requests(&secrets)
		if err != nil {
			return err
		}
		w := &gitWork{gitAction: a, clone: clone, request: requests}
		return w.untilPushed(ctx, orders)
	}()
	for _, o := range orders {
		if o.err == nil {
			o.err = err
		}
		o.text, o.err, o.judged = hide(o.log.String(), secrets), a.worded(o.err, secrets), true
	}
}

// worded says which repository an error is about, and shows no secret.
func (a *gitAction) worded(err error, secrets []string) error {
	var skip *trigger.SkipError
	if err == nil || errors.As(err, &skip) {
		return err
	}
	text := errors.New(hide(a.address.String()+": "+err.Error(), secrets))
	var refused *refusedError
	if after, again := trigger.Retryable(err); again && !errors.As(err, &refused) {
		return &trigger.RetryError{Err: text, After: after}
	}
	return text
}

// remote is the repository with what is needed to get in.
func (a *gitAction) remote(ctx context.Context, secrets *[]string) (*git.Remote, error) {
	auth := a.spec.Auth
	r := &git.Remote{Address: a.address, Client: a.world.client.asks, Dial: a.world.client.dial}
	var err error
	switch {
	case a.address.SSH():
		var key git.Key
		if key, err = readKey(auth.SSHKey, auth.Passphrase); err != nil {
			return nil, trigger.Retry(err) // it was good when the rules were loaded
		}
		r.Key, r.HostKeys = key, git.HostKeys{Any: auth.AnyHostKey}
		if auth.KnownHosts != "" {
			r.HostKeys.Files = []string{auth.KnownHosts}
		}
	case auth.App != nil:
		r.User = "x-access-token" // as GitHub documents it for tokens of installations
		r.Token, err = a.hub(secret.Ref{}, auth.App).token(ctx)
	case !auth.Token.IsZero():
		r.User = cmp.Or(auth.User, "git") // those who know tokens do not mind the name
		if r.Token, err = auth.Token.Read(); err != nil {
			return nil, trigger.Retry(err)
		}
	}
	if r.Token != "" {
		*secrets = append(*secrets, r.Token, base64.StdEncoding.EncodeToString([]byte(r.User+":"+r.Token)))
	}
	return r, err
}

// dial connects without HTTP, to none of the addresses that are refused.
func (w way) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: dialTimeout, Control: w.control}
	return dialer.DialContext(ctx, network, address)
}

// gitWork is the making of one commit.
type gitWork struct {
	*gitAction
	clone   *git.Clone
	request requests // nil where there are none
}

// gitState is what a commit is made on.
type gitState struct {
	base    *git.Commit // what the branch is at
	on      *git.Commit // what the commit is made on top of
	old     *git.Commit // what the branch that is pushed to is at; nil for a new one
	pushTo  string
	request request // the newest one for that branch; the zero request for none
}

// untilPushed tries again when others have pushed meanwhile, or have opened the
// pull request.
func (w *gitWork) untilPushed(ctx context.Context, orders []*gitOrder) error {
	var err error
	for n := range gitPushes {
		if err = w.once(ctx, orders); !errors.Is(err, git.ErrMoved) && !errors.Is(err, errOpened) {
			return err
		}
		pause := time.NewTimer(rand.N(time.Duration(n+1) * 50 * time.Millisecond)) // so that two dockbells do not meet again
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return trigger.Retry(context.Cause(ctx))
		}
	}
	return trigger.Retry(fmt.Errorf("others push to %s all the time; %d pushes came too late: %w", cmp.Or(w.spec.PushTo, w.spec.Branch), gitPushes, err))
}

// once looks at the branch and makes a commit of what there is to change. An
// order that has an outcome of its own does not keep the others back.
func (w *gitWork) once(ctx context.Context, orders []*gitOrder) error {
	s, err := w.look(ctx, orders[0])
	if err != nil {
		return err
	}
	files := &gitFiles{gitState: s, now: map[string][]byte{}}
	var made []*gitOrder
	for _, o := range orders {
		o.log.Reset()
		o.changes = nil
		if o.err = files.add(o); o.err == nil {
			made = append(made, o)
		}
	}
	if len(made) == 0 {
		return nil
	}
	if w.spec.DryRun {
		tell(made, "nothing is changed, this is a rehearsal; it would go to %s\n%s", s.pushTo, files.diff())
		return nil
	}
	changing := slices.DeleteFunc(slices.Clone(made), func(o *gitOrder) bool { return o.changes == nil })
	if len(changing) > 0 {
		if err := w.push(ctx, s, files, changing); err != nil {
			return err
		}
	}
	return w.open(ctx, s, made, len(changing) > 0)
}

// tell writes to the logs of several orders.
func tell(orders []*gitOrder, format string, args ...any) {
	for _, o := range orders {
		fmt.Fprintf(&o.log, format+"\n", args...)
	}
}

// look fetches what the branches are at, and finds what the commit goes on top
// of. Never is anything thrown away: only when all of a branch has been merged
// does it begin again at the base.
func (w *gitWork) look(ctx context.Context, first *gitOrder) (*gitState, error) {
	s := &gitState{pushTo: w.spec.Branch}
	branches := []string{w.spec.Branch}
	if w.spec.PushTo != "" || w.request != nil {
		s.pushTo = cmp.Or(w.spec.PushTo, defaultBranch(first.run.Event.Image))
		branches = append(branches, s.pushTo)
	}
	commits, err := w.clone.Fetch(ctx, branches...)
	if err != nil {
		return nil, err
	}
	if s.base = commits[0]; s.base == nil {
		return nil, fmt.Errorf("there is no branch %s: push a first commit to it", w.spec.Branch)
	}
	s.on, s.old = s.base, s.base
	if len(branches) == 1 {
		return s, nil
	}
	if s.old = commits[1]; s.old == nil {
		return s, nil
	}
	s.on = s.old
	if w.request == nil {
		return s, nil
	}
	if s.request, err = w.request.newest(ctx, s.pushTo, w.spec.Branch); err != nil {
		return nil, err
	}
	if s.request.State == requestMerged && s.request.Head == s.old.Hash.String() {
		s.on, s.request = s.base, request{}
	}
	return s, nil
}

// defaultBranch is that of a pull request: one for each image, which is open
// for its newest version.
func defaultBranch(image trigger.Image) string {
	return "dockbell/" + strings.ReplaceAll(strings.ToLower(image.Repository), "/", "-") // one name must not be a folder of another
}

func (w *gitWork) push(ctx context.Context, s *gitState, files *gitFiles, orders []*gitOrder) error {
	signer, err := w.spec.Sign.signer()
	if err != nil {
		return trigger.Retry(err) // it was good when the rules were loaded
	}
	commit, err := s.on.With(files.now, git.Meta{
		Message: message(orders), Name: w.spec.Author.Name, Email: w.spec.Author.Email, At: time.Now(), Sign: signer,
	})
	if err != nil {
		return err
	}
	if err := w.clone.Push(ctx, s.pushTo, s.old, commit); err != nil {
		return err
	}
	tell(orders, "commit %s on %s", commit.Hash, s.pushTo)
	for _, o := range orders {
		if len(orders) > 1 {
			fmt.Fprintf(&o.log, "of %d runs together\n", len(orders))
		}
		for _, line := range o.changes {
			fmt.Fprintln(&o.log, line)
		}
	}
	return nil
}

// open opens a pull request for a branch that has none, and says in one that is
// open what it is about now.
func (w *gitWork) open(ctx context.Context, s *gitState, orders []*gitOrder, changed bool) error {
	if w.request == nil {
		return nil
	}
	text := message(orders)
	if !changed && strings.Contains(s.on.Message, trailers(orders[0].run)) {
		text = s.on.Message // an earlier try has pushed it
	}
	subject, rest, _ := strings.Cut(text, "\n")
	spec := orders[0].action.spec.Request
	title, body := cmp.Or(spec.Title, subject), cmp.Or(spec.Body, strings.TrimSpace(rest))
	if s.request.State == requestOpen {
		tell(orders, "it is in %s", s.request.URL)
		return w.request.retitle(ctx, s.request.number, title, body)
	}
	url, err := w.request.open(ctx, s.pushTo, w.spec.Branch, title, body)
	if err != nil {
		return err
	}
	tell(orders, "opened %s", url)
	return nil
}
