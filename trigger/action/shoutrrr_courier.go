package action

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/nicholas-fedor/shoutrrr/pkg/router"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"
)

// parcel is what a courier is to deliver, and how it reaches others.
type parcel struct {
	URL    string
	Text   string
	CAFile string
	Allow  []string
}

// receipt is what a courier has to say.
type receipt struct {
	Unusable   bool   // the address could not be made use of; Error says why
	Status     int    // of the last answer; 0 when there was none
	RetryAfter string // its header of that name
	Says       string // its beginning
	Refused    string // why an address was not called
	Broken     string // why there was no answer to the last request
	Error      string // of the library
}

// Deliver sends one message by the library and says what has become of it. It
// is for a process that does nothing else: it changes how all of the process
// calls others, so that what the library calls is called like everything else,
// and watched.
func Deliver(in io.Reader, out io.Writer) error {
	var p parcel
	if err := json.NewDecoder(in).Decode(&p); err != nil {
		return err
	}
	client, err := NewClient(Outbound{CAFile: p.CAFile, Allow: p.Allow})
	if err != nil {
		return err
	}
	w := &watched{next: client.does.Transport}
	http.DefaultTransport = w
	*http.DefaultClient = http.Client{Transport: w, CheckRedirect: checkRedirect, Timeout: callTimeout}

	var library router.ServiceRouter
	service, err := library.Locate(p.URL)
	if err != nil {
		r := w.receipt(err)
		r.Unusable = r.Status == 0 && r.Broken == ""
		return json.NewEncoder(out).Encode(r)
	}
	switch own := service.(type) { // some have made a client for themselves
	case interface{ SetHTTPClient(client *http.Client) }:
		own.SetHTTPClient(http.DefaultClient)
	case interface{ GetHTTPClient() *http.Client }:
		if c := own.GetHTTPClient(); c != nil {
			*c = *http.DefaultClient
		}
	}
	return json.NewEncoder(out).Encode(w.receipt(service.Send(p.Text, &types.Params{})))
}

// watched remembers how the last request went.
type watched struct {
	next http.RoundTripper

	mu   sync.Mutex
	last receipt
}

func (w *watched) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(req)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = receipt{}
	var refused *refusedError
	switch {
	case errors.As(err, &refused):
		w.last.Refused = refused.Error()
	case err != nil:
		w.last.Broken = err.Error()
	default:
		w.last.Status, w.last.RetryAfter = resp.StatusCode, resp.Header.Get("Retry-After")
		resp.Body = &overheard{resp.Body, w}
	}
	return resp, err
}

// receipt adds what the library says.
func (w *watched) receipt(err error) receipt {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.last
	var full *url.Error
	if errors.As(err, &full) {
		err = full.Err // without the URL
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// overheard is the body of an answer, of which the beginning is remembered and
// the rest is not the library's to read.
type overheard struct {
	io.ReadCloser
	of *watched
}

func (o *overheard) Read(b []byte) (int, error) {
	o.of.mu.Lock()
	defer o.of.mu.Unlock()
	room := bodyLimit - len(o.of.last.Says)
	if room <= 0 {
		return 0, io.EOF
	}
	n, err := o.ReadCloser.Read(b[:min(len(b), room)])
	o.of.last.Says += string(b[:n])
	return n, err
}
