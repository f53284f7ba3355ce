package action

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// scripted is a mail server that answers each command by what the script has
// for its first word, and well where it has nothing. It hands over the letters
// that it takes. What answers "hang up" ends the connection, what answers
// "silence" hands over an empty letter and says nothing any more.
func scripted(t *testing.T, script map[string]string) (address string, letters <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	taken := make(chan string, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go converse(conn, script, taken)
		}
	}()
	return l.Addr().String(), taken
}

func converse(conn net.Conn, script map[string]string, taken chan<- string) {
	defer conn.Close()
	usual := map[string]string{"": "220 ready", "EHLO": "250-mail\r\n250 AUTH PLAIN", "AUTH": "235 welcome", "DATA": "354 go on", ".": "250 taken", "QUIT": "221 bye"}
	r := bufio.NewReader(conn)
	say := func(word, line string) bool {
		answer := "250 ok"
		for _, from := range []map[string]string{usual, script} {
			for _, key := range []string{word, line} {
				if a, ok := from[key]; ok {
					answer = a
				}
			}
		}
		switch answer {
		case "hang up":
			return false
		case "silence":
			taken <- ""
			_, _ = r.ReadByte() // until the other side has gone
			return false
		}
		_, err := fmt.Fprintf(conn, "%s\r\n", strings.ReplaceAll(answer, "LINE", line))
		return err == nil && !strings.HasPrefix(answer, "221")
	}
	for ok := say("", ""); ok; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		word, _, _ := strings.Cut(line, " ")
		if ok = say(word, line); word != "DATA" || !ok {
			continue
		}
		var letter strings.Builder
		for line, err = r.ReadString('\n'); err == nil && line != ".\r\n"; line, err = r.ReadString('\n') {
			letter.WriteString(line)
		}
		if ok = say(".", "."); ok {
			taken <- letter.String()
		}
	}
}

func mailSpec(address, more string) string {
	return fmt.Sprintf("{server: %q, tls: none, from: dockbell@example.com, to: [ann@example.com], %s}", address, more)
}

// A letter arrives as it was meant, whatever is in it.
func TestEmail(t *testing.T) {
	address, letters := scripted(t, nil)
	a := mustBuild(t, Email(aClient()), fmt.Sprintf(`{server: %q, tls: none, from: "Döck Bell <dockbell@example.com>", to: [ann@example.com, "Bob <bob@example.org>"],
		title: "prod failed → v1 ☹\r\nBcc: eve@example.com", text: "ä line that is long: %s\n.\nthe end", link: "https://dockbell.example.com/42"}`, address, strings.Repeat("x", 100)))
	run := aRun
	run.CreatedAt = time.Unix(1, 2)
	var log strings.Builder
	if err := a.Do(t.Context(), run, &log); err != nil {
		t.Fatal(err)
	}
	m, err := mail.ReadMessage(strings.NewReader(strings.ReplaceAll(<-letters, "\r\n..", "\r\n.")))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if want := "prod failed → v1 ☹ Bcc: eve@example.com"; err != nil || subject != want {
		t.Errorf("subject %q, %v", subject, err)
	}
	for _, header := range []string{"Bcc", "Cc"} {
		if v := m.Header.Get(header); v != "" {
			t.Errorf("%s: %s", header, v)
		}
	}
	to, err := m.Header.AddressList("To")
	if err != nil || len(to) != 2 || to[1].Address != "bob@example.org" {
		t.Errorf("to %v, %v", to, err)
	}
	if id := m.Header.Get("Message-Id"); id != "<dockbell-77-1000000002@example.com>" {
		t.Errorf("Message-ID %s", id)
	}
	if at, err := m.Header.Date(); err != nil || time.Since(at) > time.Hour {
		t.Errorf("date %s, %v", at, err)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	want := "ä line that is long: " + strings.Repeat("x", 100) + "\n.\nthe end\nhttps://dockbell.example.com/42\n"
	if got := strings.ReplaceAll(string(body), "\r\n", "\n"); err != nil || got != want {
		t.Errorf("body %q, %v", got, err)
	}
	if a.Target() != "mail to ann@example.com, bob@example.org" || !strings.Contains(log.String(), address) {
		t.Errorf("%s: %s", a.Target(), log.String())
	}
}

// What a server says decides whether a repeat makes sense, and nothing that it
// says shows the password.
func TestEmailFaults(t *testing.T) {
	plant(t)
	const login = "text: hello, user: ci, password: {env: PLANTED_TOKEN}"
	for _, tt := range []struct {
		name, spec string
		script     map[string]string
		again      bool
		want       string
	}{
		{"busy", "text: hello", map[string]string{"": "421 too many connections"}, true, "says 421 too many connections"},
		{"greylisted", "text: hello", map[string]string{"RCPT": "450 come back"}, true, "450"},
		{"not from here", "text: hello", map[string]string{"MAIL": "550 no"}, false, "it does not take mail from or for these addresses"},
		{"nobody is known", "text: hello", map[string]string{"RCPT": "550 who?"}, false, "says 550 who?"},
		{"wants a password", "text: hello", map[string]string{"MAIL": "530 log in"}, false, "it wants a user and password"},
		{"disk full", "text: hello", map[string]string{".": "452 no room"}, true, "452"},
		{"thinks it is spam", "text: hello", map[string]string{".": "554 spam"}, false, "554"},
		{"hangs up", "text: hello", map[string]string{"EHLO": "hang up", "HELO": "hang up"}, true, "EOF"},
		{"hangs up when it may have taken it", "text: hello", map[string]string{".": "hang up"}, true, "EOF"},
		{"wrong password", login, map[string]string{"AUTH": "535 LINE"}, false, "it does not know this user and password"},
		{"says the password", login, map[string]string{"AUTH": "454 later, " + plantedToken}, true, "later, <secret>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address, _ := scripted(t, tt.script)
			a := mustBuild(t, Email(aClient()), mailSpec(address, tt.spec))
			var log strings.Builder
			err := a.Do(t.Context(), aRun, &log)
			if _, again := trigger.Retryable(err); err == nil || again != tt.again || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("repeatable is %t: %v, want %s", again, err, tt.want)
			}
			noSecret(t, "the error", err.Error())
			noSecret(t, "the log", log.String())
			noSecret(t, "the target", a.Target())
		})
	}
}

