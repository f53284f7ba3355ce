package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
)

// note is what people are told, by the same keys whatever carries it.
type note struct {
	Title string `yaml:"title"` // one line
	Text  string `yaml:"text"`
	Link  string `yaml:"link"`  // to where more is to be read
	State string `yaml:"state"` // of what it tells, for its colour
}

// MessageTemplates are what a message says when a notification does not say it
// otherwise.
func MessageTemplates() map[string]string {
	return map[string]string{"title": "{{.Title}}", "text": "{{.Text}}", "link": "{{.Link}}", "state": "{{.State}}"}
}

// What services take is longer than this, and what people read is shorter.
const (
	mostTitle = 250
	mostText  = 2000
)

// check finds what no service could send.
func (m note) check() error {
	var err error
	if m.Title == "" && m.Text == "" {
		err = trigger.Field("text", "is missing: what to tell people")
	}
	if m.Link != "" {
		if _, linkErr := checkURL(m.Link); linkErr != nil {
			err = errors.Join(err, trigger.Field("link", "%w", linkErr))
		}
	}
	return err
}

// cut is the message in the lengths that all services take.
func (m note) cut() note {
	m.Title, m.Text = clip(oneLine(m.Title), mostTitle), clip(m.Text, mostText)
	return m
}

// plain is the message for services that know nothing but text.
func (m note) plain() string {
	s := m.Title
	for _, part := range []string{m.Text, m.Link} {
		if s != "" && part != "" {
			s += "\n"
		}
		s += part
	}
	return s
}

// mood is what a state is to people.
type mood int

const (
	neutral mood = iota
	good
	warning
	bad
)

var moods = map[string]mood{
	string(trigger.Succeeded): good,
	"approval":                warning, string(trigger.Unknown): warning, string(trigger.Expired): warning, string(trigger.Rejected): warning,
	string(trigger.Failed): bad, string(trigger.RolledBack): bad,
}

// chat is a service with addresses to which messages are posted, each of them a
// secret that says which channel they go to.
type chat struct {
	name   string
	body   func(m note) any
	adjust func(c *call)  // may be nil
	advice map[int]string // what to do about a status
}

type chatSpec struct {
	URL     secret.Ref `yaml:"url"`
	Message note       `yaml:",inline"`
}

type chatAction struct {
	chat
	client *Client
	spec   chatSpec
}

// builder builds actions that write to the service.
func (s chat) builder(client *Client) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		var spec chatSpec
		if err := decode(&spec); err != nil {
			return nil, err
		}
		address, err := spec.URL.Read()
		if err == nil {
			_, err = client.checkURL(address)
		}
		if err != nil {
			err = trigger.Field("url", "%w", err)
		}
		if err := errors.Join(err, spec.Message.check()); err != nil {
			return nil, err
		}
		return &chatAction{s, client, spec}, nil
	}
}

// Target names the service and where its address is kept.
func (a *chatAction) Target() string { return a.name + " " + a.spec.URL.String() }

// Do posts the message. One that comes twice does less harm than one that is
// lost, so it is repeated when it may have arrived.
func (a *chatAction) Do(ctx context.Context, _ trigger.Run, log io.Writer) error {
	address, err := a.spec.URL.Read()
	if err != nil {
		return trigger.Retry(err) // a secret that is not there; nothing was sent
	}
	body, err := json.Marshal(a.body(a.spec.Message.cut()))
	if err != nil {
		return fmt.Errorf("the message cannot be written as JSON: %w", err)
	}
	c := newCall(a.client, http.MethodPost, address, a.spec.URL.String())
	c.body, c.harmless = body, true
	c.header.Set("Content-Type", "application/json")
	if a.adjust != nil {
		a.adjust(c)
	}
	got, err := c.do(ctx)
	if err != nil {
		return err
	}
	if err := got.checkStatus(a.advice[got.status]); err != nil {
		return err
	}
	fmt.Fprintf(log, "%s took the message: %s\n", a.name, got)
	return nil
}
