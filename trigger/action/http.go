package action

import (
	"context"
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
	URL     value            `yaml:"url"` // a secret when the address itself is one, as of chat hooks
	Method  string           `yaml:"method"`
	Headers map[string]value `yaml:"headers"`
	Body    string           `yaml:"body"`
	JSON    any              `yaml:"json"`    // written as JSON, so that no value can break out of its place
	Expect  []string         `yaml:"expect"`  // statuses of success: 200, "2xx"
	RetryOn []int            `yaml:"retryOn"` // statuses after which a repeat is safe, beside those that always say so
}

type httpAction struct {
	client *http.Client
	spec   httpSpec
	body   []byte
	shown  string
}

// HTTP builds actions that call a URL.
func HTTP(client *http.Client) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		spec := httpSpec{Method: http.MethodPost, Expect: []string{"2xx"}}
		if err := decode(&spec); err != nil {
			return nil, err
		}
		a := &httpAction{client: client, spec: spec, body: []byte(spec.Body), shown: spec.URL.ref.String()}
		var jsonErr error
		if spec.JSON != nil {
			if a.body, jsonErr = json.Marshal(spec.JSON); jsonErr != nil {
				jsonErr = trigger.Field("json", "cannot be written as JSON: %w", jsonErr)
			}
		}
		address, urlErr := spec.URL.read()
		if urlErr == nil {
			_, urlErr = checkURL(address)
		}
		if urlErr != nil {
			urlErr = trigger.Field("url", "%w", urlErr)
		}
		if !spec.URL.isSecret() {
			a.shown = showURL(address)
		}
		if err := errors.Join(urlErr, jsonErr, spec.check()); err != nil {
			return nil, err
		}
		return a, nil
	}
}

var (
	methods      = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
	ownHeaders   = []string{"Connection", "Content-Length", "Host", "Transfer-Encoding"}
	headerName   = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
	headerText   = regexp.MustCompile(`^[^\x00-\x08\x0a-\x1f\x7f]*$`)
	statusOrMany = regexp.MustCompile(`^[1-5]([0-9]{2}|xx)$`)
)

func (s httpSpec) check() error {
	var errs []error
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	if !slices.Contains(methods, s.Method) {
		fault("method", "must be one of %s, not %q", strings.Join(methods, ", "), s.Method)
	}
	if s.JSON != nil && s.Body != "" {
		fault("json", "there is a body too; give one of them")
	}
	if s.Method == http.MethodGet || s.Method == http.MethodHead {
		if s.JSON != nil || s.Body != "" {
			fault("method", "a %s has no body", s.Method)
		}
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
		fmt.Fprintln(log, c.hide(strings.TrimSpace(got.String()+" "+got.excerpt())))
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
	c.header.Set("Idempotency-Key", "dockbell-"+strconv.FormatInt(run.ID, 10))
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
	return c, nil
}

func (a *httpAction) expects(status int) bool {
	s := strconv.Itoa(status)
	return slices.Contains(a.spec.Expect, s) || slices.Contains(a.spec.Expect, s[:1]+"xx")
}
