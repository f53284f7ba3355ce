package parts

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// SMTP is a mail server on this machine that keeps what it takes. It takes mail
// from whoever has logged in by a connection with TLS.
//
// Mail for gone@ANYTHING it refuses, mail for later@ANYTHING at the first time.
// Who has mail for silent@ANYTHING never hears of it again.
type SMTP struct {
	Address  string // HOST:PORT; it speaks STARTTLS
	CAFile   string // the certificate to trust, in PEM form
	User     string
	Password string

	server  *smtp.Server
	stopped chan struct{}
	mu      sync.Mutex
	mails   []Mail
	later   bool // somebody was asked to come later
	waiting int  // how often mail for silent@ANYTHING came
}

// Mail is one that the server has taken.
type Mail struct {
	From string
	To   []string
	Data string
}

// StartSMTP starts one. Its certificate is kept below dir.
func StartSMTP(dir string) (*SMTP, error) {
	s := &SMTP{CAFile: filepath.Join(dir, "smtp.pem"), User: "dockbell", Password: "password-of-a-robot", stopped: make(chan struct{})}
	cert, err := Certificate(s.CAFile)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.Address = l.Addr().String()
	s.server = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return &smtpSession{server: s, conn: c}, nil }))
	s.server.Domain, s.server.TLSConfig = "localhost", &tls.Config{Certificates: []tls.Certificate{cert}}
	go s.server.Serve(l) // until Stop
	return s, nil
}

// Stop ends it.
func (s *SMTP) Stop() {
	close(s.stopped)
	s.server.Close()
}

// Mails are those that it has taken, in order.
func (s *SMTP) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Mail(nil), s.mails...)
}

// Waiting is how often somebody was left waiting with mail for silent@ANYTHING.
func (s *SMTP) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting
}

// Certificate makes one for this machine and the given names that signs itself,
// and writes it to a file in PEM form.
func Certificate(file string, names ...string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: names, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, os.WriteFile(file, text, 0o600)
}

// smtpSession is one connection to the server.
type smtpSession struct {
	server *SMTP
	conn   *smtp.Conn
	known  bool
	mail   Mail
}

func (s *smtpSession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *smtpSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if s.known = user == s.server.User && password == s.server.Password; !s.known {
			return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "user and password do not fit: " + password}
		}
		return nil
	}), nil
}

func (s *smtpSession) Mail(from string, _ *smtp.MailOptions) error {
	if _, secure := s.conn.TLSConnectionState(); !secure || !s.known {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "log in first"}
	}
	s.mail = Mail{From: from}
	return nil
}

func (s *smtpSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "silent@") {
		s.server.leaveWaiting()
	}
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	switch {
	case strings.HasPrefix(to, "gone@"):
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "nobody of that name"}
	case strings.HasPrefix(to, "later@") && !s.server.later:
		s.server.later = true
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "come again later"}
	}
	s.mail.To = append(s.mail.To, to)
	return nil
}

func (s *SMTP) leaveWaiting() {
	s.mu.Lock()
	s.waiting++
	s.mu.Unlock()
	<-s.stopped
}

func (s *smtpSession) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return errors.New("the mail broke off")
	}
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.mail.Data = string(data)
	s.server.mails = append(s.server.mails, s.mail)
	return nil
}

func (s *smtpSession) Reset() { s.mail = Mail{} }

func (s *smtpSession) Logout() error { return nil }
