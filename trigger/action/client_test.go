package action

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

func TestMetadataAddressesAreRefused(t *testing.T) {
	for _, host := range []string{
		"169.254.169.254", "169.254.170.2", "[fe80::1]", "[fd00:ec2::254]", "[fd20:ce::254]",
		"100.100.100.200", "168.63.129.16", "192.0.0.192", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]",
	} {
		began := time.Now()
		_, err := newCall(aClient(), http.MethodGet, "http://"+host+"/latest/meta-data/", "x").do(t.Context())
		if _, again := trigger.Retryable(err); err == nil || again || !strings.Contains(err.Error(), "metadata") {
			t.Errorf("%s: %v", host, err)
		}
		if time.Since(began) > time.Second {
			t.Errorf("%s was dialled", host)
		}
		if _, err := aClient().checkURL("http://" + host + "/"); err == nil {
			t.Errorf("%s is not refused while loading", host)
		}
	}
	for _, addr := range []string{"127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "fd12::1", "8.8.8.8", "64:ff9b::808:808"} {
		if err := aClient().refuse(netip.MustParseAddr(addr)); err != nil {
			t.Error(err)
		}
	}
}

// A name is checked by what it resolves to at the moment of the connection.
func TestNamesOfMetadataAddressesAreRefused(t *testing.T) {
	fakeDNS(t, netip.MustParseAddr("169.254.169.254"))
	_, err := newCall(aClient(), http.MethodGet, "http://innocent.test/", "x").do(t.Context())
	if _, again := trigger.Retryable(err); err == nil || again || !strings.Contains(err.Error(), "169.254.169.254 is a link-local") {
		t.Error(err)
	}
}

// fakeDNS resolves every name to one IPv4 address for the time of a test.
func fakeDNS(t *testing.T, addr netip.Addr) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
	t.Cleanup(func() { net.DefaultResolver = before; server.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			end := 12 // of the one question: a name in labels, type and class
			for end < n && buf[end] != 0 {
				end += int(buf[end]) + 1
			}
			end += 5
			reply := append([]byte{}, buf[:end]...)
			copy(reply[2:12], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0})
			if reply[end-3] == 1 { // an A record is wanted
				reply[7] = 1
				ip := addr.As4()
				reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
				reply = append(reply, ip[:]...)
			}
			_, _ = server.WriteTo(reply, from)
		}
	}()
}

// Behind a proxy the dialer sees only the proxy.
func TestProxyDoesNotHideMetadataAddresses(t *testing.T) {
	req := httptest.NewRequest(http.MethodGet, "http://169.254.169.254/", nil)
	var refused *refusedError
	if _, err := aClient().proxyFor(req); !errors.As(err, &refused) {
		t.Error(err)
	}
}

func TestRedirects(t *testing.T) {
	var plain, tls *httptest.Server
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/end":
			_, _ = io.WriteString(w, r.Method+" "+string(body))
		case "/tls-to-plain":
			http.Redirect(w, r, plain.URL+"/end", http.StatusTemporaryRedirect)
		case "/plain-to-tls":
			http.Redirect(w, r, tls.URL+"/end", http.StatusTemporaryRedirect)
		case "/other-name":
			http.Redirect(w, r, strings.Replace(plain.URL, "127.0.0.1", "localhost", 1)+"/end", http.StatusTemporaryRedirect)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusTemporaryRedirect)
		case "/302":
			http.Redirect(w, r, "/end", http.StatusFound)
		case "/307":
			http.Redirect(w, r, "/end", http.StatusTemporaryRedirect)
		}
	})
	plain, tls = httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer tls.Close()
	client := aClient().with(func(w *way) { w.tls = tls.Client().Transport.(*http.Transport).TLSClientConfig })

	for _, c := range []struct {
		method, url string
		status      int
		body        string
	}{
		{"GET", plain.URL + "/302", 200, "GET "},
		{"POST", plain.URL + "/302", 302, ""}, // would go on as a GET
		{"POST", plain.URL + "/307", 200, "POST data"},
		{"POST", plain.URL + "/plain-to-tls", 200, "POST data"},
		{"POST", tls.URL + "/tls-to-plain", 307, ""},
		{"GET", tls.URL + "/tls-to-plain", 307, ""},
		{"GET", plain.URL + "/other-name", 307, ""},
		{"GET", plain.URL + "/loop", 307, ""},
	} {
		call := newCall(client, c.method, c.url, c.url)
		if c.method == "POST" {
			call.body = []byte("data")
		}
		got, err := call.do(t.Context())
		if err != nil {
			t.Error(err)
			continue
		}
		if got.status != c.status || c.body != "" && string(got.body) != c.body {
			t.Errorf("%s %s: %d %q", c.method, c.url, got.status, got.body)
		}
	}
}

func TestBodiesAreBounded(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		chunk := strings.Repeat("x", 1<<20)
		for range 64 {
			if _, err := io.WriteString(w, chunk); err != nil {
				return
			}
		}
	})
	got, err := newCall(aClient(), http.MethodGet, server, "x").do(t.Context())
	if err != nil || len(got.body) != bodyLimit {
		t.Errorf("%d bytes, %v", len(got.body), err)
	}
	if n := len(got.excerpt()); n > excerptLimit+10 {
		t.Errorf("an excerpt of %d bytes", n)
	}
}

func TestUntrustedCertificateSendsNothing(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the request arrived") }))
	server.Config.ErrorLog = silent()
	server.StartTLS()
	defer server.Close()
	_, err := newCall(aClient(), http.MethodPost, server.URL, "x").do(t.Context())
	if _, again := trigger.Retryable(err); !again || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
}

// silent is for servers whose clients are meant to fail.
func silent() *log.Logger { return log.New(io.Discard, "", 0) }

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"": 0, "0": 0, "-5": 0, "soon": 0, "30": 30 * time.Second, "99999": time.Hour, "999999999999999": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute,
		"Fri, 02 Jan 2026 03:03:05 GMT": 0,
	} {
		if got := retryAfter(s, now); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

func TestExcerptOfHTML(t *testing.T) {
	a := &answer{call: &call{secrets: []string{"s3cret"}}, body: []byte(
		"<html><head><title>Error</title><style>p{}</style></head><body>\n<h1>No &amp; no</h1>\x1b[31m <p>s3cret is &#115;3cret</p></body></html>")}
	if got, want := a.excerpt(), "No & no [31m <secret> is <secret>"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestExcerptCutsNoSecretInTwo(t *testing.T) {
	const secret = "PLANTED-SECRET"
	for at := range 2 * excerptLimit {
		a := &answer{call: &call{secrets: []string{secret}}, body: []byte(strings.Repeat("x", at) + secret)}
		if got := strings.ReplaceAll(a.excerpt(), hidden, ""); strings.ContainsAny(got, secret) {
			t.Fatalf("after %d bytes: %q", at, got)
		}
	}
}

func TestRedirectShowsNoSecret(t *testing.T) {
	a := &answer{call: &call{secrets: []string{"s3cret"}}, status: 302, header: http.Header{"Location": {"https://u:pw@example.com/s3cret/?q=hush#frag"}}}
	if got := a.fault("").Error(); !strings.Contains(got, "redirects to https://example.com/<secret>/, ") {
		t.Error(got)
	}
}
