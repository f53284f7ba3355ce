package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// plantedToken is written differently in URLs, HTML and JSON.
const plantedToken = `tok+en/&"<planted>=1`

// otherSide counts what it is in the middle of, and remembers how others have
// shown who they are. One that is silent goes away when all patience is over, so
// that whoever waits for ever is found out.
type otherSide struct {
	manner manner

	mu   sync.Mutex
	open int
	last string
}

func newOtherSide(t *testing.T, m manner) *otherSide {
	t.Setenv("PLANTED_TOKEN", plantedToken)
	return &otherSide{manner: m}
}

func (s *otherSide) trial(config, spec string) trial {
	return trial{config: config, spec: spec, heard: s.heard, told: s.told}
}

func (s *otherSide) heard() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

func (s *otherSide) told() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *otherSide) remember(credentials string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = credentials
}

// whileOpen does something that counts as being in the middle.
func (s *otherSide) whileOpen(do func()) {
	add := func(n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open += n
	}
	add(1)
	defer add(-1)
	do()
}

// ServeHTTP answers as servers do that repeat all that they were sent.
func (s *otherSide) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, credentials, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	s.remember(credentials)
	switch s.manner {
	case silent:
		s.whileOpen(func() {
			select {
			case <-r.Context().Done():
			case <-time.After(patience):
			}
		})
		return
	case refuses:
		w.WriteHeader(http.StatusForbidden)
	case busy:
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintf(w, "%s %s %v %s\n", r.Method, r.RequestURI, r.Header, body)
}

// aWebServer is the other side of kinds that call over HTTP: at SERVER, and where
// the addresses lead that are secrets.
func aWebServer(spec string) func(*testing.T, manner) trial {
	return func(t *testing.T, m manner) trial {
		s := newOtherSide(t, m)
		server := httptest.NewServer(s)
		t.Cleanup(server.Close)
		t.Setenv("PLANTED_URL", server.URL+"/planted?sig=planted")
		t.Setenv("PLANTED_TOPIC", "ntfy://"+url.UserPassword("ci", plantedToken).String()+"@"+strings.TrimPrefix(server.URL, "http://")+"/planted?scheme=http")
		return s.trial("", strings.ReplaceAll(spec, "SERVER", server.URL))
	}
}

// anAPIServer is where a kubeconfig with a token leads. A watch that a try
// begins there is for all tries, and goes on.
func anAPIServer(t *testing.T, m manner) trial {
	s, over := newOtherSide(t, m), t.Context().Done()
	all := http.NewServeMux()
	all.Handle("/", s)
	all.HandleFunc("/apis/apps/v1/namespaces/prod/deployments", func(http.ResponseWriter, *http.Request) { <-over })
	server := httptest.NewTLSServer(all)
	t.Cleanup(server.Close)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	writeFile(t, kubeconfig, fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
		clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}], users: [{name: u, user: {token: %q}}]}`, server.URL, plantedToken))
	return s.trial("clusters: {default: {kubeconfig: "+kubeconfig+"}}", "{target: deployment/web, namespace: prod}")
}

// dockerHub is where callbacks go, behind a proxy. The rest of the address is a
// key.
func dockerHub(t *testing.T, m manner) trial {
	const host = "registry.hub.docker.com"
	s := newOtherSide(t, m)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	hub := httptest.NewUnstartedServer(s)
	hub.TLS = &tls.Config{Certificates: []tls.Certificate{certificateFor(t, host, ca)}}
	hub.StartTLS()
	t.Cleanup(hub.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != host+":443" {
			t.Errorf("the proxy is asked for %s %s", r.Method, r.Host)
		}
		tunnel(w, hub.Listener.Addr().String())
	}))
	t.Cleanup(proxy.Close)
	return s.trial("outbound: {proxy: "+proxy.URL+", caFile: "+ca+"}", "https://"+host+"/u/shop/web/hook/planted/")
}

// tunnel joins the caller of a proxy with another address until one of them
// hangs up.
func tunnel(w http.ResponseWriter, address string) {
	far, err := net.Dial("tcp", address)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	near, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		far.Close()
		return
	}
	_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
	join := func(to, from net.Conn) {
		defer to.Close()
		_, _ = io.Copy(to, from) // until either has gone
	}
	go join(far, near)
	go join(near, far)
}

// certificateFor makes one that signs itself, and writes it to a file.
func certificateFor(t *testing.T, host, file string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{host}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// aMailServer says what it has to say to who logs in.
func aMailServer(t *testing.T, m manner) trial {
	s := newOtherSide(t, m)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // the test is over
			}
			go s.receiveMail(conn)
		}
	}()
	return s.trial("", fmt.Sprintf("{server: %q, tls: none, user: ci, password: {env: PLANTED_TOKEN}, from: a@example.com, to: [b@example.com], text: hello}", l.Addr()))
}

func (s *otherSide) receiveMail(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	for answer := "220 ready"; ; {
		fmt.Fprintf(conn, "%s\r\n", answer)
		if !lines.Scan() {
			return
		}
		answer = "250-mail\r\n250 AUTH PLAIN"
		credentials, login := strings.CutPrefix(lines.Text(), "AUTH PLAIN ")
		if !login {
			continue
		}
		s.remember(credentials)
		switch s.manner {
		case silent:
			_ = conn.SetDeadline(time.Now().Add(patience)) // a connection can have one
			s.whileOpen(func() { lines.Scan() })
			return
		case refuses:
			answer = "535 no: " + credentials + " " + plantedToken
		case busy:
			answer = "454 not now: " + credentials + " " + plantedToken
		}
	}
}

// aProgram is what a command runs. It and its child hold a pipe open as long as
// they live.
func aProgram(t *testing.T, m manner) trial {
	s := newOtherSide(t, m)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		f, err := os.Open(pipe) // when it is opened at the other end, too
		if err != nil {
			return // the test is over
		}
		defer f.Close()
		s.whileOpen(func() { _, _ = io.Copy(io.Discard, f) })
	}()
	script := map[manner]string{silent: "sleep 100 & wait", refuses: "exit 1", busy: "exit 75"}[m]
	return s.trial("", fmt.Sprintf(`{argv: [sh, -c, 'exec 3>%s; echo "$TOKEN"; %s'], env: {TOKEN: {env: PLANTED_TOKEN}}}`, pipe, script))
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
