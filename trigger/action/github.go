package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
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

// githubSpec starts GitHub Actions: every workflow that listens for an event,
// or one workflow.
type githubSpec struct {
	Repository    string            `yaml:"repository"`
	EventType     string            `yaml:"event_type"`     // of repository_dispatch
	ClientPayload map[string]any    `yaml:"client_payload"` // default: what was pushed
	Workflow      string            `yaml:"workflow"`       // file name or id, of workflow_dispatch
	Ref           string            `yaml:"ref"`
	Inputs        map[string]string `yaml:"inputs"`
	Token         secret.Ref        `yaml:"token"`
	APIURL        string            `yaml:"api_url"` // https://HOST/api/v3 for Enterprise Server
}

type github struct {
	client *http.Client
	spec   githubSpec
}

// GitHub builds actions that start GitHub Actions.
func GitHub(client *http.Client) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		spec := githubSpec{APIURL: githubAPI}
		if err := decode(&spec); err != nil {
			return nil, err
		}
		spec.APIURL = strings.TrimRight(spec.APIURL, "/")
		if err := errors.Join(spec.check(), present("token", spec.Token)); err != nil {
			return nil, err
		}
		return &github{client, spec}, nil
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
	if s.Token.IsZero() {
		fault("token", "is missing: {env: NAME} or {file: PATH}")
	}
	if u, err := checkURL(s.APIURL); err != nil {
		fault("api_url", "%w", err)
	} else if u.RawQuery != "" {
		fault("api_url", "must not have a query")
	}
	switch {
	case s.EventType == "" && s.Workflow == "":
		fault("event_type", "is missing: give event_type, or workflow and ref")
	case s.EventType != "" && s.Workflow != "":
		fault("workflow", "there is an event_type too; give one of them")
	case s.EventType != "":
		if len([]rune(s.EventType)) > githubEventType {
			fault("event_type", "must have at most %d characters", githubEventType)
		}
		if len(s.ClientPayload) > githubPayloadKeys {
			fault("client_payload", "has %d top-level keys, GitHub takes at most %d; put some below one key", len(s.ClientPayload), githubPayloadKeys)
		}
		if s.Ref != "" || s.Inputs != nil {
			fault("event_type", "ref and inputs belong to workflow; an event carries client_payload")
		}
	default:
		if !githubWorkflow.MatchString(s.Workflow) {
			fault("workflow", "must be the file's name without a path, as in deploy.yml, or its id, not %q", s.Workflow)
		}
		if s.Ref == "" {
			fault("ref", "is missing: the branch or tag whose workflow is run")
		}
		if len(s.Inputs) > githubInputs {
			fault("inputs", "has %d keys, GitHub takes at most %d", len(s.Inputs), githubInputs)
		}
		if s.ClientPayload != nil {
			fault("client_payload", "belongs to event_type; a workflow takes inputs")
		}
	}
	if body, err := s.body(trigger.Run{}); err != nil {
		fault("client_payload", "cannot be written as JSON: %w", err)
	} else if len(body) > githubPayloadBytes {
		errs = append(errs, fmt.Errorf("what is sent has %d bytes, GitHub takes at most %d", len(body), githubPayloadBytes))
	}
	return errors.Join(errs...)
}

// Target is the repository and what is started there.
func (a *github) Target() string {
	if a.spec.Workflow != "" {
		return "github " + a.spec.Repository + " workflow " + a.spec.Workflow + "@" + a.spec.Ref
	}
	return "github " + a.spec.Repository + " event " + a.spec.EventType
}

// Do dispatches once. GitHub does not tell repeats apart, so what may have
// happened is not repeated.
func (a *github) Do(ctx context.Context, run trigger.Run, log io.Writer) error {
	token, err := a.spec.Token.Read()
	if err != nil {
		return trigger.Retry(err) // nothing was sent
	}
	address := a.spec.APIURL + "/repos/" + a.spec.Repository + "/dispatches"
	if a.spec.Workflow != "" {
		address = a.spec.APIURL + "/repos/" + a.spec.Repository + "/actions/workflows/" + url.PathEscape(a.spec.Workflow) + "/dispatches"
	}
	c := newCall(a.client, http.MethodPost, address, address)
	if c.body, err = a.spec.body(run); err != nil {
		return err
	}
	c.secrets = append(c.secrets, token)
	c.header.Set("Accept", "application/vnd.github+json")
	c.header.Set("X-GitHub-Api-Version", "2022-11-28")
	c.header.Set("Authorization", "Bearer "+token)
	c.header.Set("Content-Type", "application/json")
	got, err := c.do(ctx)
	if err != nil {
		return err
	}
	if after, ok := got.rateLimit(time.Now()); ok {
		return &trigger.RetryError{Err: got.words("GitHub's rate limit is used up"), After: after}
	}
	if err := got.checkStatus(a.advice(got.status)); err != nil {
		return err
	}
	var started struct {
		URL string `json:"html_url"`
	}
	if json.Unmarshal(got.body, &started) == nil && started.URL != "" {
		fmt.Fprintln(log, c.hide("GitHub started "+oneLine(showURL(started.URL))))
	} else {
		fmt.Fprintln(log, c.hide(got.String()))
	}
	return nil
}

func (s githubSpec) body(run trigger.Run) ([]byte, error) {
	if s.Workflow != "" {
		body := map[string]any{"ref": s.Ref}
		if s.Inputs != nil {
			body["inputs"] = s.Inputs
		}
		if s.APIURL == githubAPI {
			body["return_run_details"] = true // older Enterprise Servers do not know it
		}
		return json.Marshal(body)
	}
	payload := s.ClientPayload
	if payload == nil {
		e := run.Event
		payload = map[string]any{
			"image": e.Image.String(), "registry": e.Registry, "repository": e.Repository,
			"tag": e.Tag, "digest": e.Digest, "run": strconv.FormatInt(run.ID, 10),
		}
	}
	return json.Marshal(map[string]any{"event_type": s.EventType, "client_payload": payload})
}

// rateLimit reports whether GitHub refused for one of its limits, and how
// long it wants to be left alone, as its documentation orders the signs.
func (a *answer) rateLimit(now time.Time) (time.Duration, bool) {
	if a.status != http.StatusForbidden && a.status != http.StatusTooManyRequests {
		return 0, false
	}
	if after := retryAfter(a.header.Get("Retry-After"), now); after > 0 {
		return after, true
	}
	if a.header.Get("X-RateLimit-Remaining") == "0" {
		reset, _ := strconv.ParseInt(a.header.Get("X-RateLimit-Reset"), 10, 64)
		return min(max(time.Unix(reset, 0).Sub(now), time.Second), retryAfterLimit), true
	}
	limited := a.status == http.StatusTooManyRequests || strings.Contains(strings.ToLower(string(a.body)), "rate limit")
	return githubPause, limited
}

// advice says what to do about an answer other than success.
func (a *github) advice(status int) string {
	permission := "Contents: write (classic tokens: the scope repo)"
	if a.spec.Workflow != "" {
		permission = "Actions: write (classic tokens: the scope repo)"
	}
	switch status {
	case http.StatusUnauthorized:
		return "the token is wrong or has expired"
	case http.StatusForbidden:
		return "the token may not do this: it needs " + permission + " for the repository, and an organisation may have to approve it"
	case http.StatusNotFound:
		return "there is no such repository or workflow, or the token may not see it: it needs " + permission
	case http.StatusUnprocessableEntity:
		return "GitHub does not accept what was sent: does the ref exist, has the workflow on it a workflow_dispatch trigger, and does it declare these inputs?"
	}
	return ""
}
