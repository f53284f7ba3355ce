package action

import (
	"cmp"
	"errors"
	"fmt"
	"net/mail"
	"path"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/action/git"
	"github.com/dockbell/dockbell/trigger/action/git/manifest"
	"github.com/dockbell/dockbell/trigger/fieldpath"
	"github.com/dockbell/dockbell/trigger/secret"
)

// gitSpec sets an image in files of a repository.
type gitSpec struct {
	Repository string        `yaml:"repository"` // as for git clone
	Branch     string        `yaml:"branch"`
	Changes    []gitChange   `yaml:"changes"`
	Pin        string        `yaml:"pin"`     // digest: whole references get it, too
	Message    string        `yaml:"message"` // of the commit; the changes and trailers follow it
	Author     gitAuthor     `yaml:"author"`
	Sign       gitSign       `yaml:"sign"`
	Auth       gitAuth       `yaml:"auth"`
	PushTo     string        `yaml:"pushTo"` // another branch, made when it is not there
	Request    *gitRequest   `yaml:"pullRequest"`
	Gather     time.Duration `yaml:"gather"` // how long to wait for others that make one commit with it
	DryRun     bool          `yaml:"dryRun"`
}

// gitChange is one place in one file, or in all files of a pattern.
type gitChange struct {
	File      string `yaml:"file"`
	Kustomize string `yaml:"kustomize"` // the name of an element of images
	Helm      string `yaml:"helm"`      // the way to an image in Helm values
	Path      string `yaml:"path"`      // the way to any field
	Value     string `yaml:"value"`     // what that holds of the image
	Text      string `yaml:"text"`      // or a text instead
	Marker    string `yaml:"marker"`    // the policy that comments name
}

type gitAuthor struct {
	Name  string `yaml:"name"`
	Email string `yaml:"email"`
}

type gitSign struct {
	SSH        secret.Ref `yaml:"ssh"`
	GPG        secret.Ref `yaml:"gpg"`
	Passphrase secret.Ref `yaml:"passphrase"`
}

// gitAuth is how to get in: one of token, app and sshKey.
type gitAuth struct {
	User       string     `yaml:"user"`
	Token      secret.Ref `yaml:"token"`
	App        *githubApp `yaml:"app"`
	SSHKey     secret.Ref `yaml:"sshKey"`
	Passphrase secret.Ref `yaml:"passphrase"`
	KnownHosts string     `yaml:"knownHosts"` // a file; those of OpenSSH when left out
	AnyHostKey bool       `yaml:"anyHostKey"` // whoever answers is believed to be the server
}

// What a gitSpec is held to.
const (
	gitGather  = time.Minute // longest time to wait for others
	gitPushes  = 10          // pushes to a branch that moves, before the run is put back to wait
	pinTag     = "tag"
	pinDigest  = "digest"
	gitDefault = "main"
)

// gitAction is one run's part of a commit.
type gitAction struct {
	spec    gitSpec
	address git.Address
	places  []gitPlace
	world   *gitWorld
}

// gitPlace is a compiled change.
type gitPlace struct {
	file, what string
	find       manifest.Place
}

// gitWorld is what the actions of one configuration have in common.
type gitWorld struct {
	client  *Client
	clones  *git.Clones
	aliases trigger.Aliases
	hub     *githubShared
	desks   gitDesks
}

// Git builds actions that set an image in files of a repository. Files may
// name registries by any of their aliases.
func Git(client *Client, clones *git.Clones, aliases trigger.Aliases) trigger.Builder {
	world := &gitWorld{client: client, clones: clones, aliases: aliases, hub: &githubShared{}}
	return func(decode func(any) error) (trigger.Action, error) {
		spec := gitSpec{Branch: gitDefault, Pin: pinTag, Author: gitAuthor{"dockbell", "dockbell@localhost"}}
		if err := decode(&spec); err != nil {
			return nil, err
		}
		a := &gitAction{spec: spec, world: world}
		if err := errors.Join(a.checkRepository(), a.checkChanges(), spec.check(), a.checkRequest()); err != nil {
			return nil, err
		}
		return a, nil
	}
}

