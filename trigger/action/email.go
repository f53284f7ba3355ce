package action

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
)

// How a connection to a mail server is kept from others' eyes.
const (
	tlsStart  = "starttls" // it begins in plain text and turns to TLS before anything is said
	tlsAlways = "always"   // it is TLS from its first byte on
	tlsNone   = "none"
)

var smtpPorts = map[string]string{tlsStart: "587", tlsAlways: "465", tlsNone: "25"}

// emailSpec sends a mail.
type emailSpec struct {
	Server   string     `yaml:"server"` // HOST or HOST:PORT
	TLS      string     `yaml:"tls"`
	User     string     `yaml:"user"`
	Password secret.Ref `yaml:"password"`
	From     string     `yaml:"from"`
	To       []string   `yaml:"to"`
	Message  note       `yaml:",inline"`
}

type email struct {
	client  *Client
	spec    emailSpec
	host    string
	address string // of the server, with its port
	from    *mail.Address
	to      []*mail.Address
}

// Email builds actions that send a mail.
func Email(client *Client) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		spec := emailSpec{TLS: tlsStart}
		if err := decode(&spec); err != nil {
			return nil, err
		}
		a := &email{client: client, spec: spec}
		errs := []error{present("password", spec.Password), spec.Message.check()}
		fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
		port, known := smtpPorts[spec.TLS]
		if !known {
			fault("tls", "must be starttls, always or none, not %q", spec.TLS)
		}
		a.host = spec.Server
		if host, own, err := net.SplitHostPort(spec.Server); err == nil {
			a.host, port = host, own
		}
		if _, err := strconv.ParseUint(port, 10, 16); known && err != nil || a.host == "" || strings.ContainsAny(a.host, ":/@ ") {
			fault("server", "must be the HOST or HOST:PORT of a mail server, not %q", spec.Server)
		}
		a.address = net.JoinHostPort(a.host, port)
		switch {
		case (spec.User == "") != spec.Password.IsZero():
			fault("password", "user and password go together")
		case spec.User != "" && spec.TLS == tlsNone && !isThisMachine(a.host):
			fault("tls", "must not be none with a password: everybody on the way could read it")
		}
		a.readAddresses(fault)
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		return a, nil
	}
}

// readAddresses reads who writes and who gets the mail.
func (a *email) readAddresses(fault func(field, format string, args ...any)) {
	var err error
	if a.from, err = mail.ParseAddress(a.spec.From); err != nil {
		fault("from", "must be an address that the server lets dockbell write as, as in dockbell@example.com")
	}
	if len(a.spec.To) == 0 {
		fault("to", "is missing: who gets the mail")
	}
	for _, s := range a.spec.To {
		to, err := mail.ParseAddress(s)
		if err != nil {
			fault("to", "%q is no address of a mailbox", s)
		}
		a.to = append(a.to, to)
	}
}

// isThisMachine is what [smtp.PlainAuth] takes for it.
func isThisMachine(host string) bool {
	return host == "localhost" || host == "127.0.0.1" || host == "::1"
}

// Target names who gets the mail.
func (a *email) Target() string {
	to := make([]string, len(a.to))
	for i, t := range a.to {
		to[i] = t.Address
	}
	return "mail to " + strings.Join(to, ", ")
}

// Do hands the mail to the server. One that comes twice does less harm than one
// that is lost, and its Message-ID is the same, so it is repeated when the
// server may have taken it.
func (a *email) Do(ctx context.Context, run trigger.Run, log io.Writer) error {
	password := ""
	if !a.spec.Password.IsZero() {
		var err error
		if password, err = a.spec.Password.Read(); err != nil {
			return trigger.Retry(err) // a secret that is not there; nothing was sent
		}
	}
	refused, err := a.deliver(ctx, run, password)
	if err != nil {
		return a.fault(ctx, err, password)
	}
	if len(refused) > 0 {
		// Another try would send it to the others once more.
		return errors.New(hide(oneLine(fmt.Sprintf("mail server %s took the mail, but not for %s", a.address, strings.Join(refused, "; for "))), a.secrets(password)))
	}
	fmt.Fprintf(log, "%s took the mail\n", a.address)
	return nil
}

