package action

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// call is one request, with what must not be shown of it.
type call struct {
	client   *http.Client
	method   string
	url      string
	shown    string // the URL as people may see it
	header   http.Header
	body     []byte
	harmless bool     // may be repeated although it may have happened
	secrets  []string // never in an error or the log
}

// newCall makes a request with what all have in common.
func newCall(client *http.Client, method, url, shown string) *call {
	return &call{
		client: client, method: method, url: url, shown: shown,
		header:   http.Header{"User-Agent": {"dockbell"}},
		harmless: method == http.MethodGet || method == http.MethodHead || method == http.MethodPut || method == http.MethodDelete,
	}
}

// answer is what came back.
type answer struct {
	call   *call
	status int
	header http.Header
	body   []byte // its first bodyLimit bytes
}

// do makes the request once. Its error says whether a repeat is safe.
func (c *call) do(ctx context.Context) (*answer, error) {
	// Headers are reported as written before they leave their buffer, so
	// without that report the other side cannot have got a whole request.
	var sent atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	req, err := http.NewRequestWithContext(traced, c.method, c.url, bytes.NewReader(c.body))
	if err != nil {
		return nil, c.failed("cannot be made", err)
	}
	req.Header = c.header.Clone()
	resp, err := c.client.Do(req)
	var refused *refusedError
	switch {
	case err == nil:
		defer resp.Body.Close()
		// The status alone decides; a body that breaks off is an excerpt.
		body, _ := io.ReadAll(io.LimitReader(resp.Body, bodyLimit))
		return &answer{c, resp.StatusCode, resp.Header, body}, nil
	case errors.As(err, &refused):
		return nil, c.failed("was not sent", refused)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	switch {
	case !sent.Load():
		return nil, trigger.Retry(c.failed("could not be sent", err))
	case c.harmless:
		return nil, trigger.Retry(c.failed("got no answer", err))
	}
	return nil, c.failed("was sent and got no answer; it may have happened, so it is not repeated", err)
}

// failed words an error without the URL that [http.Client] puts into it.
func (c *call) failed(what string, err error) error {
	var full *url.Error
	if errors.As(err, &full) {
		err = full.Err
	}
	return errors.New(c.hide(fmt.Sprintf("%s %s %s: %s", c.method, c.shown, what, err)))
}

// checkStatus is nil for 2xx.
func (a *answer) checkStatus(hint string) error {
	if a.status/100 == 2 {
		return nil
	}
	return a.fault(hint)
}

// fault makes an error of an answer that is not what was wanted, with the
// advice of its kind. The package's documentation says what is repeated.
func (a *answer) fault(hint string) error {
	c := a.call
	uncertain := a.status == http.StatusInternalServerError || a.status == http.StatusBadGateway || a.status == http.StatusGatewayTimeout
	if location := a.header.Get("Location"); location != "" && a.status/100 == 3 {
		hint = strings.TrimPrefix(hint+"; ", "; ") + "it redirects to " + showURL(location) +
			", and a redirect is only followed on the same host, with TLS kept and for requests that stay what they are"
	}
	if uncertain && !c.harmless {
		hint = strings.TrimPrefix(hint+"; ", "; ") + "it may have happened, so it is not repeated"
	}
	msg := a.String()
	if hint != "" {
		msg += ": " + hint
	}
	if says := a.excerpt(); says != "" {
		msg += ". It says: " + says
	}
	err := errors.New(c.hide(msg))
	switch a.status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return a.retry(err)
	}
	if uncertain && c.harmless {
		return a.retry(err)
	}
	return err
}

func (a *answer) retry(err error) error {
	return &trigger.RetryError{Err: err, After: retryAfter(a.header.Get("Retry-After"), time.Now())}
}

func (a *answer) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s answered %d %s", a.call.method, a.call.shown, a.status, http.StatusText(a.status)))
}

var markup = regexp.MustCompile(`(?is)<(script|style|head)\b.*?</(?:script|style|head)>|<[^>]*>`)

// excerpt is the beginning of what the answer says, on one line.
func (a *answer) excerpt() string {
	s := a.call.hide(strings.ToValidUTF8(string(a.body), "�"))
	if strings.HasPrefix(strings.TrimSpace(s), "<") {
		s = a.call.hide(html.UnescapeString(markup.ReplaceAllString(s, " ")))
	}
	return clip(oneLine(s), excerptLimit)
}

// oneLine makes a string of others fit for a log.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
}

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// retryAfter reads the header of that name: seconds or a date.
func retryAfter(s string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.ParseInt(s, 10, 32); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(s); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), retryAfterLimit)
}

// hide blanks out the call's secrets in a text.
func (c *call) hide(s string) string { return hide(s, c.secrets) }

// hide blanks out secrets in every form in which they travel.
func hide(s string, secrets []string) string {
	var forms []string
	for _, secret := range secrets {
		plain := []string{secret}
		if _, credentials, ok := strings.Cut(secret, " "); ok {
			plain = append(plain, credentials) // of "Bearer abc"
		}
		for _, p := range plain {
			quoted, _ := json.Marshal(p) // a string always marshals
			forms = append(forms, p, url.QueryEscape(p), url.PathEscape(p), html.EscapeString(p), strings.Trim(string(quoted), `"`))
		}
	}
	// The longest first: one may be the beginning of another.
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })
	for _, form := range forms {
		if strings.TrimSpace(form) != "" {
			s = strings.ReplaceAll(s, form, "<secret>")
		}
	}
	return s
}

// showURL is a URL without what may be secret in it: the user and the query.
func showURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "a malformed URL"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

// checkURL checks that an address can be called.
func checkURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	var full *url.Error
	switch {
	case s == "":
		return nil, errors.New("is missing")
	case errors.As(err, &full):
		return nil, fmt.Errorf("is not a URL: %w", full.Err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return nil, errors.New("must begin with https:// or http:// and a host")
	case u.User != nil:
		return nil, errors.New("must not hold a user or password; secrets are references")
	case u.Fragment != "":
		return nil, errors.New("must not have a #fragment")
	}
	return u, refuseHost(u)
}
