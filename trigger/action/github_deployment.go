package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/dockbell/dockbell/trigger"
)

// githubDeployment records a deployment, and with a state what became of it. The
// keys are those of "REST API endpoints for deployments".
type githubDeployment struct {
	Ref              string         `yaml:"ref"`
	Environment      string         `yaml:"environment"`
	Task             string         `yaml:"task"`
	Description      string         `yaml:"description"`
	Payload          map[string]any `yaml:"payload"`
	AutoMerge        bool           `yaml:"auto_merge"`
	RequiredContexts *[]string      `yaml:"required_contexts"` // left out: all; []: none
	Production       *bool          `yaml:"production_environment"`
	Transient        *bool          `yaml:"transient_environment"`
	State            string         `yaml:"state"`
	LogURL           string         `yaml:"log_url"`
	EnvironmentURL   string         `yaml:"environment_url"`
}

// githubStatus reports on a commit. The keys are those of "REST API endpoints
// for commit statuses".
type githubStatus struct {
	SHA         string `yaml:"sha"`
	State       string `yaml:"state"`
	Context     string `yaml:"context"`
	Description string `yaml:"description"`
	TargetURL   string `yaml:"target_url"`
}

const githubDescription = 140 // characters

var (
	deploymentStates = []string{"error", "failure", "inactive", "in_progress", "pending", "queued", "success"}
	statusStates     = []string{"error", "failure", "pending", "success"}
	commitHash       = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
)

func (d *githubDeployment) check() error {
	if d == nil {
		return nil
	}
	var errs []error
	fault := func(field, format string, args ...any) {
		errs = append(errs, trigger.Field("deployment."+field, format, args...))
	}
	if d.Ref == "" {
		fault("ref", "is missing: the branch, tag or commit that is deployed")
	}
	if d.Environment == "" {
		fault("environment", "is missing: where to, as in production")
	}
	if d.State != "" && !slices.Contains(deploymentStates, d.State) {
		fault("state", "must be one of %s, not %q", strings.Join(deploymentStates, ", "), d.State)
	}
	if d.State == "" && d.LogURL+d.EnvironmentURL != "" {
		fault("state", "is missing: log_url and environment_url belong to it")
	}
	if len([]rune(d.Description)) > githubDescription {
		fault("description", "must have at most %d characters", githubDescription)
	}
	if _, err := json.Marshal(d.Payload); err != nil {
		fault("payload", "cannot be written as JSON: %w", err)
	}
	return errors.Join(errs...)
}

func (s *githubStatus) check() error {
	if s == nil {
		return nil
	}
	var errs []error
	fault := func(field, format string, args ...any) {
		errs = append(errs, trigger.Field("status."+field, format, args...))
	}
	if !commitHash.MatchString(s.SHA) {
		fault("sha", "must be the whole hash of a commit, not %q", s.SHA)
	}
	if !slices.Contains(statusStates, s.State) {
		fault("state", "must be one of %s, not %q", strings.Join(statusStates, ", "), s.State)
	}
	if s.Context == "" {
		fault("context", "is missing: what the status is about, as in dockbell/prod")
	}
	if len([]rune(s.Description)) > githubDescription {
		fault("description", "must have at most %d characters", githubDescription)
	}
	return errors.Join(errs...)
}

// report sets a commit status. The newest of a context counts, so that a repeat
// does no harm.
func (a *github) report(ctx context.Context, log io.Writer) error {
	s := a.spec.Status
	body := filled(map[string]any{"state": s.State, "context": s.Context, "description": s.Description, "target_url": s.TargetURL})
	got, err := a.send(ctx, http.MethodPost, "/statuses/"+s.SHA, body, func(c *call) { c.harmless = true })
	if err != nil {
		return err
	}
	if err := got.checkStatus(a.advice(got.status, "Commit statuses")); err != nil {
		return err
	}
	fmt.Fprintf(log, "commit %s is %s in %s\n", s.SHA, s.State, s.Context)
	return nil
}

// runKey is the key of a deployment's payload by which a run finds the one that
// an earlier try of it has made.
const runKey = "dockbell_run"

// deploy records a deployment, once for the run, and then its state.
func (a *github) deploy(ctx context.Context, run trigger.Run, log io.Writer) error {
	d := a.spec.Deployment
	id, err := int64(0), error(nil)
	if run.Attempt > 1 {
		if id, err = a.earlier(ctx, mark(run)); err != nil {
			return err
		}
	}
	if id == 0 {
		if id, err = a.record(ctx, mark(run)); err != nil {
			return err
		}
	}
	fmt.Fprintf(log, "deployment %d of %s to %s\n", id, d.Ref, d.Environment)
	if d.State == "" {
		return nil
	}
	body := filled(map[string]any{"state": d.State, "description": d.Description, "log_url": d.LogURL, "environment_url": d.EnvironmentURL})
	got, err := a.send(ctx, http.MethodPost, fmt.Sprintf("/deployments/%d/statuses", id), body, func(c *call) { c.harmless = true })
	if err != nil {
		return err
	}
	if err := got.checkStatus(a.advice(got.status, "Deployments")); err != nil {
		return err
	}
	fmt.Fprintln(log, "its state is "+d.State)
	return nil
}

func (a *github) record(ctx context.Context, mark string) (id int64, err error) {
	d := a.spec.Deployment
	payload := maps.Clone(d.Payload)
	if payload == nil {
		payload = map[string]any{}
	}
	payload[runKey] = mark
	body := filled(map[string]any{"task": d.Task, "description": d.Description})
	body["ref"], body["environment"], body["auto_merge"], body["payload"] = d.Ref, d.Environment, d.AutoMerge, payload
	if d.RequiredContexts != nil {
		body["required_contexts"] = *d.RequiredContexts
	}
	if d.Production != nil {
		body["production_environment"] = *d.Production
	}
	if d.Transient != nil {
		body["transient_environment"] = *d.Transient
	}
	got, err := a.send(ctx, http.MethodPost, "/deployments", body, func(c *call) { c.harmless = true }) // a repeat looks first
	if err != nil {
		return 0, err
	}
	if got.status == http.StatusAccepted {
		return 0, got.retry(got.words("GitHub has merged the default branch into the ref instead (auto_merge); the next try deploys that"))
	}
	var says struct {
		ID int64 `json:"id"`
	}
	err = got.decode(&says, a.advice(got.status, "Deployments"))
	return says.ID, err
}

// earlier gives the deployment that an earlier try of a run has made; 0 when
// there is none.
func (a *github) earlier(ctx context.Context, mark string) (id int64, err error) {
	d := a.spec.Deployment
	query := url.Values{"environment": {d.Environment}, "ref": {d.Ref}, "per_page": {fmt.Sprint(githubLately)}}
	got, err := a.send(ctx, http.MethodGet, "/deployments?"+query.Encode(), nil, nil)
	if err != nil {
		return 0, lost(err)
	}
	var says []struct {
		ID      int64           `json:"id"`
		Payload json.RawMessage `json:"payload"` // an object, or a string
	}
	if err := got.decode(&says, a.advice(got.status, "Deployments")); err != nil {
		return 0, lost(err)
	}
	for _, found := range says {
		var payload map[string]any
		if json.Unmarshal(found.Payload, &payload) == nil && payload[runKey] == mark {
			return found.ID, nil
		}
	}
	return 0, nil
}

// filled leaves out what is empty, for which GitHub has defaults.
func filled(body map[string]any) map[string]any {
	maps.DeleteFunc(body, func(_ string, v any) bool { return v == "" })
	return body
}
