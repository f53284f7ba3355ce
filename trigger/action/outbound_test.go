package action

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// outbound makes a client from YAML as it stands below `outbound`.
func outbound(spec string) (*Client, error) {
	n, err := strictyaml.Parse("dockbell.yaml", strings.NewReader(spec))
	if err != nil {
		return nil, err
	}
	var o Outbound
	if !n.Decode(&o) {
		return nil, n.Err()
	}
	client, err := NewClient(o)
	if err != nil {
		n.Fault(err)
	}
	return client, n.Err()
}

func mustOutbound(t *testing.T, spec string) *Client {
	t.Helper()
	client, err := outbound(spec)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestOutboundFaults(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BAD_PROXY", "http://u:planted@")
	for spec, want := range map[string]string{
		"{proxi: x}":                         `unknown key "proxi"`,
		"{proxy: 'proxy.example.com:3128'}":  "proxy: must be the URL of a proxy",
		"{proxy: 'ftp://proxy.example.com'}": "proxy: must be the URL of a proxy",
		"{proxy: 'http://u:p@proxy:3128'}":   "proxy: holds a user or password",
		"{proxy: {env: ABSENT_PROXY}}":       "proxy: environment variable ABSENT_PROXY is not set",
		"{proxy: {env: BAD_PROXY}}":          "proxy: must be the URL of a proxy",
		"{caFile: /absent.pem}":              "caFile: open /absent.pem",
		"{caFile: " + empty + "}":            "holds no certificate in PEM form",
		"{allow: [169.254.0.0/33]}":          `allow: "169.254.0.0/33" is not an address or network`,
		"{allow: [metadata]}":                `allow: "metadata" is not an address or network`,
	} {
		_, err := outbound(spec)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
			continue
		}
		noSecret(t, "the error", err.Error())
	}
	_, err := outbound("{proxy: x, caFile: /absent.pem, allow: [x, y]}")
	if err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("not all faults are reported at once: %v", err)
	}
}

func TestOutboundAllows(t *testing.T) {
	client := mustOutbound(t, "{allow: [169.254.10.0/24, 'fe80::1', 168.63.129.16]}")
	for addr, ok := range map[string]bool{
		"169.254.10.7": true, "::ffff:169.254.10.7": true, "fe80::1": true, "168.63.129.16": true,
		"169.254.169.254": false, "fe80::2": false, "100.100.100.200": false,
	} {
		if err := client.refuse(netip.MustParseAddr(addr)); (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// A second answer of the DNS, given between the look at the first and the
// connection, leads nowhere else: what is looked at is what is dialled.
func TestTheAnswerOfTheDNSIsPinned(t *testing.T) {
	var hits atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	fakeDNS(t, netip.MustParseAddr("127.0.0.1"))
	client := aClient()
	if _, err := newCall(client, http.MethodGet, "http://rebind.test:"+port+"/", "x").do(t.Context()); err != nil || hits.Load() != 1 {
		t.Fatalf("%v, %d hits", err, hits.Load())
	}
	fakeDNS(t, netip.MustParseAddr("169.254.169.254"))
	_, err := newCall(client, http.MethodPost, "http://rebind.test:"+port+"/", "x").do(t.Context())
	if _, again := trigger.Retryable(err); err == nil || again || !strings.Contains(err.Error(), "169.254.169.254 is a link-local") || hits.Load() != 1 {
		t.Errorf("%v, %d hits", err, hits.Load())
	}
}

// Questions share a connection, also when the answer is longer than what is
// looked at; what must not happen twice has one of its own.
func TestConnections(t *testing.T) {
	var opened atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("x"), bodyLimit+drainLimit/2))
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	client := aClient()
	for method, want := range map[string]int32{http.MethodGet: 1, http.MethodPut: 1, http.MethodPost: 5} {
		opened.Store(0)
		client.asks.CloseIdleConnections()
		for range 5 {
			if _, err := newCall(client, method, server.URL, "x").do(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := opened.Load(); n != want {
			t.Errorf("%s: %d connections, want %d", method, n, want)
		}
	}
}

// An answer without end does not keep a call, and its connection is given up.
func TestEndlessAnswer(t *testing.T) {
	ended := make(chan struct{})
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		defer close(ended)
		for chunk := bytes.Repeat([]byte("x"), 1<<20); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	if got, err := newCall(aClient(), http.MethodGet, server, "x").do(t.Context()); err != nil || len(got.body) != bodyLimit {
		t.Errorf("%v", err)
	}
	<-ended
}

func TestProxy(t *testing.T) {
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String()+" "+r.Header.Get("Proxy-Authorization"))
		fmt.Fprint(w, "from the proxy")
	}))
	defer proxy.Close()
	t.Setenv("NO_PROXY", "direct.test")
	t.Setenv("PROXY_URL", strings.Replace(proxy.URL, "http://", "http://u:planted@", 1))
	client := mustOutbound(t, "{proxy: {env: PROXY_URL}}")
	got, err := newCall(client, http.MethodGet, "http://ci.test/x", "x").do(t.Context())
	if err != nil || string(got.body) != "from the proxy" || strings.Join(asked, ",") != "http://ci.test/x Basic dTpwbGFudGVk" {
		t.Fatalf("%v, asked %q", err, asked)
	}
	_, err = newCall(client, http.MethodGet, "http://169.254.169.254/", "x").do(t.Context())
	if err == nil || !strings.Contains(err.Error(), "is a link-local") || len(asked) != 1 {
		t.Errorf("%v, asked %q", err, asked)
	}
	fakeDNS(t, netip.MustParseAddr("169.254.169.254")) // reached directly, so looked at here
	_, err = newCall(client, http.MethodGet, "http://direct.test/", "x").do(t.Context())
	if err == nil || !strings.Contains(err.Error(), "is a link-local") || len(asked) != 1 {
		t.Errorf("%v, asked %q", err, asked)
	}
	a := mustBuild(t, HTTP(aClient()), "{url: 'http://ci.test/y', method: GET, proxy: '"+proxy.URL+"'}")
	if err := a.Do(t.Context(), aRun, io.Discard); err != nil || len(asked) != 2 {
		t.Errorf("%v, asked %q", err, asked)
	}
	proxy.Close()
	_, err = newCall(client, http.MethodGet, "http://ci.test/x", "x").do(t.Context())
	if _, again := trigger.Retryable(err); !again {
		t.Errorf("a proxy that is away: %v", err)
	}
	noSecret(t, "the error", err.Error())
}

// authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	a := &authority{}
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour)}
	a.cert, a.key, a.file, _ = a.issue(t, "ca", a.cert)
	return a
}

// issue makes a certificate, and writes it and its key to files. The first one
// an authority signs is its own.
func (a *authority) issue(t *testing.T, name string, template *x509.Certificate) (cert *x509.Certificate, key *ecdsa.PrivateKey, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	template.Subject = pkix.Name{CommonName: name}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, certFile, keyFile
}

// A certificate of the configured authority is trusted, and one's own is shown
// to a server that asks for it.
func TestOwnAuthorityAndCertificate(t *testing.T) {
	a := newAuthority(t)
	leaf := func(name string, use x509.ExtKeyUsage) (certFile, keyFile string) {
		_, _, certFile, keyFile = a.issue(t, name, &x509.Certificate{
			SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{use}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		})
		return certFile, keyFile
	}
	serverCert, serverKey := leaf("server", x509.ExtKeyUsageServerAuth)
	clientCert, clientKey := leaf("dockbell", x509.ExtKeyUsageClientAuth)
	pair, err := tls.LoadX509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	server.Config.ErrorLog = silent()
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	server.StartTLS()
	defer server.Close()

	mutual := fmt.Sprintf("tls: {cert: %s, key: %s}", clientCert, clientKey)
	for name, c := range map[string]struct {
		client *Client
		spec   string
		ok     bool
	}{
		"nothing":         {aClient(), "", false},
		"authority alone": {mustOutbound(t, "{caFile: "+a.file+"}"), "", false},
		"both":            {mustOutbound(t, "{caFile: "+a.file+"}"), mutual, true},
		"in the action":   {aClient(), strings.TrimSuffix(mutual, "}") + ", ca: " + a.file + "}", true},
		"no authority":    {aClient(), mutual, false},
	} {
		var log strings.Builder
		err := mustBuild(t, HTTP(c.client), "{url: "+server.URL+", "+c.spec+"}").Do(context.Background(), aRun, &log)
		if (err == nil) != c.ok || c.ok && !strings.HasSuffix(log.String(), "\ndockbell\n") {
			t.Errorf("%s: %v, %q", name, err, log.String())
		}
	}
}
