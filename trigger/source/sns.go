package source

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/v1"
	"golang.org/x/sync/singleflight"
)

// snsMessage is what Amazon SNS posts unless raw message delivery is on
// (Amazon SNS, "Parsing message formats"). The check and the parser both read
// a body into it and both go by Type alone, so what is believed is what was
// signed.
type snsMessage struct {
	Type         string
	MessageID    string `json:"MessageId"`
	TopicArn     string
	Subject      *string
	Message      string
	Timestamp    string
	Token        string
	SubscribeURL string

	SignatureVersion string
	Signature        string
	SigningCertURL   string
}

const (
	snsNotification = "Notification"
	snsSubscribe    = "SubscriptionConfirmation"
	snsUnsubscribe  = "UnsubscribeConfirmation"
)

const (
	// snsAge is how old a message may be. SNS gives up on an endpoint an hour
	// after the first try at the latest (Amazon SNS, "Message delivery
	// retries"); twice that leaves room for slow tries and for a clock that is
	// wrong, and still bounds for how long a delivery that was overheard can
	// be sent again. Messages from the future are not refused: nobody but AWS
	// can date them.
	snsAge = 2 * time.Hour

	// snsCertTime is how long a certificate is waited for; a sender waits 15
	// seconds for the reply.
	snsCertTime = 5 * time.Second

	// snsCertSize bounds a certificate: real ones have 2 KB.
	snsCertSize = 64 << 10

	// snsCertsKept bounds the cache. A region has one certificate at a time.
	snsCertsKept = 16

	// snsCertsFetched bounds the fetches under way: anybody can name a
	// certificate that does not exist.
	snsCertsFetched = 4
)

// snsCheck makes a check of messages that SNS signed for one of the topics
// (Amazon SNS, "Verifying the signatures of Amazon SNS messages"). It gives
// ErrUnauthorized for all others, and another error when it cannot tell now
// because the certificate cannot be had.
func snsCheck(client *http.Client, topics []string) func(ctx context.Context, h http.Header, body []byte) error {
	certs := newSNSCerts(client)
	return func(ctx context.Context, _ http.Header, body []byte) error {
		var m snsMessage
		if json.Unmarshal(body, &m) != nil || !slices.Contains(topics, m.TopicArn) {
			return ErrUnauthorized
		}
		at, err := time.Parse(time.RFC3339, m.Timestamp)
		if err != nil || time.Since(at) > snsAge {
			return ErrUnauthorized
		}
		signed, hash, err := m.digest()
		if err != nil {
			return ErrUnauthorized
		}
		signature, err := base64.StdEncoding.DecodeString(m.Signature)
		if err != nil {
			return ErrUnauthorized
		}
		address, ok := m.certificate()
		if !ok {
			return ErrUnauthorized
		}
		cert, err := certs.get(ctx, address)
		if err != nil {
			return err
		}
		key, ok := cert.PublicKey.(*rsa.PublicKey)
		if now := time.Now(); !ok || now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
			return ErrUnauthorized
		}
		if rsa.VerifyPKCS1v15(key, hash, signed, signature) != nil {
			return ErrUnauthorized
		}
		return nil
	}
}

// digest is the hash that SNS signs: of the names and values of some fields,
// each on a line of its own, in the order of the names.
func (m snsMessage) digest() ([]byte, crypto.Hash, error) {
	var text strings.Builder
	line := func(name, value string) { fmt.Fprintf(&text, "%s\n%s\n", name, value) }
	line("Message", m.Message)
	line("MessageId", m.MessageID)
	switch m.Type {
	case snsNotification:
		if m.Subject != nil {
			line("Subject", *m.Subject)
		}
		line("Timestamp", m.Timestamp)
	case snsSubscribe, snsUnsubscribe:
		line("SubscribeURL", m.SubscribeURL)
		line("Timestamp", m.Timestamp)
		line("Token", m.Token)
	default:
		return nil, 0, errors.New("not a message of SNS")
	}
	line("TopicArn", m.TopicArn)
	line("Type", m.Type)

	switch m.SignatureVersion {
	case "1":
		sum := sha1.Sum([]byte(text.String()))
		return sum[:], crypto.SHA1, nil
	case "2":
		sum := sha256.Sum256([]byte(text.String()))
		return sum[:], crypto.SHA256, nil
	}
	return nil, 0, errors.New("unknown version of signature")
}