func (a *gitAction) checkRepository() (err error) {
	if a.address, err = git.ParseAddress(a.spec.Repository); err != nil {
		return trigger.Field("repository", "%w", err)
	}
	if !a.address.SSH() {
		if _, err := a.world.client.checkURL(a.spec.Repository); err != nil {
			return trigger.Field("repository", "%w", err)
		}
	}
	return a.spec.Auth.check(a.address)
}

func (a gitAuth) check(to git.Address) error {
	errs := []error{present("auth.token", a.Token), present("auth.passphrase", a.Passphrase), a.App.check()}
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	if to.SSH() {
		if a.SSHKey.IsZero() {
			fault("auth.sshKey", "is missing: the private key of a deploy key, {file: PATH}")
		} else if _, err := readKey(a.SSHKey, a.Passphrase); err != nil {
			fault("auth.sshKey", "%w", err)
		}
		if !a.Token.IsZero() || a.App != nil || a.User != "" {
			fault("auth", "user, token and app are for https; by SSH give sshKey")
		}
		if a.AnyHostKey && a.KnownHosts != "" {
			fault("auth.anyHostKey", "there is knownHosts, too; give one of them")
		}
		return errors.Join(errs...)
	}
	if !a.SSHKey.IsZero() || a.KnownHosts != "" || a.AnyHostKey {
		fault("auth", "sshKey, knownHosts and anyHostKey are for SSH; by https give token")
	}
	if a.App != nil && (!a.Token.IsZero() || a.User != "") {
		fault("auth.app", "there is a user or token, too; give one of them")
	}
	if a.User != "" && a.Token.IsZero() {
		fault("auth.token", "is missing: the token or password of user %s", a.User)
	}
	return errors.Join(errs...)
}

func (s gitSpec) check() error {
	errs := []error{present("sign.passphrase", s.Sign.Passphrase)}
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	if err := git.CheckBranch(s.Branch); err != nil {
		fault("branch", "%w", err)
	}
	if err := git.CheckBranch(cmp.Or(s.PushTo, s.Branch)); err != nil {
		fault("pushTo", "%w", err)
	}
	if s.PushTo == s.Branch {
		fault("pushTo", "is the branch itself; leave it out to push there")
	}
	if s.Pin != pinTag && s.Pin != pinDigest {
		fault("pin", "must be tag or digest, not %q", s.Pin)
	}
	if _, err := mail.ParseAddress("<" + s.Author.Email + ">"); err != nil {
		fault("author.email", "%q is not an address", s.Author.Email)
	}
	if s.Author.Name == "" || strings.ContainsAny(s.Author.Name, "<>\n\r\x00") {
		fault("author.name", "%q is not a name", s.Author.Name)
	}
	if !s.Sign.SSH.IsZero() && !s.Sign.GPG.IsZero() {
		fault("sign", "there are a key of SSH and one of GPG; give one of them")
	}
	if _, err := s.Sign.signer(); err != nil {
		fault("sign", "%w", err)
	}
	if s.Gather < 0 || s.Gather > gitGather {
		fault("gather", "must be at most %s", gitGather)
	}
	return errors.Join(errs...)
}

// signer is nil when commits are not signed.
func (s gitSign) signer() (git.Signer, error) {
	switch {
	case !s.SSH.IsZero():
		key, err := readKey(s.SSH, s.Passphrase)
		if err != nil {
			return nil, err
		}
		return git.SignSSH(key), nil
	case !s.GPG.IsZero():
		key, passphrase, err := readBoth(s.GPG, s.Passphrase)
		if err != nil {
			return nil, err
		}
		signer, err := git.ParseGPG(key, passphrase)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.GPG, err)
		}
		return signer, nil
	}
	return nil, nil
}

