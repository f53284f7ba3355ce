// Package source turns what registries send into events: bytes in, events
// out. It authenticates a request, answers the handshake of senders that have
// one, and parses the rest. It knows nothing of rules, runs or storage, and a
// parser sees neither the request nor the reply.
package source

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// Sender is how one vendor speaks: a row in the table of senders.
type Sender struct {
	// Parse understands a body. Events that can start nothing have Ignored
	// set; no events at all is understood, too; an error means the body is
	// not what this vendor sends, and becomes a 400.
	Parse func(h http.Header, body []byte) ([]trigger.Event, error)

	// Handshake answers a request that is not a delivery but the vendor's
	// check of the endpoint; nil when it is a delivery. Optional.
	Handshake func(h http.Header, body []byte) *Reply

	// Options answers an OPTIONS request, which carries no credentials.
	// Optional: without it OPTIONS is 405.
	Options func(h http.Header) *Reply

	// Recognise reports whether a request looks like this sender's, for a
	// source that takes deliveries of several. It is not asked whether the
	// request is a push or can be parsed. No two senders recognise the same
	// request, except those that send the very same form.
	Recognise func(l look) bool

	// Signature is how the vendor itself signs with a shared secret, for
	// `auth: {signature: REF}`. Nil when it does not.
	Signature *Signature

	// Sample makes a delivery as the vendor would send it for a push of the
	// image at that time, so that rules can be tried before a registry sends.
	// Credentials are added by the source.
	Sample func(img trigger.Image, at time.Time) (http.Header, []byte)
}

// Signature is a vendor's way to sign: the hex digits of an HMAC in a header.
type Signature struct {
	Header    string
	Algorithm string // sha1, sha256 or sha512
	Prefix    string // before the digits, as in sha256=
	Optional  bool   // the prefix may be missing

	// Signed gives the bytes that are signed; nil when that is the body.
	Signed func(h http.Header, body []byte) []byte
}

// Reply is the answer to a handshake.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// senders is the table of all vendors. One row and one file make a vendor.
var senders = map[string]Sender{
	"aliyun":          {Parse: parseAliyun},
	"azure-eventgrid": {Parse: parseEventGrid, Handshake: eventGridHandshake, Options: eventGridOptions},
	"distribution":    {Parse: parseDistribution},
	"dockerhub":       {Parse: parseDockerHub},
}

// Types are the names of all senders, sorted.
func Types() []string {
	return slices.Sorted(maps.Keys(senders))
}

// spec is a source as it stands in the configuration.
type spec struct {
	Type     string    `yaml:"type"`
	Auth     yaml.Node `yaml:"auth"`
	Registry string    `yaml:"registry"`
	Callback bool      `yaml:"callback"`
}

// Source is one configured sender.
type Source struct {
	Name     string
	sender   Sender
	auth     auth
	registry string
	callback bool
}

// Load makes a source from its place in the configuration; what is wrong
// there is reported as faults of the node, and nil returned.
func Load(name string, n strictyaml.Node) *Source {
	var s spec
	ok := n.Decode(&s)
	sender, known := senders[s.Type]
	if !known {
		n.Key("type").Faultf("unknown type %q; known are %s", s.Type, strings.Join(Types(), ", "))
		ok = false
	}
	if s.Callback && s.Type != "dockerhub" {
		n.Key("callback").Faultf("only dockerhub has a callback")
		ok = false
	}
	if s.Registry != "" {
		if _, err := trigger.NewImage(s.Registry, "any", "", ""); err != nil {
			n.Key("registry").Fault(err)
			ok = false
		}
	}
	if !n.Has("auth") {
		n.Faultf("auth is missing: say how this source authenticates itself, or `auth: none` to accept requests from anybody")
		return nil
	}
	auth, authOK := loadAuth(n.Key("auth"))
	if !ok || !authOK {
		return nil
	}
	return &Source{Name: name, sender: sender, auth: auth, registry: trigger.NormalRegistry(s.Registry), callback: s.Callback}
}

// ErrUnauthorized is what Verify returns for wrong or missing credentials.
var ErrUnauthorized = errors.New("unauthorized")

// Verify checks the credentials of a request. Every failure is
// ErrUnauthorized, except a secret that cannot be read, which is the
// operator's fault and not the sender's.
func (s *Source) Verify(query url.Values, h http.Header, body []byte) error {
	if s.auth.verify == nil {
		return nil
	}
	secret, err := s.auth.secret.Read()
	if err != nil {
		return err
	}
	if !s.auth.verify(secret, query, h, body) {
		return ErrUnauthorized
	}
	return nil
}

// Hidden names the headers and query parameters that carry the credentials:
// they are not recorded.
func (s *Source) Hidden() []string { return s.auth.hidden }

// Handshake answers the vendor's check of the endpoint, or returns nil.
func (s *Source) Handshake(h http.Header, body []byte) *Reply {
	if s.sender.Handshake == nil {
		return nil
	}
	return s.sender.Handshake(h, body)
}

// Options answers an OPTIONS request, or returns nil when this sender makes
// none.
func (s *Source) Options(h http.Header) *Reply {
	if s.sender.Options == nil {
		return nil
	}
	return s.sender.Options(h)
}

// Parse gives the events of a delivery with what the source's configuration
// adds to them.
func (s *Source) Parse(h http.Header, body []byte) ([]trigger.Event, error) {
	events, err := s.sender.Parse(h, body)
	if err != nil {
		return nil, fmt.Errorf("not a valid delivery: %w", err)
	}
	for i := range events {
		e := &events[i]
		e.Source = s.Name
		e.Actor = printable(e.Actor)
		e.MediaType = printable(e.MediaType)
		e.ID = printable(e.ID)
		e.Ignored = printable(e.Ignored)
		e.Image = s.image(e.Image)
		if !s.callback {
			e.Callback = ""
		}
	}
	return events, nil
}

// image is the image in the registry that the configuration names.
func (s *Source) image(img trigger.Image) trigger.Image {
	if s.registry == "" || img.Repository == "" {
		return img
	}
	named, err := trigger.NewImage(s.registry, img.Repository, img.Tag, img.Digest)
	if err != nil {
		return img
	}
	return named
}

// printable keeps what a sender wrote freely on one short, visible line: it
// reaches logs, templates and environments.
func printable(s string) string {
	const most = 256
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}
