package action

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/dockbell/dockbell/trigger"
)

// httpSpec calls a URL.
type httpSpec struct {
	URL        value            `yaml:"url"` // a secret when the address itself is one, as of chat hooks
	Method     string           `yaml:"method"`
	Headers    map[string]value `yaml:"headers"`
	Body       string           `yaml:"body"`
	JSON       any              `yaml:"json"`       // written as JSON, so that no value can break out of its place
	Sign       *signSpec        `yaml:"sign"`       // so that the receiver knows who calls
	Expect     []string         `yaml:"expect"`     // statuses of success: 200, "2xx"
	RetryOn    []int            `yaml:"retryOn"`    // statuses after which a repeat is safe, beside those that always say so
	Repeatable bool             `yaml:"repeatable"` // the receiver takes a second call for what it is
	TLS        tlsSpec          `yaml:"tls"`
	Proxy      value            `yaml:"proxy"` // instead of that of `outbound`
}

// tlsSpec names the files, in PEM form, with which dockbell shows who it is and
// knows the other side.
type tlsSpec struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	CA   string `yaml:"ca"`
}

type httpAction struct {
	client *Client
	spec   httpSpec
	body   []byte
	shown  string
}

// HTTP builds actions that call a URL.
func HTTP(client *Client) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		spec := httpSpec{Method: http.MethodPost, Expect: []string{"2xx"}}
		if err := decode(&spec); err != nil {
			return nil, err
		}
		a := &httpAction{client: client, spec: spec, body: []byte(spec.Body), shown: spec.URL.ref.String()}
		var errs []error
		if spec.JSON != nil {
			var err error
			if a.body, err = json.Marshal(spec.JSON); err != nil {
				errs = append(errs, trigger.Field("json", "cannot be written as JSON: %w", err))
			}
		}
		address, err := spec.URL.read()
		if err == nil {
			_, err = client.checkURL(address)
		}
		if err != nil {
			errs = append(errs, trigger.Field("url", "%w", err))
		}
		if !spec.URL.isSecret() {
			a.shown = showURL(address)
		}
		a.client, err = spec.client(client)
		if err := errors.Join(append(errs, err, spec.check(), spec.Sign.check())...); err != nil {
			return nil, err
		}
		return a, nil
	}
}

var (
	methodName   = regexp.MustCompile(`^[A-Z][A-Z-]{1,19}$`)
	notMethods   = []string{http.MethodConnect, http.MethodTrace}
	ownHeaders   = []string{"Connection", "Content-Length", "Host", "Transfer-Encoding"}
	headerName   = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
	headerText   = regexp.MustCompile(`^[^\x00-\x08\x0a-\x1f\x7f]*$`)
	statusOrMany = regexp.MustCompile(`^[1-5]([0-9]{2}|xx)$`)
)

func (s httpSpec) check() error {
	var errs []error
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	if !methodName.MatchString(s.Method) || slices.Contains(notMethods, s.Method) {
		fault("method", "must be a method as GET or POST, in capitals, not %q", s.Method)
	}
	if s.JSON != nil && s.Body != "" {
		fault("json", "there is a body too; give one of them")
	}
	if s.Method == http.MethodGet || s.Method == http.MethodHead {
		if s.JSON != nil || s.Body != "" {
			fault("method", "a %s has no body", s.Method)
		}
	}
	if s.bodyIsJSON() {
		fault("body", `is JSON: write it below json, as in json: {tag: "{{.Tag}}"}, where no value can break out of its string`)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		text, err := s.Headers[name].read()
		switch {
		case err != nil:
			fault("headers."+name, "%w", err)
		case !headerName.MatchString(name):
			fault("headers."+name, "%q is not a header name", name)
		case slices.Contains(ownHeaders, http.CanonicalHeaderKey(name)):
			fault("headers."+name, "is set by dockbell itself")
		case !headerText.MatchString(text):
			fault("headers."+name, "a header must be one line")
		}
	}
	if len(s.Expect) == 0 {
		fault("expect", "must name at least one status")
	}
	for _, e := range s.Expect {
		if !statusOrMany.MatchString(e) {
			fault("expect", `must hold statuses such as 200 or "2xx", not %q`, e)
		}
	}
	for _, status := range s.RetryOn {
		if status < 300 || status > 599 {
			fault("retryOn", "must hold statuses such as 502, not %d", status)
		}
	}
	return errors.Join(errs...)
}

