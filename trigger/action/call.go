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
	"unicode"

	"github.com/dockbell/dockbell/trigger"
)

// hidden stands where a secret was.
const hidden = "<secret>"

// call is one request, with what must not be shown of it.
type call struct {
	client   *Client
	method   string
	url      string
	shown    string // the URL as people may see it
	header   http.Header
	body     []byte
	harmless bool     // may be repeated although it may have happened
	most     int64    // bytes of the answer that are looked at
	secrets  []string // never in an error or the log
}

// harmlessMethods are those whose requests may be repeated (RFC 9110, 9.2.2).
var harmlessMethods = []string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete}

// newCall makes a request with what all have in common. What shown leaves out
// of the URL is kept from errors and the log.
func newCall(client *Client, method, address, shown string) *call {
	return &call{
		client: client, method: method, url: address, shown: shown,
		header:   http.Header{"User-Agent": {"dockbell"}},
		harmless: slices.Contains(harmlessMethods, method),
		most:     bodyLimit,
		secrets:  hiddenParts(address, shown),
	}
}

// hiddenParts are the parts of a URL that a server may repeat and that are not
// shown. Short ones are in every text and are no secrets.
func hiddenParts(address, shown string) []string {
	const short = 8
	u, err := url.Parse(address)
	if err != nil {
		return []string{address}
	}
	parts := []string{address, u.RequestURI(), u.RawQuery}
	for _, values := range u.Query() {
		parts = append(parts, values...)
	}
	if !strings.HasSuffix(shown, u.EscapedPath()) {
		parts = append(append(parts, u.Path, u.EscapedPath()), strings.Split(u.Path, "/")...)
	}
	return slices.DeleteFunc(parts, func(p string) bool { return len(p) < short || strings.Contains(shown, p) })
}

// answer is what came back.
type answer struct {
	call   *call
	status int
	header http.Header
	body   []byte // its beginning
}

// do makes the request once. Its error says whether a repeat is safe.
func (c *call) do(ctx context.Context) (*answer, error) {
	// Headers are reported as written before they leave their buffer, so
	// without that report the other side cannot have got a whole request.
	var sent atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	req, err := http.NewRequestWithContext(traced, c.method, c.url, bytes.NewReader(c.body))
	if err != nil {
		return nil, c.failed("cannot be made", errors.New("its URL is malformed"))
	}
	req.Header = c.header.Clone()
	client := c.client.does
	if c.harmless {
		client = c.client.asks
	}
	slow := time.AfterFunc(slowAnswer, func() { trigger.AwaitsAnswer(ctx) })
	defer slow.Stop()
	resp, err := client.Do(req)
	var refused *refusedError
	switch {
	case err == nil:
		defer resp.Body.Close()
		// The status alone decides; a body that breaks off is an excerpt.
		body, _ := io.ReadAll(io.LimitReader(resp.Body, c.most))
		if client == c.client.asks {
			_, _ = io.CopyN(io.Discard, resp.Body, drainLimit)
		}
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
	return nil, trigger.Uncertain(c.failed("was sent and got no answer; it may have happened, so it is not repeated", err))
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
func (a *answer) checkStatus(advice string) error {
	if a.status/100 == 2 {
		return nil
	}
	return a.fault(advice)
}

// decode reads an answer of success, which is JSON.
func (a *answer) decode(into any, advice string) error {
	if err := a.checkStatus(advice); err != nil {
		return err
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		return a.words("this is not the JSON that was expected")
	}
	return nil
}

// fault makes an error of an answer that is not what was wanted. The
// package's documentation says what is repeated.
func (a *answer) fault(advice string) error {
	switch a.status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return a.retry(a.words(advice))
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		if a.call.harmless {
			return a.retry(a.words(advice))
		}
		return trigger.Uncertain(a.words(advice, "it may have happened, so it is not repeated"))
	}
	return a.words(advice)
}

// words is an error that says what came back and what to do about it.
func (a *answer) words(advice ...string) error {
	if location := a.header.Get("Location"); location != "" && a.status/100 == 3 {
		advice = append(advice, "it redirects to "+showURL(location)+", which is followed only on the same host, with TLS kept, and when the method stays the same")
	}
	msg := a.String()
	if advice = slices.DeleteFunc(advice, func(s string) bool { return s == "" }); len(advice) > 0 {
		msg += ": " + strings.Join(advice, "; ")
	}
	if says := a.excerpt(); says != "" {
		msg += ". It says: " + says
	}
	return errors.New(a.call.hide(msg))
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
		s = markup.ReplaceAllStringFunc(s, func(tag string) string {
			if tag == hidden {
				return tag
			}
			return " "
		})
		s = a.call.hide(html.UnescapeString(s))
	}
	return clip(oneLine(s), excerptLimit)
}

// text is the beginning of what the answer says, to be kept with the run.
func (a *answer) text() string {
	if strings.HasPrefix(strings.TrimSpace(string(a.body)), "<") {
		return a.excerpt()
	}
	s := a.call.hide(strings.ToValidUTF8(string(a.body), "�"))
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsGraphic(r) {
			return r
		}
		return -1
	}, s)
	return clip(strings.TrimSpace(s), keptLimit)
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

// scheme begins the value of an Authorization header, of which the rest is the
// secret.
var scheme = regexp.MustCompile(`^(?i:basic|bearer|token) +`)

// hide blanks out secrets in every form in which they travel.
func hide(s string, secrets []string) string { return blank(s, formsOf(secrets)) }

func blank(s string, forms []string) string {
	for _, form := range forms {
		s = strings.ReplaceAll(s, form, hidden)
	}
	return s
}

// formsOf gives every form in which secrets travel, the longest first: one may
// be the beginning of another.
func formsOf(secrets []string) (forms []string) {
	for _, secret := range secrets {
		plain := []string{secret}
		if m := scheme.FindString(secret); m != "" {
			plain = append(plain, secret[len(m):])
		}
		for _, p := range plain {
			quoted, _ := json.Marshal(p) // a string always marshals
			forms = append(forms, p, url.QueryEscape(p), url.PathEscape(p), html.EscapeString(p), strings.Trim(string(quoted), `"`))
		}
	}
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })
	return slices.DeleteFunc(forms, func(form string) bool { return strings.TrimSpace(form) == "" })
}

// showURL is a URL without what may be secret in it: the user and the query.
func showURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "a malformed URL"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}).String()
}

// checkURL checks that an address is one that can be called.
func checkURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case s == "":
		return nil, errors.New("is missing")
	case err != nil:
		return nil, errors.New("is not a well-formed URL") // err quotes it, and it may be a secret
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return nil, errors.New("must begin with https:// or http:// and a host")
	case u.User != nil:
		return nil, errors.New("must not hold a user or password; secrets are references")
	case u.Fragment != "":
		return nil, errors.New("must not have a #fragment")
	}
	return u, nil
}
