// Package git changes files of a repository on a server: it reads the newest
// state of a branch, makes a commit on top of it and pushes that, without a
// work tree and without a git program. A branch only ever moves forward: what
// others have pushed meanwhile is an error, [ErrMoved], and never overwritten.
//
// It knows nothing of runs, images or what is in the files.
package git

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// Remote is a repository on a server, and what is needed to get in.
type Remote struct {
	Address
	User, Token string // over HTTP; none for a repository that anybody may push to
	Key         Key
	HostKeys    HostKeys

	Client *http.Client
	Dial   func(ctx context.Context, network, address string) (net.Conn, error) // for SSH
}

// Address is where a repository is.
type Address struct {
	text   string
	ssh    bool
	scheme string
	user   string // of SSH
	Host   string // with the port where one is given
	Path   string
}

var (
	// scpForm is how people write ssh: git@host:shop/deploy.git.
	scpForm = regexp.MustCompile(`^(?:([A-Za-z0-9._-]+)@)?([A-Za-z0-9.-]+):([^/].*)$`)

	// repositoryPath has nothing that a shell on the other side, or a person,
	// could take for something else.
	repositoryPath = regexp.MustCompile(`^[A-Za-z0-9._~/+@-]+$`)
)

// ParseAddress reads what people give to git clone, of HTTP and SSH.
func ParseAddress(s string) (Address, error) {
	a := Address{text: s}
	if m := scpForm.FindStringSubmatch(s); m != nil && !strings.Contains(s, "://") {
		a.ssh, a.scheme, a.user, a.Host, a.Path = true, "ssh", m[1], m[2], m[3]
	} else {
		u, err := url.Parse(s)
		switch {
		case s == "":
			return a, errors.New("is missing: what you give to git clone, https://… or git@…")
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" && u.Scheme != "ssh":
			return a, errors.New("must be what you give to git clone: https://HOST/PATH, ssh://git@HOST/PATH or git@HOST:PATH")
		case u.RawQuery != "" || u.Fragment != "":
			return a, errors.New("must not have a ?query or a #fragment")
		}
		if _, password := u.User.Password(); password || u.User != nil && u.Scheme != "ssh" {
			return a, errors.New("must not hold a user or password; secrets are references, in `auth`")
		}
		a.ssh, a.scheme, a.user, a.Host, a.Path = u.Scheme == "ssh", u.Scheme, u.User.Username(), u.Host, strings.TrimRight(u.Path, "/")
	}
	if !repositoryPath.MatchString(a.Path) || strings.Contains(a.Path, "..") {
		return a, fmt.Errorf("the path %q is not that of a repository", a.Path)
	}
	return a, nil
}

func (a Address) String() string { return a.text }

// SSH reports whether it is reached by SSH.
func (a Address) SSH() bool { return a.ssh }

// Hostname is the host without a port.
func (a Address) Hostname() string {
	return (&url.URL{Host: a.Host}).Hostname()
}

// Name is the path for people and for APIs: shop/deploy.
func (a Address) Name() string {
	return strings.TrimSuffix(strings.Trim(a.Path, "/"), ".git")
}

// CheckBranch refuses what git would not take for the name of a branch.
func CheckBranch(name string) error {
	if err := plumbing.NewBranchReferenceName(name).Validate(); err != nil || name == "" || strings.HasPrefix(name, "-") {
		return fmt.Errorf("%q is not the name of a branch", name)
	}
	return nil
}
