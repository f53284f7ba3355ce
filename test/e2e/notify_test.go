package e2e

import (
	"errors"
	"io"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"strings"
	"testing"

	"github.com/dockbell/dockbell/test/parts"
)

// mailExample is the example of the documentation for mail, for another server.
func mailExample(t *testing.T, s *parts.SMTP, to string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/actions/notify.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, ok := strings.Cut(string(page), "```yaml\n# for a mail server")
	example, _, end := strings.Cut(example, "```")
	if !ok || !end {
		t.Fatal("the example is not there")
	}
	with := []string{"smtp.example.com", s.Address, `ops@example.com, "Ann <ann@example.com>"`, to}
	for i := 0; i < len(with); i += 2 {
		if !strings.Contains(example, with[i]) {
			t.Fatalf("there is no %s in %s", with[i], example)
		}
	}
	return "#" + strings.NewReplacer(with...).Replace(example)
}

// mailServer starts a mail server, and a dockbell that writes by it to the given
// people of each command that fails.
func mailServer(t *testing.T, to string, env ...string) (*parts.SMTP, *daemon) {
	t.Helper()
	s, err := parts.StartSMTP(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s, serve(t, `
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0", url: https://dockbell.example.com}
store: sqlite:dockbell.db
outbound: {caFile: `+s.CAFile+`}
sources: {hub: {type: dockerhub, auth: none}}
rules:
- {name: web, repo: shop/**, actions: [command: {argv: ["false"]}]}
`+mailExample(t, s, to), append([]string{"SMTP_PASSWORD=" + s.Password}, env...)...)
}

// notified waits until people were told of a failure, or that is given up, and gives
// the run that told them.
func notified(d *daemon) (run aRun) {
	d.t.Helper()
	eventually(d.t, "somebody is told", func() error {
		for _, run = range d.runs("") {
			if run.Rule == "notify/1" && (run.State == "succeeded" || run.State == "failed") {
				return nil
			}
		}
		return errors.New("no run of notify/1 has ended")
	})
	return run
}

// A mail of a failure arrives by a real mail server: with TLS, after logging in,
// at a second try when it was told to come later.
func TestMailOfFailure(t *testing.T) {
	t.Parallel()
	s, d := mailServer(t, "later@example.com")
	d.mustPost(202, "hub", sample(t, "dockerhub", "shop/web", "v1"))
	if run := notified(d); run.State != "succeeded" || run.Attempt != 2 {
		t.Errorf("%+v", run)
	}
	mails := s.Mails()
	if len(mails) != 1 {
		t.Fatalf("%d mails: %+v", len(mails), mails)
	}
	got := mails[0]
	if got.From != "dockbell@example.com" || strings.Join(got.To, " ") != "later@example.com" {
		t.Errorf("from %s to %s", got.From, got.To)
	}
	m, err := mail.ReadMessage(strings.NewReader(got.Data))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if want := "false failed: docker.io/shop/web:v1"; err != nil || !strings.HasSuffix(subject, want) {
		t.Errorf("subject %q, %v", subject, err)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	for _, want := range []string{"rule web", "https://dockbell.example.com/api/v1/runs/1\r\n"} {
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("body %q, %v, want %q", body, err, want)
		}
	}
}

// A server that does not know the password is not asked again, and repeats it to
// nobody; an address that is refused is named, and the others get their mail.
func TestMailRefused(t *testing.T) {
	t.Parallel()
	s, d := mailServer(t, "ops@example.com, gone@example.com")
	const wrong = "hunter2-and-more"
	_, stranger := mailServer(t, "ops@example.com", "SMTP_PASSWORD="+wrong)
	for d, want := range map[*daemon]string{d: "took the mail, but not for gone@example.com: 550", stranger: "says 535"} {
		d.mustPost(202, "hub", sample(t, "dockerhub", "shop/web", "v1"))
		run := notified(d)
		if run.State != "failed" || run.Attempt != 1 || !strings.Contains(run.Reason, want) {
			t.Errorf("%+v, want %s", run, want)
		}
		if strings.Contains(run.Reason, wrong) {
			t.Errorf("the password is in %q", run.Reason)
		}
		if strings.Contains(d.log.tail(1000), wrong) {
			t.Error("the password is in the log")
		}
	}
	if mails := s.Mails(); len(mails) != 1 || strings.Join(mails[0].To, " ") != "ops@example.com" {
		t.Errorf("%+v", mails)
	}
}
