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
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
)

// gitlabSpec starts a pipeline, by a trigger token or as a user.
type gitlabSpec struct {
	URL       string            `yaml:"url"`     // of GitLab
	Project   string            `yaml:"project"` // path or number
	Ref       string            `yaml:"ref"`
	Variables map[string]string `yaml:"variables"` // default: what was pushed
	Trigger   secret.Ref        `yaml:"trigger"`   // a pipeline trigger token
	Token     secret.Ref        `yaml:"token"`     // an access token with the scope api
	Wait      waitSpec          `yaml:"wait"`      // for the end of the pipeline
}

type gitlab struct {
	client *Client
	spec   gitlabSpec
}

// GitLab builds actions that start GitLab pipelines.
func GitLab(client *Client) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		spec := gitlabSpec{URL: "https://gitlab.com"}
		if err := decode(&spec); err != nil {
			return nil, err
		}
		spec.URL = strings.TrimRight(spec.URL, "/")
		u, err := client.checkURL(spec.URL)
		if err == nil && (u.RawQuery != "" || strings.HasSuffix(u.Path, "/api/v4")) {
			err = errors.New("must be the URL of GitLab alone, as in https://gitlab.example.com")
		}
		if err != nil {
			err = trigger.Field("url", "%w", err)
		}
		if err := errors.Join(err, spec.check()); err != nil {
			return nil, err
		}
		return &gitlab{client, spec}, nil
	}
}

var (
	gitlabProject  = regexp.MustCompile(`^([0-9]+|[^/\s?#]+(/[^/\s?#]+)+)$`)
	gitlabVariable = regexp.MustCompile(`^[A-Za-z0-9_]+$`)
	gitlabPipeline = regexp.MustCompile(`/pipelines/([0-9]+)$`)
)

func (s gitlabSpec) check() error {
	errs := []error{present("trigger", s.Trigger), present("token", s.Token), checkWait(s.Wait)}
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	if !gitlabProject.MatchString(s.Project) {
		fault("project", "must be group/name or the project's number, not %q", s.Project)
	}
	if s.Ref == "" {
		fault("ref", "is missing: the branch or tag whose pipeline is run")
	}
	switch {
	case s.Trigger.IsZero() && s.Token.IsZero():
		fault("token", "is missing: give trigger, a pipeline trigger token, or token, an access token")
	case s.Wait != nil && s.Token.IsZero():
		fault("token", "is missing: a trigger token starts pipelines and does not let them be seen, as wait has to")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Variables)) {
		if !gitlabVariable.MatchString(name) {
			fault("variables", "%q is not the name of a variable: letters, digits and underscores", name)
		}
	}
	return errors.Join(errs...)
}

// Target is the project and the branch or tag.
func (a *gitlab) Target() string { return a.project() + " pipeline of " + a.spec.Ref }

func (a *gitlab) project() string { return a.spec.URL + "/" + a.spec.Project }

// Do starts one pipeline and with `wait` follows it to its end. GitLab does not
// tell repeats apart, so what may have happened is not repeated.
func (a *gitlab) Do(ctx context.Context, run trigger.Run, log io.Writer) error {
	if b, ok := goesOn(run); ok {
		return a.follow(ctx, b, log)
	}
	c, err := a.call(run)
	if err != nil {
		return trigger.Retry(err) // a secret that is not there; nothing was sent
	}
	got, err := c.do(ctx)
	if err != nil {
		return err
	}
	if got.status != http.StatusCreated {
		return got.fault(a.advice(got.status))
	}
	var started struct {
		ID  int64  `json:"id"`
		URL string `json:"web_url"`
	}
	if err := json.Unmarshal(got.body, &started); err != nil || started.ID == 0 {
		if a.spec.Wait != nil {
			return trigger.Uncertain(got.words("GitLab did not say which pipeline it has started"))
		}
		fmt.Fprintln(log, c.hide(got.String()))
		return nil
	}
	pipeline := c.hide(oneLine(showURL(started.URL)))
	if !strings.HasSuffix(pipeline, fmt.Sprintf("/pipelines/%d", started.ID)) {
		pipeline = fmt.Sprintf("%s/-/pipelines/%d", a.project(), started.ID)
	}
	fmt.Fprintln(log, "GitLab started "+pipeline)
	return a.follow(ctx, begun{pipeline, time.Now()}, log)
}

