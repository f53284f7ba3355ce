package source

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json/v1"
)

const snsTopic = "arn:aws:sns:eu-west-1:210987654321:pushes"

const snsCertURL = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"

// newCA makes an authority and a function that has it certify a key.
func newCA(t testing.TB) (*x509.CertPool, func(key crypto.Signer, template x509.Certificate) []byte) {
	t.Helper()
	caKey := newECKey(t)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Dockyard authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	if ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return pool, func(key crypto.Signer, template x509.Certificate) []byte {
		template.SerialNumber = big.NewInt(2)
		if template.NotAfter.IsZero() {
			template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		}
		der, err := x509.CreateCertificate(rand.Reader, &template, ca, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
}

func newECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRSAKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newHTTPS starts a server that has a certificate for the hosts, and a client
// that trusts the authority, verifies as ever and reaches the server under
// any name.
func newHTTPS(t testing.TB, handler http.Handler, hosts ...string) *http.Client {
	t.Helper()
	pool, certify := newCA(t)
	key := newECKey(t)
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{
		Certificate: [][]byte{certify(key, x509.Certificate{DNSNames: hosts, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})},
		PrivateKey:  key,
	}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
		},
	}}
}

// snsService stands in for SNS: it signs, and serves its certificate.
type snsService struct {
	client  *http.Client
	key     *rsa.PrivateKey
	file    []byte // the certificate
	fetches atomic.Int32
	answer  atomic.Pointer[http.HandlerFunc] // nil: the certificate
}

func newSNSService(t *testing.T, template x509.Certificate) *snsService {
	t.Helper()
	s := &snsService{key: newRSAKey(t)}
	_, certify := newCA(t)
	s.file = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certify(s.key, template)})
	s.client = newHTTPS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		if answer := s.answer.Load(); answer != nil {
			(*answer)(w, r)
			return
		}
		_, _ = w.Write(s.file)
	}), "sns.eu-west-1.amazonaws.com", "sns.us-east-1.amazonaws.com", "evil.example", "sns.eu-west-1.amazonaws.com.evil.example")
	return s
}

func (s *snsService) answers(f http.HandlerFunc) { s.answer.Store(&f) }

// snsTemplate is a certificate as SNS has it.
var snsTemplate = x509.Certificate{Subject: pkix.Name{CommonName: "sns.amazonaws.com"}, DNSNames: []string{"sns.amazonaws.com"}}

// notification is a message as SNS sends it, not signed yet.
func notification() map[string]string {
	return map[string]string{
		"Type": "Notification", "MessageId": "5b0c1f7e-93d2-5a4b-9c86-1f2e3d4c5b6a", "TopicArn": snsTopic,
		"Message": "{\"detail-type\": \"ECR Image Action\"}\n", "Subject": "Köln",
		"Timestamp": time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), "SignatureVersion": "2", "SigningCertURL": snsCertURL,
		"UnsubscribeURL": "https://sns.eu-west-1.amazonaws.com/?Action=Unsubscribe",
	}
}

func confirmation(kind string) map[string]string {
	m := notification()
	delete(m, "Subject")
	m["Type"], m["Token"] = kind, "51b2ff3e"
	m["SubscribeURL"] = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=51b2ff3e"
	return m
}

