// Package source turns what registries send into events: bytes in, events
// out. It authenticates a request, answers the handshake of senders that have
// one, and parses the rest. It knows nothing of rules, runs or storage, and a
// parser sees neither the request nor the reply.
package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
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

	// Get is set when the vendor can be told to deliver by GET, with the
	// payload in the query.
	Get bool

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

	// Confirm is an address that must be visited before the reply is true.
	// Only for requests whose sender has been proven.
	Confirm string
}

// senders is the table of all vendors. One row and one file make a vendor.
var senders = map[string]Sender{
	"aliyun":          {Parse: parseAliyun, Recognise: recogniseAliyun, Sample: sampleAliyun},
	"aws-ecr":         {Parse: parseECR, Handshake: ecrHandshake, Recognise: recogniseECR, Sample: sampleECR},
	"azure-acr":       {Parse: parseACR, Recognise: recogniseACR, Sample: sampleACR},
	"azure-eventgrid": {Parse: parseEventGrid, Handshake: eventGridHandshake, Options: cloudEventsOptions, Recognise: recogniseEventGrid, Sample: sampleEventGrid},
	"cdevents":        {Parse: parseCDEvents, Options: cloudEventsOptions, Recognise: recogniseCDEvents, Sample: sampleCDEvents},
	"cloudevents":     {Parse: parseCloudEvents, Options: cloudEventsOptions, Recognise: recogniseCloudEvents, Sample: sampleCloudEvents},
	"cloudsmith":      {Parse: parseCloudsmith, Recognise: recogniseCloudsmith, Signature: &Signature{Header: "X-Cloudsmith-Signature", Algorithm: "sha1", Prefix: "sha1=", Optional: true}, Sample: sampleCloudsmith},
	"distribution":    {Parse: parseDistribution, Recognise: recogniseDistribution, Sample: sampleDistribution},
	"dockerhub":       {Parse: parseDockerHub, Recognise: recogniseDockerHub, Sample: sampleDockerHub},
	"gitea":           {Get: true, Parse: parseGitea, Recognise: recogniseGitea, Signature: &Signature{Header: "X-Gitea-Signature", Algorithm: "sha256", Signed: payload}, Sample: sampleGitea},
	"github":          {Parse: parseGitHub, Recognise: recogniseGitHub, Signature: &Signature{Header: "X-Hub-Signature-256", Algorithm: "sha256", Prefix: "sha256="}, Sample: sampleGitHub},
	genericType:       generic(usualFields),
	"gitlab":          {Parse: parseDistribution, Recognise: recogniseGitLab, Sample: sampleGitLab},
	"google-gar":      {Parse: parseGoogle, Recognise: recogniseGAR, Sample: sampleGAR},
	"google-gcr":      {Parse: parseGoogle, Recognise: recogniseGCR, Sample: sampleGCR},
	"harbor":          {Parse: parseHarbor, Recognise: recogniseHarbor, Sample: sampleHarbor},
	"huawei-swr":      {Parse: parseSWR, Recognise: recogniseSWR, Sample: sampleSWR},
	"jfrog":           {Parse: parseJFrog, Recognise: recogniseJFrog, Signature: &Signature{Header: jfrogAuth, Algorithm: "sha256"}, Sample: sampleJFrog},
	"nexus":           {Parse: parseNexus, Recognise: recogniseNexus, Signature: &Signature{Header: "X-Nexus-Webhook-Signature", Algorithm: "sha1"}, Sample: sampleNexus},
	"quay":            {Parse: parseQuay, Recognise: recogniseQuay, Sample: sampleQuay},
	"tencent-tcr":     {Parse: parseTCR, Recognise: recogniseTCR, Sample: sampleTCR},
	"zot":             {Parse: parseZot, Recognise: recogniseZot, Sample: sampleZot},
}

// Types are the names of all types of sources that receive, sorted.
func Types() []string {
	return slices.Sorted(maps.Keys(senders))
}

// spec is a source as it stands in the configuration.
type spec struct {
	Type     string    `yaml:"type"`
	Auth     yaml.Node `yaml:"auth"`
	From     []string  `yaml:"from"`
	Registry string    `yaml:"registry"`
	Callback bool      `yaml:"callback"`
	Fields   yaml.Node `yaml:"fields"`
	Senders  yaml.Node `yaml:"senders"`
}

