package k8s

import (
	"bytes"
	"io"
	"net/http"
	"strings"
)

// mostOfText is how much is read of an answer in plain words.
const mostOfText = 64 << 10

// discreet blanks out the credentials of a request in an answer that repeats
// them. An API server does not, and answers in JSON; what stands in front of one
// may, and client-go makes its words a part of the error.
type discreet struct{ next http.RoundTripper }

func (d discreet) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	_, credentials, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	if credentials == "" || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/") {
		return resp, nil
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, mostOfText))
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	text = bytes.ReplaceAll(text, []byte(credentials), []byte("<secret>"))
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
	return resp, nil
}