var (
	snsHost     = regexp.MustCompile(`^sns\.([a-z]{2,5}(?:-[a-z0-9]+)+)\.amazonaws\.com(?:\.cn)?$`)
	snsCertPath = regexp.MustCompile(`^/[A-Za-z0-9_-]+\.pem$`)

	// snsCertName are the names in the certificates that SNS signs with, as
	// AWS's own library for Java knows them: sns.amazonaws.com, of newer
	// regions sns-signing.REGION.amazonaws.com, of China and GovCloud
	// sns-REGION.amazonaws.com.
	snsCertName = regexp.MustCompile(`^sns(?:-signing)?(?:[.-][a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?$`)
)

// certificate is the address of the certificate that the message names. Only
// an address of SNS itself, in the region of the topic, proves anything.
func (m snsMessage) certificate() (string, bool) {
	u := snsURL(m.SigningCertURL)
	if u == nil || u.RawQuery != "" || !snsCertPath.MatchString(u.Path) {
		return "", false
	}
	arn := strings.Split(m.TopicArn, ":")
	if len(arn) != 6 || arn[3] != snsHost.FindStringSubmatch(u.Host)[1] {
		return "", false
	}
	return "https://" + u.Host + u.Path, true
}

// confirm is the address that confirms the subscription; "" when the message
// asks for no confirmation or the address is not one of SNS.
func (m snsMessage) confirm() string {
	if m.Type != snsSubscribe {
		return ""
	}
	u := snsURL(m.SubscribeURL)
	if u == nil || u.Path != "/" && u.Path != "" || u.Query().Get("Action") != "ConfirmSubscription" {
		return ""
	}
	return u.String()
}

// snsURL is an address of SNS; nil for all others. The host is compared with
// what may be written before a port, so there is none.
func snsURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Opaque != "" || u.Fragment != "" || !snsHost.MatchString(u.Host) {
		return nil
	}
	return u
}

// snsCerts fetches the certificates that SNS signs with and keeps them.
type snsCerts struct {
	client *http.Client
	flight singleflight.Group
	slots  chan struct{}

	mu   sync.Mutex
	kept map[string]*x509.Certificate
}

func newSNSCerts(client *http.Client) *snsCerts {
	c := *client
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &snsCerts{client: &c, slots: make(chan struct{}, snsCertsFetched), kept: map[string]*x509.Certificate{}}
}

func (c *snsCerts) get(ctx context.Context, address string) (*x509.Certificate, error) {
	c.mu.Lock()
	cert := c.kept[address]
	c.mu.Unlock()
	if cert != nil {
		return cert, nil
	}
	// The fetch serves everybody who waits for it, so it does not end with
	// the request that began it.
	result := c.flight.DoChan(address, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), snsCertTime)
		defer cancel()
		return c.fetch(ctx, address)
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*x509.Certificate), nil
	}
}

// fetch gets a certificate. That it comes from a host of SNS, over a
// connection that is verified, is what makes it SNS's: the file has no chain
// that could be verified beside it.
func (c *snsCerts) fetch(ctx context.Context, address string) (*x509.Certificate, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return nil, errors.New("certificate of SNS: too many are being fetched")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, ErrUnauthorized
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("certificate of SNS: %w", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, ErrUnauthorized // AWS answers, and knows of no such certificate
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("certificate of SNS: %s from %s", resp.Status, address)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, snsCertSize))
	if err != nil {
		return nil, fmt.Errorf("certificate of SNS: %w", err)
	}
	cert, err := readSNSCert(text)
	if err != nil {
		return nil, fmt.Errorf("certificate of SNS: %s: %w", address, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.kept) >= snsCertsKept {
		clear(c.kept)
	}
	c.kept[address] = cert
	return cert, nil
}

func readSNSCert(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	names := cert.DNSNames
	if len(names) == 0 {
		names = []string{cert.Subject.CommonName}
	}
	if !slices.ContainsFunc(names, snsCertName.MatchString) {
		return nil, errors.New("not a certificate of SNS")
	}
	return cert, nil
}