// Source is one configured sender, or several of them.
type Source struct {
	Name string
	Type string

	sender   Sender
	auth     auth
	from     []netip.Prefix // whose requests are let in; none means anybody's
	registry string
	callback bool
	aliases  trigger.Aliases
	client   *http.Client
	senders  []*Source // of a source of type auto
}

// Outside is what sources need of the rest of the world.
type Outside struct {
	// Client fetches the keys and certificates of who signs, when a request
	// comes and not while loading. Nil is good for sources that are only
	// looked at.
	Client *http.Client

	// Aliases give registries that have several names one.
	Aliases trigger.Aliases
}

// Load makes a source from its place in the configuration; what is wrong
// there is reported as faults of the node, and nil returned.
func Load(name string, n strictyaml.Node, out Outside) *Source {
	if out.Client == nil {
		out.Client = &http.Client{Timeout: confirmTime}
	}
	return loadAs(name, "", n, out)
}

// loadAs makes a source of the kind given, or of the one that it says when none
// is.
func loadAs(name, kind string, n strictyaml.Node, out Outside) *Source {
	var s spec
	ok := n.Decode(&s)
	fault := func(key, format string, args ...any) {
		n.Key(key).Faultf(format, args...)
		ok = false
	}
	if kind != "" && s.Type != "" {
		fault("type", "is said by the key above")
	}
	src := &Source{Name: name, Type: cmp.Or(kind, s.Type), registry: trigger.NormalRegistry(s.Registry), callback: s.Callback, aliases: out.Aliases, client: out.Client}
	var known bool
	src.sender, known = senders[src.Type]
	auto := kind == "" && src.Type == AutoType
	switch {
	case auto:
	case !known:
		n.Key("type").Faultf("unknown type %q; known are %s, %s, %s", src.Type, strings.Join(Types(), ", "), AutoType, PollType)
		ok = false
	}
	if s.Callback && src.Type != "dockerhub" {
		fault("callback", "only dockerhub has a callback")
	}
	if n.Has("fields") && src.Type != genericType {
		fault("fields", "only %s has fields", genericType)
	} else if n.Has("fields") {
		fields, good := loadFields(n.Key("fields"))
		src.sender, ok = generic(fields), ok && good
	}
	if s.Registry != "" {
		if _, err := trigger.NewImage(s.Registry, "any", "", ""); err != nil {
			n.Key("registry").Fault(err)
			ok = false
		}
	}
	for i, network := range s.From {
		prefix, err := ParseNetwork(network)
		if err != nil {
			n.Key("from").Items()[i].Fault(err)
			ok = false
		}
		src.from = append(src.from, prefix)
	}
	if n.Has("senders") && !auto {
		fault("senders", "only %s has senders", AutoType)
	}
	if auto {
		return src.loadAuto(n, ok, out)
	}
	if !n.Has("auth") {
		n.Faultf("auth is missing: say how this source authenticates itself, or `auth: none` to accept requests from anybody")
		return nil
	}
	var authOK bool
	src.auth, authOK = loadAuth(n.Key("auth"), src.sender.Signature, out.Client)
	if authOK && src.Type != "aws-ecr" && src.auth.provesVendor() {
		n.Key("auth").Faultf("sns goes with aws-ecr: only its messages are what Amazon signs")
		authOK = false
	}
	if !ok || !authOK {
		return nil
	}
	return src
}

// ParseNetwork reads an address, 203.0.113.7, or a network, 203.0.113.0/24.
func ParseNetwork(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return prefix, fmt.Errorf("%q is neither an address nor a network as 203.0.113.0/24", s)
	}
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), nil
}

// ErrUnauthorized is what Verify returns for wrong or missing credentials.
var ErrUnauthorized = errors.New("unauthorized")

// Admit refuses a request by what comes before its body, where no body could
// make it good. Its errors are those of Verify.
func (s *Source) Admit(ctx context.Context, r Request) error {
	if err := s.admitFrom(r.From); err != nil {
		return err
	}
	if s.senders == nil {
		return s.auth.early(ctx, r)
	}
	var refused error
	for _, sender := range s.senders {
		err := sender.Admit(ctx, r)
		if err == nil {
			return nil
		}
		refused = cmp.Or(refused, err)
	}
	return refused
}

