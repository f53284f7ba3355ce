package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
)

// What GitHub documents as limits of its two dispatch calls.
const (
	githubAPI          = "https://api.github.com"
	githubEventType    = 100         // characters of event_type
	githubPayloadKeys  = 10          // top-level properties of client_payload
	githubInputs       = 25          // inputs of a workflow
	githubPayloadBytes = 64 << 10    // of either, as JSON
	githubPause        = time.Minute // after a secondary rate limit that names no time
)

// githubSpec does one of four things: starts every workflow that listens for an
// event, starts one workflow, records a deployment, or reports a commit status.
type githubSpec struct {
	Repository    string            `yaml:"repository"`
	EventType     string            `yaml:"event_type"`     // of repository_dispatch
	ClientPayload map[string]any    `yaml:"client_payload"` // default: what was pushed
	Workflow      string            `yaml:"workflow"`       // file name or id, of workflow_dispatch
	Ref           string            `yaml:"ref"`
	Inputs        map[string]string `yaml:"inputs"`
	Correlation   string            `yaml:"correlation"` // an input that the workflow has in its run-name
	Wait          waitSpec          `yaml:"wait"`        // for the end of the workflow's run
	Deployment    *githubDeployment `yaml:"deployment"`
	Status        *githubStatus     `yaml:"status"`
	Token         secret.Ref        `yaml:"token"`
	App           *githubApp        `yaml:"app"`
	APIURL        string            `yaml:"api_url"` // https://HOST/api/v3 for Enterprise Server
}

type github struct {
	client *Client
	spec   githubSpec
	shared *githubShared
}

// GitHub builds actions that start GitHub Actions, or tell GitHub of deploys.
func GitHub(client *Client) trigger.Builder {
	shared := &githubShared{}
	return func(decode func(any) error) (trigger.Action, error) {
		spec := githubSpec{APIURL: githubAPI}
		if err := decode(&spec); err != nil {
			return nil, err
		}
		spec.APIURL = strings.TrimRight(spec.APIURL, "/")
		_, err := client.checkURL(spec.APIURL)
		if err != nil {
			err = trigger.Field("api_url", "%w", err)
		}
		if err := errors.Join(err, spec.check(), present("token", spec.Token), spec.App.check()); err != nil {
			return nil, err
		}
		return &github{client, spec, shared}, nil
	}
}

var (
	githubRepository = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*/\.*[A-Za-z0-9_-][A-Za-z0-9_.-]*$`)
	githubWorkflow   = regexp.MustCompile(`^([0-9]+|[^/\s]+\.ya?ml)$`)
)

func (s githubSpec) check() error {
	var errs []error
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	if !githubRepository.MatchString(s.Repository) {
		fault("repository", "must be owner/name, not %q", s.Repository)
	}
	switch {
	case s.Token.IsZero() && s.App == nil:
		fault("token", "is missing: {env: NAME} or {file: PATH}, or give app")
	case !s.Token.IsZero() && s.App != nil:
		fault("token", "there is an app too; give one of them")
	}
	if strings.Contains(s.APIURL, "?") {
		fault("api_url", "must not have a query")
	}
	given := 0
	for _, is := range []bool{s.EventType != "", s.Workflow != "", s.Deployment != nil, s.Status != nil} {
		if is {
			given++
		}
	}
	switch {
	case given == 0:
		fault("event_type", "is missing: give event_type, workflow and ref, deployment, or status")
	case given > 1:
		errs = append(errs, errors.New("event_type, workflow, deployment and status are four things to do: give one of them"))
	}
	errs = append(errs, s.checkEvent(), s.checkWorkflow(), s.Deployment.check(), s.Status.check())
	if body, err := json.Marshal([]any{s.ClientPayload, s.Inputs}); err != nil {
		fault("client_payload", "cannot be written as JSON: %w", err)
	} else if len(body) > githubPayloadBytes {
		errs = append(errs, fmt.Errorf("what is sent has %d bytes, GitHub takes at most %d", len(body), githubPayloadBytes))
	}
	return errors.Join(errs...)
}

func (s githubSpec) checkEvent() error {
	var errs []error
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	if len([]rune(s.EventType)) > githubEventType {
		fault("event_type", "must have at most %d characters", githubEventType)
	}
	if len(s.ClientPayload) > githubPayloadKeys {
		fault("client_payload", "has %d top-level keys, GitHub takes at most %d; put some below one key", len(s.ClientPayload), githubPayloadKeys)
	}
	if s.ClientPayload != nil && s.EventType == "" {
		fault("client_payload", "belongs to event_type; a workflow takes inputs")
	}
	return errors.Join(errs...)
}

func (s githubSpec) checkWorkflow() error {
	errs := []error{checkWait(s.Wait)}
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	if s.Workflow == "" {
		if s.Ref != "" || s.Inputs != nil || s.Wait != nil || s.Correlation != "" {
			fault("workflow", "is missing: ref, inputs, correlation and wait belong to it")
		}
		return errors.Join(errs...)
	}
	if !githubWorkflow.MatchString(s.Workflow) {
		fault("workflow", "must be the file's name without a path, as in deploy.yml, or its id, not %q", s.Workflow)
	}
	if s.Ref == "" {
		fault("ref", "is missing: the branch or tag whose workflow is run")
	}
	if len(s.Inputs) > githubInputs {
		fault("inputs", "has %d keys, GitHub takes at most %d", len(s.Inputs), githubInputs)
	}
	if _, taken := s.Inputs[s.Correlation]; taken {
		fault("correlation", "%s is in inputs too; dockbell sets it", s.Correlation)
	}
	if s.Wait != nil && s.Correlation == "" && s.APIURL != githubAPI {
		fault("correlation", "is missing: Enterprise Server does not say which run it has started, so that wait needs the name of an input that the workflow has in its run-name")
	}
	return errors.Join(errs...)
}

// Target is the repository and what is started there.
func (a *github) Target() string {
	name := "github " + a.spec.Repository
	switch s := a.spec; {
	case s.Status != nil:
		return name + " status " + s.Status.Context
	case s.Deployment != nil:
		return name + " deployment to " + s.Deployment.Environment
	case s.Workflow != "":
		return name + " workflow " + s.Workflow + "@" + s.Ref
	}
	return name + " event " + a.spec.EventType
}

// Do does once what the specification names.
func (a *github) Do(ctx context.Context, run trigger.Run, log io.Writer) error {
	switch {
	case a.spec.Status != nil:
		return a.report(ctx, log)
	case a.spec.Deployment != nil:
		return a.deploy(ctx, run, log)
	case a.spec.Workflow != "":
		return a.workflow(ctx, run, log)
	}
	payload := a.spec.ClientPayload
	if payload == nil {
		payload = pushed(run)
	}
	// GitHub does not tell repeats apart, so what may have happened is not
	// repeated.
	got, err := a.send(ctx, http.MethodPost, "/dispatches", map[string]any{"event_type": a.spec.EventType, "client_payload": payload}, nil)
	if err != nil {
		return err
	}
	if err := got.checkStatus(a.advice(got.status, "Contents")); err != nil {
		return err
	}
	fmt.Fprintln(log, got.call.hide(got.String()))
	return nil
}