func readKey(key, passphrase secret.Ref) (git.Key, error) {
	text, word, err := readBoth(key, passphrase)
	if err != nil {
		return nil, err
	}
	parsed, err := git.ParseKey(text, word)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return parsed, nil
}

// readBoth reads a key and the passphrase that it may have.
func readBoth(key, passphrase secret.Ref) (text, word string, err error) {
	if text, err = key.Read(); err == nil && !passphrase.IsZero() {
		word, err = passphrase.Read()
	}
	return text, word, err
}

func (a *gitAction) checkChanges() error {
	var errs []error
	if len(a.spec.Changes) == 0 {
		errs = append(errs, trigger.Field("changes", "is missing: what to set, as in [{file: apps/web/kustomization.yaml, kustomize: registry.example.com/shop/web}]"))
	}
	for _, c := range a.spec.Changes {
		place, err := c.compile()
		if err != nil {
			errs = append(errs, trigger.Field("changes", "%s: %w", cmp.Or(c.File, "file"), err))
		}
		a.places = append(a.places, place)
	}
	return errors.Join(errs...)
}

func (c gitChange) compile() (p gitPlace, err error) {
	if c.File == "" || path.IsAbs(c.File) || path.Clean(c.File) != c.File || strings.HasPrefix(c.File, "..") || !doublestar.ValidatePattern(c.File) {
		return p, errors.New("must be a file below the repository's root, as apps/web/values.yaml, or a pattern as apps/**/*.yaml")
	}
	p.file = c.File
	var ways []string
	for _, way := range [][2]string{{"kustomize", c.Kustomize}, {"helm", c.Helm}, {"path", c.Path}, {"marker", c.Marker}} {
		if way[1] != "" {
			ways, p.what = append(ways, way[0]), way[0]+" "+way[1]
		}
	}
	switch {
	case len(ways) != 1:
		return p, fmt.Errorf("give one of kustomize, helm, path and marker, not %d", len(ways))
	case c.Path == "" && (c.Value != "" || c.Text != ""):
		return p, errors.New("value and text are for path")
	case c.Value != "" && c.Text != "":
		return p, errors.New("there are a value and a text; give one of them")
	}
	switch ways[0] {
	case "kustomize":
		p.find = manifest.Kustomize(c.Kustomize)
	case "marker":
		if !strings.Contains(c.Marker, ":") {
			return p, fmt.Errorf("marker %q must be as in the comments, without a :tag behind it: NAMESPACE:NAME", c.Marker)
		}
		p.find = manifest.Marked(c.Marker)
	default:
		p.find, err = c.field()
	}
	return p, err
}

func (c gitChange) field() (manifest.Place, error) {
	way, err := fieldpath.Parse(cmp.Or(c.Helm, c.Path))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s %w", cmp.Or(c.Helm, c.Path), err)
	case c.Helm != "":
		return manifest.Helm(way), nil
	case c.Text != "":
		return manifest.Text(way, c.Text), nil
	}
	switch c.Value {
	case manifest.Whole, manifest.Tag, manifest.Digest, manifest.Repository:
		return manifest.Field(way, c.Value), nil
	}
	return nil, fmt.Errorf("value must say what the field holds: image, tag, digest or repository, not %q", c.Value)
}

// Target names the places. Each has a lane of its own: a run for one image
// must not take the place of a run for another.
func (a *gitAction) Target() string {
	var places []string
	for _, p := range a.places {
		places = append(places, p.file+" "+p.what)
	}
	t := "git " + a.address.Hostname() + "/" + a.address.Name() + " " + a.spec.Branch + ": " + strings.Join(places, ", ")
	switch {
	case a.spec.Request != nil:
		t += " by pull request"
		if a.spec.PushTo != "" {
			t += " from " + a.spec.PushTo
		}
	case a.spec.PushTo != "":
		t += " on " + a.spec.PushTo
	}
	if a.spec.DryRun {
		t += " as a rehearsal"
	}
	return t
}
