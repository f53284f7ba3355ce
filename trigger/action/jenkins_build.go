package action

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

const (
	// jenkinsGlance is how long a run without `wait` looks for the start of its
	// build: a job has a quiet period of 5 seconds unless it says otherwise.
	jenkinsGlance = 10 * time.Second

	jenkinsLately = 200     // builds and queue items among which a run is looked for
	jenkinsList   = 4 << 20 // bytes that their list may have
)

// queueItem is where Jenkins says that a build waits, and buildPath where one is.
// Only these parts of its addresses are used: Jenkins may know itself by a name
// that is not the one by which dockbell reaches it, and no answer can send the
// user's token elsewhere.
var (
	queueItem = regexp.MustCompile(`/queue/item/[0-9]+/?$`)
	buildPath = regexp.MustCompile(`/job/.+/[0-9]+/?$`)
)

// follow waits until a queued build has started, and with `wait` until it has
// ended.
func (a *jenkins) follow(ctx context.Context, b begun, log io.Writer) error {
	try := ctx
	ctx = trigger.OnlyWaits(try, b.String())
	wait := jenkinsGlance
	if a.spec.Wait != nil {
		wait = *a.spec.Wait
	}
	until := b.since.Add(wait)
	if queueItem.MatchString(b.url) {
		build, err := a.started(ctx, b.url, until)
		var cancelled *cancelledError
		switch {
		case err != nil && (a.spec.Wait != nil || errors.As(err, &cancelled) || ctx.Err() != nil):
			return err
		case err != nil:
			fmt.Fprintf(log, "whether the build has started is not known: %s\n", err)
			return nil
		}
		b.url = build
		fmt.Fprintln(log, "Jenkins started "+build+"console")
	}
	if a.spec.Wait == nil {
		return nil
	}
	if !buildPath.MatchString(b.url) {
		return trigger.Uncertain(fmt.Errorf("Jenkins queued a build and does not say where, so it cannot be waited for; Location was %q", b.url))
	}
	return a.ended(trigger.OnlyWaits(try, b.String()), b.url, until, log)
}

// cancelledError is a build that somebody has taken out of the queue.
type cancelledError struct{ item string }

func (e *cancelledError) Error() string {
	return e.item + " was cancelled before it became a build"
}

// started waits until a queue item has become a build, and gives its URL with a
// final slash.
func (a *jenkins) started(ctx context.Context, item string, until time.Time) (build string, err error) {
	err = follow(ctx, until, func(ctx context.Context) error {
		var says struct {
			Cancelled  bool   `json:"cancelled"`
			Why        string `json:"why"`
			Executable *struct {
				URL string `json:"url"`
			} `json:"executable"`
		}
		if err := a.ask(ctx, a.root+queueItem.FindString(item), "cancelled,why,executable[url]", &says); err != nil {
			return err
		}
		switch {
		case says.Cancelled:
			return &cancelledError{item}
		case says.Executable == nil:
			return fmt.Errorf("%s: %w: %s", item, errNotYet, oneLine(says.Why))
		}
		path := buildPath.FindString(says.Executable.URL)
		if path == "" {
			return fmt.Errorf("Jenkins started a build at %q, which is no address of one", says.Executable.URL)
		}
		build = a.root + strings.TrimRight(path, "/") + "/"
		return nil
	})
	return build, err
}

// ended waits for the end of a build.
func (a *jenkins) ended(ctx context.Context, build string, until time.Time, log io.Writer) error {
	err := follow(ctx, until, func(ctx context.Context) error {
		var says struct {
			Building bool    `json:"building"`
			Result   string  `json:"result"`
			Duration float64 `json:"duration"` // milliseconds
		}
		if err := a.ask(ctx, build, "building,result,duration", &says); err != nil {
			return err
		}
		if says.Building || says.Result == "" {
			return errNotYet
		}
		took := time.Duration(says.Duration) * time.Millisecond
		if says.Result == "SUCCESS" || says.Result == "UNSTABLE" && a.spec.AllowUnstable {
			fmt.Fprintf(log, "it ended as %s after %s\n", oneLine(says.Result), took.Round(time.Millisecond))
			return nil
		}
		return fmt.Errorf("the build ended as %s after %s: %sconsole", oneLine(says.Result), took.Round(time.Millisecond), build)
	})
	if errors.Is(err, errNotYet) {
		return notEnded(build+"console", *a.spec.Wait)
	}
	return err
}

// find gives what an earlier try of a run has begun, which may have happened
// although no answer came; "" when it has not. The queue comes first: what
// leaves it meanwhile is then among the builds.
func (a *jenkins) find(ctx context.Context, mark string) (at string, err error) {
	type begunThing struct {
		URL     string `json:"url"`
		Actions []struct {
			Parameters []struct {
				Value any `json:"value"`
			} `json:"parameters"`
			Causes []struct {
				Note string `json:"note"`
			} `json:"causes"`
		} `json:"actions"`
	}
	var says struct {
		Items  []begunThing `json:"items"`
		Builds []begunThing `json:"builds"`
	}
	for _, list := range []struct{ at, tree string }{{a.root + "/queue", "items"}, {a.job, "builds"}} {
		tree := fmt.Sprintf("%s[url,actions[parameters[value],causes[note]]]{0,%d}", list.tree, jenkinsLately)
		if err := a.ask(ctx, list.at, tree, &says); err != nil {
			return "", fmt.Errorf("whether an earlier try has started a build: %w", err)
		}
	}
	for _, thing := range slices.Concat(says.Items, says.Builds) {
		for _, action := range thing.Actions {
			found := false
			for _, p := range action.Parameters {
				found = found || p.Value == mark
			}
			for _, cause := range action.Causes {
				found = found || strings.HasPrefix(cause.Note, mark+":")
			}
			if found {
				path := "/" + thing.URL // that of a queue item is relative
				return a.root + queueItem.FindString(path) + buildPath.FindString(path), nil
			}
		}
	}
	return "", nil
}

// ask reads a part of what Jenkins says about something. Where it does not say
// it for good, nobody knows what became of a build.
func (a *jenkins) ask(ctx context.Context, address, tree string, into any) error {
	address = strings.TrimRight(address, "/") + "/api/json"
	c := newCall(a.client, http.MethodGet, address+"?"+url.Values{"tree": {tree}}.Encode(), address)
	c.secrets, c.most = nil, jenkinsList // nothing in the query is one
	if err := a.authorize(c); err != nil {
		return trigger.Retry(err)
	}
	got, err := c.do(ctx)
	if err == nil {
		err = got.decode(into, "to see builds the user needs Job/Read")
	}
	return lost(err)
}