// Who is refused does not keep the others from their mail, and is named.
func TestEmailForSomeOnly(t *testing.T) {
	address, letters := scripted(t, map[string]string{"RCPT TO:<bob@example.com>": "550 who?"})
	a := mustBuild(t, Email(aClient()), fmt.Sprintf("{server: %q, tls: none, from: d@example.com, to: [ann@example.com, bob@example.com], text: hello}", address))
	err := a.Do(t.Context(), aRun, io.Discard)
	if _, again := trigger.Retryable(err); again || err == nil || !strings.Contains(err.Error(), "took the mail, but not for bob@example.com: 550 who?") {
		t.Errorf("%v", err)
	}
	if l := <-letters; !strings.Contains(l, "hello") {
		t.Error(l)
	}
}

// A server that says nothing any more does not keep a try for ever.
func TestEmailEndsWithItsContext(t *testing.T) {
	for _, when := range []string{"", "EHLO", "MAIL", "."} {
		address, letters := scripted(t, map[string]string{when: "silence"})
		ctx, cancel := context.WithCancelCause(t.Context())
		a := mustBuild(t, Email(aClient()), mailSpec(address, "text: hello"))
		done := make(chan error)
		go func() { done <- a.Do(ctx, aRun, io.Discard) }()
		<-letters
		cancel(errors.New("timed out after 3s"))
		err := <-done
		if _, again := trigger.Retryable(err); !again || !strings.Contains(err.Error(), "timed out after 3s") {
			t.Errorf("silent at %q: %v", when, err)
		}
	}
}

// A password goes to nobody in plain text, and a server that offers no TLS gets
// nothing at all.
func TestEmailWithoutTLS(t *testing.T) {
	address, letters := scripted(t, nil)
	err := mustBuild(t, Email(aClient()), fmt.Sprintf("{server: %q, from: d@example.com, to: [ann@example.com], text: hello}", address)).Do(t.Context(), aRun, io.Discard)
	if _, again := trigger.Retryable(err); again || err == nil || !strings.Contains(err.Error(), "does not offer STARTTLS: for one") {
		t.Errorf("%v", err)
	}
	if len(letters) > 0 {
		t.Error("it got a mail")
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	err = mustBuild(t, Email(aClient()), mailSpec(closed.Addr().String(), "text: hello")).Do(t.Context(), aRun, io.Discard)
	if _, again := trigger.Retryable(err); !again {
		t.Errorf("nobody is there: %v", err)
	}
	err = mustBuild(t, Email(aClient()), mailSpec("169.254.169.254:25", "text: hello")).Do(t.Context(), aRun, io.Discard)
	if _, again := trigger.Retryable(err); again || err == nil || !strings.Contains(err.Error(), "metadata address") {
		t.Errorf("a metadata address: %v", err)
	}
}

func TestEmailSpecification(t *testing.T) {
	t.Setenv("MAIL_PASSWORD", "secret")
	_, err := build(Email(aClient()), `{}`)
	for _, want := range []string{"server: must be the HOST or HOST:PORT of a mail server", "from: must be an address", "to: is missing", "text: is missing"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for spec, want := range map[string]string{
		"server: 'smtp://mail.example.com'":                             `server: must be the HOST or HOST:PORT of a mail server, not "smtp://mail.example.com"`,
		"server: mail.example.com, tls: maybe":                          `tls: must be starttls, always or none, not "maybe"`,
		"server: mail.example.com, user: ann":                           "password: user and password go together",
		"server: mail.example.com, password: {env: MAIL_PASSWORD}":      "password: user and password go together",
		"server: m, tls: none, user: a, password: {env: MAIL_PASSWORD}": "tls: must not be none with a password",
		"server: m, user: a, password: {env: NO_PASSWORD}":              "environment variable NO_PASSWORD is not set",
	} {
		if _, err := build(Email(aClient()), "{from: d@example.com, to: [a@example.com], text: hello, "+spec+"}"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", spec, err, want)
		}
	}
	if _, err := build(Email(aClient()), "{server: m, from: d@example.com, to: [a@example.com, nobody], text: hello}"); err == nil || !strings.Contains(err.Error(), `to: "nobody" is no address of a mailbox`) {
		t.Error(err)
	}
	for spec, want := range map[string]string{"server: m": "m:587", "server: m, tls: always": "m:465", "server: m, tls: none": "m:25", "server: 'm:2525'": "m:2525"} {
		a := mustBuild(t, Email(aClient()), "{from: d@example.com, to: [a@example.com], text: hello, "+spec+"}")
		if got := a.(*email).address; got != want {
			t.Errorf("%s: %s, want %s", spec, got, want)
		}
	}
}