// call is the request that starts the pipeline, as "Trigger a pipeline with a
// token" and "Create a new pipeline" describe it.
func (a *gitlab) call(run trigger.Run) (*call, error) {
	variables := a.spec.Variables
	if variables == nil {
		e := run.Event
		variables = map[string]string{
			"IMAGE": e.Image.String(), "IMAGE_REGISTRY": e.Registry, "IMAGE_REPOSITORY": e.Repository,
			"IMAGE_TAG": e.Tag, "IMAGE_DIGEST": e.Digest,
		}
	}
	if a.spec.Trigger.IsZero() {
		return a.create(variables)
	}
	token, err := a.spec.Trigger.Read()
	if err != nil {
		return nil, err
	}
	form := url.Values{"token": {token}, "ref": {a.spec.Ref}}
	for name, v := range variables {
		form.Set("variables["+name+"]", v)
	}
	c := a.api(http.MethodPost, "/trigger/pipeline")
	c.secrets = append(c.secrets, token)
	c.header.Set("Content-Type", "application/x-www-form-urlencoded")
	c.body = []byte(form.Encode())
	return c, nil
}

func (a *gitlab) create(variables map[string]string) (*call, error) {
	type variable struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	list := []variable{}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		list = append(list, variable{name, variables[name]})
	}
	c := a.api(http.MethodPost, "/pipeline")
	if err := a.authorize(c); err != nil {
		return nil, err
	}
	var err error
	c.header.Set("Content-Type", "application/json")
	c.body, err = json.Marshal(map[string]any{"ref": a.spec.Ref, "variables": list})
	return c, err
}

// api is a call below the project.
func (a *gitlab) api(method, path string) *call {
	address := a.spec.URL + "/api/v4/projects/" + url.PathEscape(a.spec.Project) + path
	return newCall(a.client, method, address, address)
}

// authorize says who calls. A bearer is taken whatever kind of token it is.
func (a *gitlab) authorize(c *call) error {
	token, err := a.spec.Token.Read()
	if err != nil {
		return err
	}
	c.header.Set("Authorization", "Bearer "+token)
	c.secrets = append(c.secrets, token)
	return nil
}

// follow waits for the end of a pipeline.
func (a *gitlab) follow(ctx context.Context, b begun, log io.Writer) error {
	if a.spec.Wait == nil {
		return nil
	}
	ctx = trigger.OnlyWaits(ctx, b.String())
	path := gitlabPipeline.FindString(b.url)
	err := follow(ctx, b.since.Add(*a.spec.Wait), func(ctx context.Context) error {
		var says struct {
			Status string `json:"status"`
		}
		c := a.api(http.MethodGet, path)
		if err := a.authorize(c); err != nil {
			return trigger.Retry(err)
		}
		got, err := c.do(ctx)
		if err == nil {
			err = got.decode(&says, a.advice(got.status))
		}
		if err != nil {
			return lost(err)
		}
		switch says.Status {
		case "success":
			fmt.Fprintln(log, "it ended as success")
			return nil
		case "failed", "canceled", "skipped":
			return fmt.Errorf("the pipeline ended as %s: %s", says.Status, b.url)
		}
		return fmt.Errorf("%w: its status is %s", errNotYet, oneLine(says.Status)) // manual: a person has to start a job
	})
	if errors.Is(err, errNotYet) {
		return fmt.Errorf("%w: %w", notEnded(b.url, *a.spec.Wait), err)
	}
	return err
}

// advice says what to do about an answer other than success.
func (a *gitlab) advice(status int) string {
	switch status {
	case http.StatusBadRequest:
		return "GitLab does not accept what was sent: does the ref exist, and do its rules make a pipeline with at least one job?"
	case http.StatusUnauthorized:
		return "the token is wrong or has expired"
	case http.StatusForbidden:
		return "the token may not do this: it needs the scope api and a role that may run pipelines on this ref (Developer, on protected ones what they ask for), and may have to be allowed to set variables"
	case http.StatusNotFound:
		return "there is no such project, or the token may not see it; a trigger token is good for its own project only"
	}
	return ""
}
