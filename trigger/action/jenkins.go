package action

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
)

// jenkinsSpec starts a Jenkins job, or with webhookToken whatever jobs listen to
// the Generic Webhook Trigger plugin.
type jenkinsSpec struct {
	URL           string            `yaml:"url"`          // of the job, as the browser shows it; with webhookToken of Jenkins
	Parameters    map[string]string `yaml:"parameters"`   // {} starts a job with its defaults
	RunParameter  string            `yaml:"runParameter"` // a parameter of the job that says which run started it
	User          string            `yaml:"user"`
	Token         secret.Ref        `yaml:"token"`         // the user's API token
	JobToken      secret.Ref        `yaml:"jobToken"`      // of "Trigger builds remotely"
	WebhookToken  secret.Ref        `yaml:"webhookToken"`  // of the Generic Webhook Trigger
	Wait          waitSpec          `yaml:"wait"`          // for the end of the build
	AllowUnstable bool              `yaml:"allowUnstable"` // UNSTABLE is success too
}

type jenkins struct {
	client *Client
	spec   jenkinsSpec
	job    string // its URL without a final slash; "" with webhookToken
	root   string // of Jenkins
}

// Jenkins builds actions that start a Jenkins job.
func Jenkins(client *Client) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		var spec jenkinsSpec
		if err := decode(&spec); err != nil {
			return nil, err
		}
		a := &jenkins{client: client, spec: spec}
		u, err := client.checkURL(spec.URL)
		switch {
		case err != nil:
		case u.RawQuery != "" || u.ForceQuery:
			err = errors.New("must not have a query; parameters and tokens have keys of their own")
		case !spec.WebhookToken.IsZero():
			a.root, err = jenkinsRoot(u)
		default:
			a.job, a.root, err = jenkinsJob(u)
		}
		if err != nil {
			err = trigger.Field("url", "%w", err)
		}
		if err := errors.Join(err, spec.check()); err != nil {
			return nil, err
		}
		return a, nil
	}
}

func (s jenkinsSpec) check() error {
	errs := []error{present("token", s.Token), present("jobToken", s.JobToken), present("webhookToken", s.WebhookToken), checkWait(s.Wait)}
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	switch {
	case s.User != "" && s.Token.IsZero():
		fault("token", "is missing: the API token of user %s", s.User)
	case s.User == "" && !s.Token.IsZero():
		fault("user", "is missing: an API token counts only with its user; the token of a job is jobToken")
	}
	if strings.Contains(s.User, ":") {
		fault("user", "must not hold a colon")
	}
	if _, taken := s.Parameters[s.RunParameter]; taken {
		fault("runParameter", "%s is in parameters too; dockbell sets it", s.RunParameter)
	}
	if s.RunParameter != "" && s.Parameters == nil {
		fault("runParameter", "needs parameters: write parameters: {} for a job with no others")
	}
	if !s.WebhookToken.IsZero() && (!s.JobToken.IsZero() || s.RunParameter != "") {
		fault("webhookToken", "starts jobs by itself: leave out jobToken and runParameter")
	}
	return errors.Join(errs...)
}

// jenkinsRoot is the URL of Jenkins without a final slash.
func jenkinsRoot(u *url.URL) (string, error) {
	if strings.Contains(u.EscapedPath()+"/", "/job/") || strings.HasSuffix(u.EscapedPath(), "/invoke") {
		return "", errors.New("must be the URL of Jenkins, as in https://ci.example.com: the token says which jobs are started")
	}
	return strings.TrimRight(u.Scheme+"://"+u.Host+u.EscapedPath(), "/"), nil
}

// jenkinsJob takes the URL of a job apart: a path of job/NAME, in folders and
// views too, below the root of Jenkins.
func jenkinsJob(u *url.URL) (job, root string, err error) {
	job = strings.TrimRight(u.Scheme+"://"+u.Host+u.EscapedPath(), "/")
	segments := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
	first := 0
	for first < len(segments) && segments[first] != "job" && segments[first] != "view" {
		first++
	}
	isJob := false
	for i := first; i < len(segments); i += 2 {
		isJob = segments[i] == "job"
		if i+1 == len(segments) || !isJob && segments[i] != "view" {
			return "", "", fmt.Errorf("must be the URL of the job alone, as in https://ci.example.com/job/NAME, without /%s at its end", segments[i])
		}
		if name := segments[i+1]; name == "" || name == "." || name == ".." {
			return "", "", fmt.Errorf("%q is not the name of a job", name)
		}
	}
	if !isJob {
		return "", "", errors.New("must be the URL of a job, as in https://ci.example.com/job/NAME")
	}
	root = u.Scheme + "://" + u.Host
	if first > 0 {
		root += "/" + strings.Join(segments[:first], "/")
	}
	return job, root, nil
}

// Target is the job.
func (a *jenkins) Target() string {
	if a.job == "" {
		return a.root + " webhook"
	}
	return a.job
}

// Do queues one build and follows it: to its start, and with `wait` to its end.
func (a *jenkins) Do(ctx context.Context, run trigger.Run, log io.Writer) error {
	if b, ok := goesOn(run); ok {
		return a.follow(ctx, b, log)
	}
	var item string
	var err error
	if run.Attempt > 1 && a.marks() {
		if item, err = a.find(ctx, mark(run)); err != nil {
			return err
		}
	}
	if item == "" {
		if item, err = a.start(ctx, run); err != nil {
			return err
		}
	}
	fmt.Fprintln(log, "Jenkins queued a build: "+item)
	return a.follow(ctx, begun{item, time.Now()}, log)
}