// bodyIsJSON reports whether the body is a JSON document, by what its type says
// or, where nothing is said of that, by its looks.
func (s httpSpec) bodyIsJSON() bool {
	if s.Body == "" {
		return false
	}
	for name, v := range s.Headers {
		if strings.EqualFold(name, "Content-Type") {
			kind, _, _ := strings.Cut(strings.ToLower(v.text), ";")
			return strings.HasSuffix(kind, "/json") || strings.HasSuffix(kind, "+json")
		}
	}
	return strings.ContainsAny(s.Body[:1], "{[ \n") && json.Valid([]byte(s.Body))
}

// client is the one that everything is called with, unless the action goes a
// way of its own. Files are read anew for each try: they are rotated.
func (s httpSpec) client(common *Client) (*Client, error) {
	if s.TLS == (tlsSpec{}) && s.Proxy == (value{}) {
		return common, nil
	}
	var errs [3]error
	var cert tls.Certificate
	switch {
	case (s.TLS.Cert == "") != (s.TLS.Key == ""):
		errs[0] = trigger.Field("tls", "needs cert and key, two files")
	case s.TLS.Cert != "":
		if cert, errs[0] = tls.LoadX509KeyPair(s.TLS.Cert, s.TLS.Key); errs[0] != nil {
			errs[0] = trigger.Field("tls", "%w", trigger.Retry(errs[0]))
		}
	}
	trusted, err := trust("tls.ca", s.TLS.CA)
	errs[1] = err
	proxy, err := proxyOf(s.Proxy)
	errs[2] = err
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return common.with(func(w *way) {
		if s.TLS.Cert != "" {
			w.tls.Certificates = []tls.Certificate{cert}
		}
		if s.TLS.CA != "" {
			w.tls.RootCAs = trusted.RootCAs
		}
		if s.Proxy != (value{}) {
			w.proxy = proxy
		}
	}), nil
}

// Target names the URL without what may be secret in it.
func (a *httpAction) Target() string { return a.spec.Method + " " + a.shown }

// Do makes the request. Its Idempotency-Key is the same for every try of the
// run, so that a receiver that knows the header takes a repeat for what it is.
func (a *httpAction) Do(ctx context.Context, run trigger.Run, log io.Writer) error {
	c, err := a.call(run)
	if err != nil {
		return trigger.Retry(err) // a secret that is not there; nothing was sent
	}
	got, err := c.do(ctx)
	switch {
	case err != nil:
		return err
	case a.expects(got.status):
		fmt.Fprintln(log, c.hide(got.String()))
		if says := got.text(); says != "" {
			fmt.Fprintln(log, says)
		}
		return nil
	case slices.Contains(a.spec.RetryOn, got.status):
		return got.retry(got.words())
	}
	return got.fault("expected " + strings.Join(a.spec.Expect, " or "))
}

func (a *httpAction) call(run trigger.Run) (*call, error) {
	address, err := a.spec.URL.read()
	if err != nil {
		return nil, err
	}
	c := newCall(a.client, a.spec.Method, address, a.shown)
	c.body = a.body
	c.harmless = c.harmless || a.spec.Repeatable
	key := "dockbell-" + strconv.FormatInt(run.ID, 10)
	c.header.Set("Idempotency-Key", key)
	if a.spec.JSON != nil {
		c.header.Set("Content-Type", "application/json")
	}
	for name, v := range a.spec.Headers {
		text, err := v.read()
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", name, err)
		}
		if v.isSecret() {
			c.secrets = append(c.secrets, text)
		}
		c.header.Set(name, text)
	}
	return c, a.spec.Sign.sign(c, key)
}

func (a *httpAction) expects(status int) bool {
	s := strconv.Itoa(status)
	return slices.Contains(a.spec.Expect, s) || slices.Contains(a.spec.Expect, s[:1]+"xx")
}