func (s *Source) admitFrom(from netip.Addr) error {
	if len(s.from) > 0 && !slices.ContainsFunc(s.from, func(p netip.Prefix) bool { return p.Contains(from.Unmap()) }) {
		return fmt.Errorf("%w: %s is not one of the addresses that the source takes requests from", ErrUnauthorized, from)
	}
	return nil
}

// Verify checks who sent a request, and gives the source to go on with: this
// one, or that of its senders which the request is from. Every failure is an
// ErrUnauthorized, except when the credentials cannot be checked now, which is
// not the sender's fault.
func (s *Source) Verify(ctx context.Context, r Request) (*Source, error) {
	if err := s.admitFrom(r.From); err != nil {
		return nil, err
	}
	if s.senders != nil {
		return recognise(ctx, s.senders, r)
	}
	if err := s.auth.verify(ctx, r); err != nil {
		return nil, err
	}
	return s, nil
}

// Hidden names the headers and query parameters that carry the credentials:
// they are not recorded.
func (s *Source) Hidden() []string { return s.auth.hidden() }

// Handshake answers the vendor's check of the endpoint, or returns nil.
func (s *Source) Handshake(h http.Header, body []byte) *Reply {
	if s.sender.Handshake == nil {
		return nil
	}
	return s.sender.Handshake(h, body)
}

// confirmTime is how long the visit of an address may take.
const confirmTime = 10 * time.Second

// ErrUnproven is what Confirm returns when it visits nothing.
var ErrUnproven = errors.New("not confirmed, since nothing proves that the vendor itself sent this: confirm it by hand, or let the source's auth be sns with the topic")

// Confirm makes the reply to a handshake true where that takes a visit to an
// address of the vendor's. It visits none that the vendor has not signed
// (ErrUnproven).
func (s *Source) Confirm(ctx context.Context, r Request, reply *Reply) error {
	if reply.Confirm == "" {
		return nil
	}
	if !s.auth.proven(ctx, r) {
		return ErrUnproven
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, reply.Confirm, nil)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return fmt.Errorf("not confirmed: %s: %w", req.URL.Host, cmp.Or(errors.Unwrap(err), err)) // without the URL, which has a token
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("not confirmed: %s answered %s", req.URL.Host, resp.Status)
	}
	return nil
}

// Options answers an OPTIONS request, or returns nil when this sender makes
// none.
func (s *Source) Options(h http.Header) *Reply {
	for _, sender := range s.senders {
		if reply := sender.Options(h); reply != nil {
			return reply
		}
	}
	if s.sender.Options == nil {
		return nil
	}
	return s.sender.Options(h)
}

// TakesGet reports whether deliveries may come by GET, with the payload in the
// query.
func (s *Source) TakesGet() bool {
	return s.sender.Get || slices.ContainsFunc(s.senders, (*Source).TakesGet)
}

// NeedsCertificate reports whether senders may authenticate themselves by the
// certificate of their TLS client.
func (s *Source) NeedsCertificate() bool {
	return s.auth.needsCertificate() || slices.ContainsFunc(s.senders, (*Source).NeedsCertificate)
}

// Sample makes a request as the vendor would send it to this source for a push
// of the image: the body, the vendor's headers, and the credentials.
func (s *Source) Sample(img trigger.Image, at time.Time) (Request, error) {
	if s.sender.Sample == nil {
		return Request{}, fmt.Errorf("source %s is of type %s, which sends nothing by itself", s.Name, s.Type)
	}
	r := Request{Query: url.Values{}}
	r.Header, r.Body = s.sender.Sample(img, at)
	return r, s.auth.sign(r)
}

// Of gives the source of a type: this one, or that of its senders; nil when
// there is none.
func (s *Source) Of(kind string) *Source {
	if s.Type == kind {
		return s
	}
	for _, sender := range s.senders {
		if sender.Type == kind {
			return sender
		}
	}
	return nil
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

// image is the image in the registry that the configuration names, under that
// registry's one name.
func (s *Source) image(img trigger.Image) trigger.Image {
	registry := s.aliases.Canonical(cmp.Or(s.registry, img.Registry))
	if s.Type == genericType && s.registry != "" && img.Registry == trigger.DockerHub {
		img.Repository = strings.TrimPrefix(img.Repository, "library/") // it was added for want of a registry
	}
	if registry == img.Registry || img.Repository == "" {
		return img
	}
	named, err := trigger.NewImage(registry, img.Repository, img.Tag, img.Digest)
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
