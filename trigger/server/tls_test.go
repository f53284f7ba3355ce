package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger/source"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// authority issues certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// identity is a certificate with its key.
type identity struct {
	chain []*x509.Certificate
	key   *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Dockyard authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}}
	a.cert = a.certify(a.cert, key)
	return a
}

func (a *authority) certify(template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// write puts the authority's own certificate into a file.
func (a *authority) write(path string) {
	a.t.Helper()
	writeFile(a.t, path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *authority) issue(serial int64, use x509.ExtKeyUsage, name string) identity {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return identity{key: key, chain: []*x509.Certificate{a.certify(&x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{use},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, key)}}
}

func (a *authority) client(name string) identity { return a.issue(7, x509.ExtKeyUsageClientAuth, name) }

func (i identity) tls() []tls.Certificate {
	if i.key == nil {
		return nil
	}
	return []tls.Certificate{{Certificate: [][]byte{i.chain[0].Raw}, PrivateKey: i.key}}
}

// pair is the files of a server's certificate. Each time that something is
// written it looks a minute younger, however coarse the clock of the files is.
type pair struct {
	t         *testing.T
	cert, key string
	at        time.Time
}

func newPair(t *testing.T) *pair {
	dir := t.TempDir()
	return &pair{t, filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), time.Now().Add(-time.Hour)}
}

func (p *pair) write(path string, content []byte) {
	p.t.Helper()
	writeFile(p.t, path, content)
	p.at = p.at.Add(time.Minute)
	if err := os.Chtimes(path, p.at, p.at); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pair) writeCert(i identity) {
	p.t.Helper()
	p.write(p.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.chain[0].Raw}))
}

func (p *pair) writeKey(i identity) {
	p.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(p.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (p *pair) put(i identity) {
	p.t.Helper()
	p.writeCert(i)
	p.writeKey(i)
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// serveTLS runs Serve until the test ends and gives its address.
func serveTLS(t *testing.T, h http.Handler, config *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, h, config, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return "https://" + l.Addr().String()
}

// client makes a connection for each request.
func client(roots *x509.CertPool, as identity, http2 bool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, ForceAttemptHTTP2: http2,
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: as.tls()},
	}}
}

func TestTLSCertificateIsReplaced(t *testing.T) {
	ca, log := newAuthority(t), &buffer{}
	server := func(serial int64) identity { return ca.issue(serial, x509.ExtKeyUsageServerAuth, "localhost") }
	files := newPair(t)
	files.put(server(11))
	config, err := TLS(files.cert, files.key, false, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	at := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto) // the client checks it
	}), config)

	shows := func(when string, serial int64) {
		t.Helper()
		for _, http2 := range []bool{false, true} {
			resp, err := client(ca.pool(), identity{}, http2).Get(at)
			if err != nil {
				t.Errorf("%s: %v", when, err)
				continue
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if want := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[http2]; err != nil || string(body) != want || resp.Proto != want {
				t.Errorf("%s: answered %q by %s, %v", when, body, resp.Proto, err)
			}
			if got := resp.TLS.PeerCertificates[0].SerialNumber.Int64(); got != serial {
				t.Errorf("%s: certificate %d, want %d", when, got, serial)
			}
		}
	}
	complaints := func(when string, want int) {
		t.Helper()
		if n := strings.Count(log.String(), "the changed certificate cannot be used; the one from before stays"); n != want {
			t.Errorf("%s: %d complaints, want %d:\n%s", when, n, want, log)
		}
	}
	shows("at first", 11)
	files.put(server(12))
	shows("replaced", 12)
	complaints("replaced", 0)

	half := server(13)
	files.writeCert(half)
	shows("replaced by half", 12)
	complaints("replaced by half", 1)
	files.writeKey(half)
	shows("the other half", 13)

	files.write(files.cert, []byte("soon"))
	shows("broken", 13)
	complaints("broken", 2)
	for _, file := range []string{files.cert, files.key} {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	shows("gone", 13)
	complaints("gone", 3)
	files.put(server(14))
	shows("back", 14)
	complaints("back", 3)
}

// Connections may come while the files change, from several sides.
func TestTLSConcurrently(t *testing.T) {
	ca := newAuthority(t)
	files := newPair(t)
	first, second := ca.issue(1, x509.ExtKeyUsageServerAuth, "localhost"), ca.issue(2, x509.ExtKeyUsageServerAuth, "localhost")
	files.put(first)
	config, err := TLS(files.cert, files.key, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	at := serveTLS(t, http.NotFoundHandler(), config)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 10 {
				resp, err := client(ca.pool(), identity{}, true).Get(at)
				if err != nil {
					t.Error(err)
					continue
				}
				resp.Body.Close()
			}
		})
	}
	for range 10 {
		files.put(second)
		files.put(first)
	}
	group.Wait()
}

