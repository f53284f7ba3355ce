package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp"

	"github.com/dockbell/dockbell/trigger"
)

// httpLine speaks the smart protocol over HTTP.
type httpLine struct {
	remote  *Remote
	service string
	base    string // of the repository; where it has moved to once that is known
	bodies  []io.Closer
}

func (r *Remote) callHTTP(service string) *httpLine {
	return &httpLine{remote: r, service: service, base: r.scheme + "://" + r.Host + r.Path}
}

const infoRefs = "/info/refs"

func (l *httpLine) refs(ctx context.Context) (*packp.AdvRefs, error) {
	resp, err := l.do(ctx, http.MethodGet, infoRefs+"?service="+l.service, nil)
	if err != nil {
		return nil, err
	}
	if want := "application/x-" + l.service + "-advertisement"; resp.Header.Get("Content-Type") != want {
		return nil, errors.New("what answers there is no git server: the address must be what you give to git clone")
	}
	at := resp.Request.URL
	l.base = (&url.URL{Scheme: at.Scheme, Host: at.Host, Path: strings.TrimSuffix(at.Path, infoRefs)}).String()
	adv := packp.NewAdvRefs()
	if err := adv.Decode(resp.Body); errors.Is(err, packp.ErrEmptyAdvRefs) {
		return nil, err
	} else if err != nil {
		return nil, failed(ctx, "reading its branches", err)
	}
	return adv, nil
}

func (l *httpLine) send(ctx context.Context, request []byte) (io.Reader, error) {
	resp, err := l.do(ctx, http.MethodPost, "/"+l.service, request)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func (l *httpLine) close() {
	for _, b := range l.bodies {
		_ = b.Close() // nobody reads it any more
	}
}

func (l *httpLine) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, l.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", agent)
	if l.remote.Token != "" {
		req.SetBasicAuth(l.remote.User, l.remote.Token)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-"+l.service+"-request")
		req.Header.Set("Accept", "application/x-"+l.service+"-result")
	}
	resp, err := l.remote.Client.Do(req)
	if err != nil {
		var full *url.Error
		if errors.As(err, &full) {
			err = full.Err // without the URL: the address is named once
		}
		return nil, failed(ctx, "no answer", err)
	}
	l.bodies = append(l.bodies, resp.Body)
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	var says limitedText
	_, _ = io.CopyN(&says, resp.Body, messageLimit) // as much as comes
	return nil, l.fault(resp, says.excerpt())
}

// fault says what an answer other than 200 means, and whether another try may
// help.
func (l *httpLine) fault(resp *http.Response, says string) error {
	text := fmt.Sprintf("it answers %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		text += ": the token is wrong or missing"
	case http.StatusForbidden:
		text += ": the token may not do this; it needs the right to write to the repository"
	case http.StatusNotFound:
		text += ": there is no such repository, or the token may not see it"
	}
	if says != "" && !strings.HasPrefix(says, "<") {
		text += ". It says: " + says
	}
	err := errors.New(text)
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout || resp.StatusCode >= 500 {
		seconds, _ := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 12) // none is 0
		return &trigger.RetryError{Err: err, After: time.Duration(seconds) * time.Second}
	}
	return err
}
