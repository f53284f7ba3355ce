package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
)

// grafanaSpec draws an annotation in Grafana.
type grafanaSpec struct {
	URL       string     `yaml:"url"`   // of Grafana, as the browser shows it
	Token     secret.Ref `yaml:"token"` // of a service account that may write annotations
	Tags      []string   `yaml:"tags"`  // beside dockbell and the state
	Dashboard string     `yaml:"dashboard"`
	Panel     int        `yaml:"panel"`
	From      string     `yaml:"from"`  // RFC 3339; now when left out
	Until     string     `yaml:"until"` // RFC 3339; makes a region of it
	Message   note       `yaml:",inline"`
}

type grafana struct {
	client      *Client
	spec        grafanaSpec
	endpoint    string
	from, until time.Time
}

// GrafanaTemplates are what an annotation says when a notification does not say
// it otherwise: a region from the first try of a run to its end.
func GrafanaTemplates() map[string]string {
	all := MessageTemplates()
	maps.Copy(all, map[string]string{"from": "{{.StartedAt}}", "until": "{{.FinishedAt}}"})
	return all
}

// Grafana builds actions that draw an annotation.
func Grafana(client *Client) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		var spec grafanaSpec
		if err := decode(&spec); err != nil {
			return nil, err
		}
		a := &grafana{client: client, spec: spec}
		errs := []error{present("token", spec.Token), spec.Message.check()}
		fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
		if u, err := client.checkURL(spec.URL); err != nil {
			fault("url", "%w", err)
		} else if u.RawQuery != "" {
			fault("url", "must be that of Grafana itself, without a query")
		} else {
			a.endpoint = strings.TrimRight(spec.URL, "/") + "/api/annotations"
		}
		if spec.Token.IsZero() {
			fault("token", "is missing: that of a service account of Grafana with the permission annotations:create")
		}
		if spec.Panel != 0 && spec.Dashboard == "" {
			fault("dashboard", "is missing: the uid of the one that has the panel, as in its URL")
		}
		for _, t := range []struct {
			field, text string
			into        *time.Time
		}{{"from", spec.From, &a.from}, {"until", spec.Until, &a.until}} {
			var err error
			if *t.into, err = time.Parse(time.RFC3339, t.text); err != nil && t.text != "" {
				fault(t.field, "%q is no time, as in 2026-01-02T15:04:05Z", t.text)
			}
		}
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		return a, nil
	}
}

// Target names the Grafana.
func (a *grafana) Target() string { return "Grafana " + showURL(a.spec.URL) }

// Do draws the annotation. Two of them look like one, so it is repeated when it
// may have been drawn.
func (a *grafana) Do(ctx context.Context, _ trigger.Run, log io.Writer) error {
	token, err := a.spec.Token.Read()
	if err != nil {
		return trigger.Retry(err) // a secret that is not there; nothing was sent
	}
	c := newCall(a.client, http.MethodPost, a.endpoint, a.endpoint)
	if c.body, err = json.Marshal(a.annotation(time.Now())); err != nil {
		return fmt.Errorf("the annotation cannot be written as JSON: %w", err)
	}
	c.harmless, c.secrets = true, append(c.secrets, token)
	c.header.Set("Content-Type", "application/json")
	c.header.Set("Authorization", "Bearer "+token)
	got, err := c.do(ctx)
	if err != nil {
		return err
	}
	if err := got.checkStatus(grafanaAdvice[got.status]); err != nil {
		return err
	}
	fmt.Fprintln(log, "Grafana took the annotation: "+got.String())
	return nil
}

var grafanaAdvice = map[int]string{
	400: "Grafana does not understand the annotation; dashboard must be the uid of one and panel the id of one of its panels",
	401: "Grafana does not know the token; make one for a service account",
	403: "the service account may not write annotations: it needs the role Editor, or the permission annotations:create",
	404: "there is no such dashboard, or no Grafana at this url",
}

// annotation is the body of the request ("Annotations HTTP API": Create
// Annotation). Grafana shows its text as HTML.
func (a *grafana) annotation(now time.Time) any {
	m := a.spec.Message.cut()
	lines := []string{"<b>" + html.EscapeString(m.Title) + "</b>", html.EscapeString(m.Text)}
	if m.Link != "" {
		lines = append(lines, fmt.Sprintf(`<a href="%s">more</a>`, html.EscapeString(m.Link)))
	}
	tags := []string{"dockbell"}
	if m.State != "" {
		tags = append(tags, m.State)
	}
	from := a.from
	if from.IsZero() {
		from = now
	}
	body := map[string]any{"time": from.UnixMilli(), "tags": append(tags, a.spec.Tags...), "text": strings.Join(lines, "\n")}
	if !a.until.IsZero() {
		body["timeEnd"] = a.until.UnixMilli()
	}
	if a.spec.Dashboard != "" {
		body["dashboardUID"] = a.spec.Dashboard
	}
	if a.spec.Panel != 0 {
		body["panelId"] = a.spec.Panel
	}
	return body
}