func TestTLSAtStart(t *testing.T) {
	ca := newAuthority(t)
	one, other := ca.issue(1, x509.ExtKeyUsageServerAuth, "localhost"), ca.issue(2, x509.ExtKeyUsageServerAuth, "localhost")
	for name, spoil := range map[string]func(*pair){
		"no file":       func(*pair) {},
		"no key":        func(p *pair) { p.writeCert(one) },
		"no cert":       func(p *pair) { p.writeKey(one) },
		"another key":   func(p *pair) { p.writeCert(one); p.writeKey(other) },
		"mixed up":      func(p *pair) { p.put(one); p.cert, p.key = p.key, p.cert },
		"nothing in it": func(p *pair) { p.put(one); p.write(p.cert, nil) },
	} {
		files := newPair(t)
		spoil(files)
		if config, err := TLS(files.cert, files.key, false, slog.New(slog.DiscardHandler)); err == nil || config != nil {
			t.Errorf("%s: %v, %v", name, config, err)
		} else if !strings.HasPrefix(err.Error(), "certificate: ") || strings.Contains(err.Error(), "PRIVATE KEY-----") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTLSVersions(t *testing.T) {
	ca := newAuthority(t)
	files := newPair(t)
	files.put(ca.issue(1, x509.ExtKeyUsageServerAuth, "localhost"))
	config, err := TLS(files.cert, files.key, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(serveTLS(t, http.NotFoundHandler(), config), "https://")
	for version, ok := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: ca.pool(), MinVersion: version, MaxVersion: version})
		if (err == nil) != ok {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			conn.Close()
		}
	}
}

// A certificate of the client's reaches the source that asks for one, and is
// in nobody else's way.
func TestClientCertificate(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	files := newPair(t)
	files.put(ours.issue(1, x509.ExtKeyUsageServerAuth, "localhost"))

	s := newStation(t)
	ours.write(s.path("ca.pem"))
	s.more = "mutual: {type: dockerhub, auth: {certificate: {ca: '" + s.path("ca.pem") + "', names: [registry.example.com]}}}\n"
	s.use(s.store)
	config, err := TLS(files.cert, files.key, true, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	at := serveTLS(t, s.hooks, config)

	for name, tt := range map[string]struct {
		as           identity
		mutual, open int
	}{
		"right":             {ours.client("registry.example.com"), 202, 202},
		"another name":      {ours.client("mole.example.com"), 401, 202},
		"another authority": {theirs.client("registry.example.com"), 401, 202},
		"for a server":      {ours.issue(8, x509.ExtKeyUsageServerAuth, "registry.example.com"), 401, 202},
		"none":              {identity{}, 401, 202},
	} {
		for _, http2 := range []bool{false, true} {
			for target, want := range map[string]int{"/hooks/mutual": tt.mutual, "/hooks/open": tt.open} {
				body := hubPush("shop/web", strings.ReplaceAll(name, " ", "-")+map[bool]string{false: "-1", true: "-2"}[http2])
				resp, err := client(ours.pool(), tt.as, http2).Post(at+target, "application/json", strings.NewReader(body))
				if err != nil {
					t.Errorf("%s at %s: %v", name, target, err)
					continue
				}
				answer, _ := io.ReadAll(resp.Body) // shown only
				resp.Body.Close()
				if resp.StatusCode != want {
					t.Errorf("%s at %s: %d %s, want %d", name, target, resp.StatusCode, answer, want)
				}
			}
		}
	}
}

// Clients are asked for a certificate where a source wants one, and only there.
func TestTLSAsksForCertificates(t *testing.T) {
	ca := newAuthority(t)
	files := newPair(t)
	files.put(ca.issue(1, x509.ExtKeyUsageServerAuth, "localhost"))
	file := filepath.Join(t.TempDir(), "ca.pem")
	ca.write(file)
	for text, want := range map[string]bool{"{type: quay, auth: {certificate: {ca: '" + file + "'}}}": true, "{type: quay, auth: none}": false} {
		n, err := strictyaml.Parse("sources", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		src := source.Load("quay", n, source.Outside{})
		if err := n.Err(); err != nil {
			t.Fatal(err)
		}
		config, err := TLS(files.cert, files.key, src.NeedsCertificate(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		address := strings.TrimPrefix(serveTLS(t, http.NotFoundHandler(), config), "https://")
		asked := false
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: ca.pool(), GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			return &tls.Certificate{}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if asked != want {
			t.Errorf("%s: asked %v", text, asked)
		}
	}
}