// marks reports whether Jenkins keeps with a build which run started it, and
// there is a user who may look.
func (a *jenkins) marks() bool {
	return a.spec.User != "" && (a.spec.RunParameter != "" || !a.spec.JobToken.IsZero())
}

// start queues a build and gives its queue item. An API token needs no crumb, so
// Jenkins is asked for one only when it says that it wants one: for a password,
// or for nobody.
func (a *jenkins) start(ctx context.Context, run trigger.Run) (item string, err error) {
	c, err := a.call(run)
	if err != nil {
		return "", trigger.Retry(err) // a secret that is not there; nothing was sent
	}
	c.harmless = a.marks() // a repeat looks first for what this one has begun
	got, err := c.do(ctx)
	if err != nil {
		return "", err
	}
	if got.status == http.StatusForbidden && strings.Contains(strings.ToLower(string(got.body)), "no valid crumb") {
		if err := a.addCrumb(ctx, c); err != nil {
			return "", err
		}
		if got, err = c.do(ctx); err != nil {
			return "", err
		}
	}
	if a.job == "" {
		return a.triggered(got)
	}
	if got.status != http.StatusCreated {
		return "", got.fault(a.advice(got))
	}
	return c.hide(oneLine(showURL(got.header.Get("Location")))), nil
}

func (a *jenkins) call(run trigger.Run) (*call, error) {
	endpoint := a.job + "/build"
	switch {
	case a.job == "":
		endpoint = a.root + "/generic-webhook-trigger/invoke"
	case a.spec.Parameters != nil:
		endpoint += "WithParameters"
	}
	c := newCall(a.client, http.MethodPost, endpoint, endpoint)
	if err := a.authorize(c); err != nil {
		return nil, err
	}
	if a.job == "" {
		return c, a.fillWebhook(c, run)
	}
	form := url.Values{}
	for name, v := range a.spec.Parameters {
		form.Set(name, v)
	}
	if a.spec.RunParameter != "" {
		form.Set(a.spec.RunParameter, mark(run))
	}
	if !a.spec.JobToken.IsZero() {
		token, err := a.spec.JobToken.Read()
		if err != nil {
			return nil, err
		}
		form.Set("token", token)
		form.Set("cause", mark(run)+": "+run.Event.Image.String())
		c.secrets = append(c.secrets, token)
	}
	if len(form) > 0 {
		c.body = []byte(form.Encode())
		c.header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return c, nil
}

// authorize says who calls.
func (a *jenkins) authorize(c *call) error {
	if a.spec.User == "" {
		return nil
	}
	token, err := a.spec.Token.Read()
	if err != nil {
		return err
	}
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(a.spec.User+":"+token))
	c.header.Set("Authorization", basic)
	c.secrets = append(c.secrets, token, basic)
	return nil
}

// addCrumb gets a crumb and the session for which alone it counts.
func (a *jenkins) addCrumb(ctx context.Context, c *call) error {
	issuer := a.root + "/crumbIssuer/api/json"
	ask := newCall(a.client, http.MethodGet, issuer, issuer)
	ask.secrets = c.secrets
	if auth := c.header.Get("Authorization"); auth != "" {
		ask.header.Set("Authorization", auth)
	}
	got, err := ask.do(ctx)
	if err != nil {
		return err
	}
	if err := got.checkStatus("Jenkins wants a crumb and gives none; an API token with its user needs none"); err != nil {
		return err
	}
	var crumb struct {
		Crumb string `json:"crumb"`
		Field string `json:"crumbRequestField"`
	}
	if err := json.Unmarshal(got.body, &crumb); err != nil || crumb.Crumb == "" || crumb.Field == "" {
		return got.fault("this is no crumb")
	}
	c.header.Set(crumb.Field, crumb.Crumb)
	c.secrets = append(c.secrets, crumb.Crumb)
	var cookies []string
	for _, cookie := range (&http.Response{Header: got.header}).Cookies() {
		cookies = append(cookies, cookie.Name+"="+cookie.Value)
		c.secrets = append(c.secrets, cookie.Value)
	}
	if cookies != nil {
		c.header.Set("Cookie", strings.Join(cookies, "; "))
	}
	return nil
}

// advice says what to do about an answer other than 201.
func (a *jenkins) advice(got *answer) string {
	switch says := string(got.body); {
	case got.status/100 == 2:
		return "Jenkins answers 201 when it has queued a build; does something in front of it answer, such as a login page?"
	case got.status/100 == 3:
		return "no build was queued; does a login page or another address of Jenkins answer?"
	case got.status == http.StatusBadRequest && a.spec.Parameters == nil:
		return "the job has parameters: name them in parameters, or write parameters: {} for its defaults"
	case a.spec.Parameters != nil && strings.Contains(says, "not parameterized"):
		return "the job has no parameters: leave out parameters, or declare them in the job"
	case got.status == http.StatusUnauthorized:
		return "Jenkins does not know this user and token; make an API token on the user's Security page"
	case got.status == http.StatusForbidden && a.spec.User != "":
		return "user " + a.spec.User + " may not start the job: it needs Job/Build and Job/Read, and a jobToken must be the job's"
	case got.status == http.StatusForbidden:
		return "Jenkins does not let just anybody start the job: give user and token; a jobToken alone is enough only where everybody may read the job"
	case got.status == http.StatusNotFound:
		return "there is no such job, or the user may not see it (Job/Read)"
	case got.status == http.StatusMethodNotAllowed:
		return "this is not the address of a job that can be built; a folder or a multibranch project is not one, its branches are"
	case got.status == http.StatusConflict:
		return "the job is disabled"
	}
	return ""
}