// secrets is what must not be shown: the password, also as it travels.
func (a *email) secrets(password string) []string {
	if password == "" {
		return nil
	}
	return []string{password, base64.StdEncoding.EncodeToString([]byte("\x00" + a.spec.User + "\x00" + password))}
}

// deliver speaks SMTP. Who is refused is left out while there is somebody who
// is not.
func (a *email) deliver(ctx context.Context, run trigger.Run, password string) (refused []string, err error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if a.spec.User != "" {
		if err := c.Auth(smtp.PlainAuth("", a.spec.User, password, a.host)); err != nil {
			return nil, err
		}
	}
	if err := c.Mail(a.from.Address); err != nil {
		return nil, err
	}
	var mildest *textproto.Error // of the refusals
	for _, to := range a.to {
		err := c.Rcpt(to.Address)
		var said *textproto.Error
		switch {
		case err == nil:
			continue
		case !errors.As(err, &said):
			return nil, err
		case mildest == nil || said.Code < mildest.Code:
			mildest = said
		}
		refused = append(refused, fmt.Sprintf("%s: %d %s", to.Address, said.Code, said.Msg))
	}
	if len(refused) == len(a.to) {
		return nil, mildest
	}
	w, err := c.Data()
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(a.mail(run, time.Now())); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	_ = c.Quit() // it has the mail
	return refused, nil
}

// connect opens a session, which the end of ctx ends.
func (a *email) connect(ctx context.Context) (*smtp.Client, error) {
	secure := a.client.tls.Clone()
	secure.ServerName = a.host
	dialer := &net.Dialer{Timeout: dialTimeout, Control: a.client.control}
	dial := dialer.DialContext
	if a.spec.TLS == tlsAlways {
		dial = (&tls.Dialer{NetDialer: dialer, Config: secure}).DialContext
	}
	conn, err := dial(ctx, "tcp", a.address)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	c, err := smtp.NewClient(conn, a.host)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if err := a.greet(c, secure); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// greet names this machine, since some servers refuse localhost, and turns to
// TLS where that begins after the greeting.
func (a *email) greet(c *smtp.Client, secure *tls.Config) error {
	if host, err := os.Hostname(); err == nil {
		if err := c.Hello(host); err != nil {
			return err
		}
	}
	if a.spec.TLS != tlsStart {
		return nil
	}
	if ok, _ := c.Extension("STARTTLS"); !ok {
		return errNoTLS
	}
	return c.StartTLS(secure)
}

var errNoTLS = errors.New("the server does not offer STARTTLS: for one that speaks TLS at once write `tls: always`, for one inside your own network `tls: none`")

// fault says what went wrong and whether a repeat makes sense: not when the
// server refuses for good (5xx) or may not be called.
func (a *email) fault(ctx context.Context, err error, password string) error {
	var said *textproto.Error
	var refused *refusedError
	final := errors.Is(err, errNoTLS) || errors.As(err, &refused)
	if errors.As(err, &said) {
		final = said.Code >= 500
		err = fmt.Errorf("says %d %s", said.Code, said.Msg)
		if advice := smtpAdvice[said.Code]; advice != "" {
			err = fmt.Errorf("%w: %s", err, advice)
		}
	} else if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	err = errors.New(hide(oneLine(fmt.Sprintf("mail server %s: %s", a.address, err)), a.secrets(password)))
	if final {
		return err
	}
	return trigger.Retry(err)
}

var smtpAdvice = map[int]string{
	530: "it wants a user and password",
	534: "it wants another way to log in, or a password made for programs",
	535: "it does not know this user and password",
	550: "it does not take mail from or for these addresses",
	553: "it does not take mail from or for these addresses",
}

// mail is what is sent: headers and a text. No value can end a header, since
// all are written anew from what was understood of them.
func (a *email) mail(run trigger.Run, now time.Time) []byte {
	m := a.spec.Message
	subject := m.Title
	if subject == "" {
		subject, _, _ = strings.Cut(m.Text, "\n")
	}
	return compose(letter{
		from: a.from, to: a.to, subject: clip(oneLine(subject), mostTitle), text: note{Text: m.Text, Link: m.Link}.plain(),
		id: fmt.Sprintf("dockbell-%d-%d@%s", run.ID, run.CreatedAt.UnixNano(), domain(a.from.Address)), at: now,
	})
}

// domain is where an address is at home.
func domain(address string) string { return address[strings.LastIndex(address, "@")+1:] }
