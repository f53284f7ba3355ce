package action

import (
	"bytes"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"time"
)

// letter is a mail of plain text.
type letter struct {
	from    *mail.Address
	to      []*mail.Address
	subject string // one line
	text    string
	id      string
	at      time.Time
}

// compose writes a letter as it travels (RFC 5322, RFC 2045). Answers to it are
// nobody's business: no holiday notice comes back (RFC 3834).
func compose(l letter) []byte {
	to := make([]string, len(l.to))
	for i, t := range l.to {
		to[i] = t.String()
	}
	var b bytes.Buffer
	for _, h := range [][2]string{
		{"From", l.from.String()},
		{"To", strings.Join(to, ",\r\n ")},
		{"Subject", mime.QEncoding.Encode("utf-8", l.subject)},
		{"Date", l.at.Format(time.RFC1123Z)},
		{"Message-ID", "<" + l.id + ">"},
		{"Auto-Submitted", "auto-generated"},
		{"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"},
		{"Content-Transfer-Encoding", "quoted-printable"},
	} {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	_, _ = w.Write([]byte(l.text + "\n")) // a buffer takes everything
	_ = w.Close()
	return b.Bytes()
}