// sign gives the body of the message, signed. The text is built from the
// documented lists of fields and not from what is tested.
func (s *snsService) sign(t *testing.T, m map[string]string) []byte {
	t.Helper()
	fields := []string{"Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"}
	if m["Type"] != "Notification" {
		fields = []string{"Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"}
	}
	var text strings.Builder
	for _, f := range fields {
		if v, ok := m[f]; ok {
			text.WriteString(f + "\n" + v + "\n")
		}
	}
	var signature []byte
	var err error
	if m["SignatureVersion"] == "1" {
		sum := sha1.Sum([]byte(text.String()))
		signature, err = rsa.SignPKCS1v15(nil, s.key, crypto.SHA1, sum[:])
	} else {
		sum := sha256.Sum256([]byte(text.String()))
		signature, err = rsa.SignPKCS1v15(nil, s.key, crypto.SHA256, sum[:])
	}
	if err != nil {
		t.Fatal(err)
	}
	m["Signature"] = base64.StdEncoding.EncodeToString(signature)
	return marshal(t, m)
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func with(m map[string]string, pairs ...string) map[string]string {
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

func TestSNS(t *testing.T) {
	s := newSNSService(t, snsTemplate)
	check := snsCheck(s.client, []string{"arn:aws:sns:eu-west-1:210987654321:other", snsTopic})
	noSubject := notification()
	delete(noSubject, "Subject")

	for name, m := range map[string]map[string]string{
		"version 1":       with(notification(), "SignatureVersion", "1"),
		"version 2":       notification(),
		"no subject":      noSubject,
		"subscription":    confirmation("SubscriptionConfirmation"),
		"unsubscription":  confirmation("UnsubscribeConfirmation"),
		"version 1 of it": with(confirmation("SubscriptionConfirmation"), "SignatureVersion", "1"),
		"an hour old":     with(notification(), "Timestamp", time.Now().UTC().Add(-70*time.Minute).Format(time.RFC3339)),
	} {
		if err := check(t.Context(), http.Header{}, s.sign(t, m)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := s.fetches.Load(); n != 1 {
		t.Errorf("the certificate was fetched %d times", n)
	}
}

func TestNotSNS(t *testing.T) {
	s := newSNSService(t, snsTemplate)
	check := snsCheck(s.client, []string{snsTopic})
	stranger := &snsService{key: newRSAKey(t)}

	// changed signs and then changes.
	changed := func(pairs ...string) []byte {
		m := notification()
		s.sign(t, m)
		return marshal(t, with(m, pairs...))
	}
	at := func(address string) []byte { return s.sign(t, with(notification(), "SigningCertURL", address)) }
	unsigned := notification()

	tests := map[string][]byte{
		"message changed":         changed("Message", `{"detail-type": "x"}`),
		"subject changed":         changed("Subject", "Bonn"),
		"id changed":              changed("MessageId", "1"),
		"time changed":            changed("Timestamp", time.Now().UTC().Format(time.RFC3339)),
		"type changed":            changed("Type", "UnsubscribeConfirmation"),
		"version changed":         changed("SignatureVersion", "1"),
		"version unknown":         changed("SignatureVersion", "3"),
		"version missing":         changed("SignatureVersion", ""),
		"type unknown":            s.sign(t, with(notification(), "Type", "Postcard")),
		"signature missing":       marshal(t, unsigned),
		"signature no base64":     changed("Signature", "!"),
		"signature cut off":       changed("Signature", "AAAA"),
		"signature by a stranger": stranger.sign(t, notification()),
		"topic of others":         s.sign(t, with(notification(), "TopicArn", "arn:aws:sns:eu-west-1:999999999999:pushes")),
		"topic changed to ours": marshal(t, func() map[string]string {
			m := with(notification(), "TopicArn", "arn:aws:sns:eu-west-1:999999999999:pushes")
			s.sign(t, m)
			return with(m, "TopicArn", snsTopic)
		}()),
		"topic empty":         s.sign(t, with(notification(), "TopicArn", "")),
		"too old":             s.sign(t, with(notification(), "Timestamp", time.Now().UTC().Add(-3*time.Hour).Format(time.RFC3339))),
		"no time":             s.sign(t, with(notification(), "Timestamp", "")),
		"no JSON":             []byte(`{`),
		"empty":               nil,
		"a bare event":        []byte(`{"detail-type": "ECR Image Action", "source": "aws.ecr", "detail": {}}`),
		"a list":              []byte(`[]`),
		"token changed":       marshal(t, with(jsonMap(t, s.sign(t, confirmation("SubscriptionConfirmation"))), "Token", "x")),
		"address changed":     marshal(t, with(jsonMap(t, s.sign(t, confirmation("SubscriptionConfirmation"))), "SubscribeURL", "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=x")),
		"no certificate":      at(""),
		"longer host":         at("https://sns.eu-west-1.amazonaws.com.evil.example/x.pem"),
		"other host":          at("https://evil.example/x.pem"),
		"host in the path":    at("https://evil.example/sns.eu-west-1.amazonaws.com/x.pem"),
		"host as user":        at("https://sns.eu-west-1.amazonaws.com@evil.example/x.pem"),
		"user":                at("https://user@sns.eu-west-1.amazonaws.com/x.pem"),
		"port":                at("https://sns.eu-west-1.amazonaws.com:443/x.pem"),
		"plain HTTP":          at("http://sns.eu-west-1.amazonaws.com/x.pem"),
		"other scheme":        at("file://sns.eu-west-1.amazonaws.com/x.pem"),
		"other service":       at("https://s3.eu-west-1.amazonaws.com/bucket/x.pem"),
		"bucket named sns":    at("https://sns.s3.amazonaws.com/x.pem"),
		"bucket in a region":  at("https://sns.s3.eu-west-1.amazonaws.com/x.pem"),
		"dot as any":          at("https://snsxeu-west-1.amazonaws.com/x.pem"),
		"other region":        at("https://sns.us-east-1.amazonaws.com/x.pem"),
		"global":              at("https://sns.amazonaws.com/x.pem"),
		"path no pem":         at("https://sns.eu-west-1.amazonaws.com/x.txt"),
		"path with pem later": at("https://sns.eu-west-1.amazonaws.com/?x.pem"),
		"path of two":         at("https://sns.eu-west-1.amazonaws.com/x/../x.pem"),
		"query":               at(snsCertURL + "?x"),
		"fragment":            at("https://sns.eu-west-1.amazonaws.com/x#.pem"),
		"new line":            at("https://sns.eu-west-1.amazonaws.com/x.pem\n"),
	}
	for name, body := range tests {
		t.Run(name, func(t *testing.T) {
			if err := check(t.Context(), http.Header{}, body); !errors.Is(err, ErrUnauthorized) {
				t.Errorf("got %v", err)
			}
		})
	}
	if n := s.fetches.Load(); n != 1 {
		t.Errorf("%d fetches, want that of the one good address", n)
	}

	if err := snsCheck(s.client, nil)(t.Context(), http.Header{}, s.sign(t, with(notification(), "TopicArn", ""))); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("without topics: %v", err)
	}
}

func jsonMap(t *testing.T, body []byte) map[string]string {
	t.Helper()
	var m map[string]string
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// What is signed is what is parsed, whatever stands beside it.
func TestSNSUnsignedKeys(t *testing.T) {
	s := newSNSService(t, snsTemplate)
	m := with(notification(), "Message", "Good morning, all hands!")
	s.sign(t, m)
	body := strings.TrimSuffix(string(marshal(t, m)), "}") + `, "detail-type": "ECR Image Action", "source": "aws.ecr",
		"account": "210987654321", "region": "eu-west-1", "detail": {"action-type": "PUSH", "result": "SUCCESS", "repository-name": "stowaway", "image-tag": "1"}}`
	if err := snsCheck(s.client, []string{snsTopic})(t.Context(), http.Header{}, []byte(body)); err != nil {
		t.Fatal(err)
	}
	events, err := open(t, "aws-ecr").Parse(http.Header{}, []byte(body))
	if err != nil || len(events) != 1 || events[0].Ignored != "other-event" {
		t.Errorf("got %+v, %v", events, err)
	}
	for _, key := range []string{`"type": ""`, `"Type": ""`, `"TYPE": null`, `"Message": null`, `"message": "{}"`} {
		twice := strings.TrimSuffix(body, "}") + ", " + key + "}"
		if snsCheck(s.client, []string{snsTopic})(t.Context(), http.Header{}, []byte(twice)) != nil {
			continue
		}
		events, err := open(t, "aws-ecr").Parse(http.Header{}, []byte(twice))
		if err != nil || len(events) != 1 || events[0].Ignored == "" {
			t.Errorf("%s: got %+v, %v", key, events, err)
		}
	}
}

func TestSNSCertificates(t *testing.T) {
	past := x509.Certificate{DNSNames: snsTemplate.DNSNames, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}
	future := x509.Certificate{DNSNames: snsTemplate.DNSNames, NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour)}
	named := func(name string) x509.Certificate { return x509.Certificate{DNSNames: []string{name}} }
	tests := []struct {
		name     string
		template x509.Certificate
		want     string // nothing, unauthorized or another error
	}{
		{"of SNS", snsTemplate, ""},
		{"of a newer region", named("sns-signing.eu-west-1.amazonaws.com"), ""},
		{"of GovCloud", named("sns-us-gov-west-1.amazonaws.com"), ""},
		{"of China", named("sns-cn-north-1.amazonaws.com.cn"), ""},
		{"without other names", x509.Certificate{Subject: pkix.Name{CommonName: "sns.amazonaws.com"}}, ""},
		{"expired", past, "unauthorized"},
		{"not valid yet", future, "unauthorized"},
		{"of another service", named("s3.amazonaws.com"), "not a certificate of SNS"},
		{"of a stranger", named("sns.amazonaws.com.evil.example"), "not a certificate of SNS"},
		{"that hides behind a name", x509.Certificate{Subject: pkix.Name{CommonName: "sns.amazonaws.com"}, DNSNames: []string{"evil.example"}}, "not a certificate of SNS"},
		{"without a name", x509.Certificate{}, "not a certificate of SNS"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSNSService(t, tt.template)
			err := snsCheck(s.client, []string{snsTopic})(t.Context(), http.Header{}, s.sign(t, notification()))
			switch {
			case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v", err)
			case tt.want != "unauthorized" && errors.Is(err, ErrUnauthorized):
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestSNSCertificateUnavailable(t *testing.T) {
	s := newSNSService(t, snsTemplate)
	check := snsCheck(s.client, []string{snsTopic})
	body := s.sign(t, notification())
	for name, answer := range map[string]http.HandlerFunc{
		"error":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"forbidden": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"redirection": func(w http.ResponseWriter, r *http.Request) {
			if r.Host != "evil.example" {
				http.Redirect(w, r, "https://evil.example/x.pem", http.StatusFound)
				return
			}
			t.Error("followed the redirection")
		},
		"page": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"key": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY"}))
		},
		"garbage": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}))
		},
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write([]byte(strings.Repeat(" ", 1<<16))); err != nil {
					return
				}
			}
		},
	} {
		s.answers(answer)
		if err := check(t.Context(), http.Header{}, body); err == nil || errors.Is(err, ErrUnauthorized) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	s.answers(func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) })
	if err := check(t.Context(), http.Header{}, body); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("no such certificate: got %v", err)
	}
	s.answer.Store(nil)
	if err := check(t.Context(), http.Header{}, body); err != nil {
		t.Errorf("once it can be had: %v", err)
	}

	// A server that is not who it says it is counts as none.
	other := newSNSService(t, snsTemplate)
	s.client.Transport.(*http.Transport).TLSClientConfig.RootCAs = x509.NewCertPool()
	s.client.CloseIdleConnections()
	if err := snsCheck(s.client, []string{snsTopic})(t.Context(), http.Header{}, other.sign(t, notification())); err == nil || errors.Is(err, ErrUnauthorized) {
		t.Errorf("unknown authority: got %v", err)
	}
}

func TestSNSFetchesOnce(t *testing.T) {
	s := newSNSService(t, snsTemplate)
	hold := make(chan struct{})
	s.answers(func(w http.ResponseWriter, _ *http.Request) {
		<-hold
		_, _ = w.Write(s.file)
	})
	check := snsCheck(s.client, []string{snsTopic})
	body := s.sign(t, notification())

	// One who gives up does not take the certificate from the others.
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error)
	go func() { gaveUp <- check(ctx, http.Header{}, body) }()
	for s.fetches.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-gaveUp; err == nil || errors.Is(err, ErrUnauthorized) {
		t.Errorf("who gave up got %v", err)
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if err := check(t.Context(), http.Header{}, body); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(10 * time.Millisecond)
	close(hold)
	group.Wait()
	if n := s.fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

func TestSNSKeepsFew(t *testing.T) {
	s := newSNSService(t, snsTemplate)
	certs := newSNSCerts(s.client)
	for i := range 3 * snsCertsKept {
		if _, err := certs.get(t.Context(), "https://sns.eu-west-1.amazonaws.com/"+strings.Repeat("x", i+1)+".pem"); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(certs.kept); n > snsCertsKept {
		t.Errorf("%d are kept", n)
	}
}
