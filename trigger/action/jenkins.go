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

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
)

// jenkinsSpec starts a Jenkins job.
type jenkinsSpec struct {
	URL        string            `yaml:"url"`        // of the job, as the browser shows it
	Parameters map[string]string `yaml:"parameters"` // {} starts a job with its defaults
	User       string            `yaml:"user"`
	Token      secret.Ref        `yaml:"token"`    // the user's API token
	JobToken   secret.Ref        `yaml:"jobToken"` // of "Trigger builds remotely"
}

type jenkins struct {
	client *http.Client
	spec   jenkinsSpec
	job    string // its URL without a final slash
	root   string // of Jenkins
}

// Jenkins builds actions that start a Jenkins job.
func Jenkins(client *http.Client) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		var spec jenkinsSpec
		if err := decode(&spec); err != nil {
			return nil, err
		}
		errs := []error{present("token", spec.Token), present("jobToken", spec.JobToken)}
		job, root, err := jenkinsJob(spec.URL)
		if err != nil {
			errs = append(errs, trigger.Field("url", "%w", err))
		}
		switch {
		case spec.User != "" && spec.Token.IsZero():
			errs = append(errs, trigger.Field("token", "is missing: the API token of user %s", spec.User))
		case spec.User == "" && !spec.Token.IsZero():
			errs = append(errs, trigger.Field("user", "is missing: an API token counts only with its user; the token of a job is jobToken"))
		}
		if strings.Contains(spec.User, ":") {
			errs = append(errs, trigger.Field("user", "must not hold a colon"))
		}
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		return &jenkins{client, spec, job, root}, nil
	}
}

// jenkinsJob takes the URL of a job apart: a path of job/NAME, in folders and
// views too, below the root of Jenkins.
func jenkinsJob(s string) (job, root string, err error) {
	u, err := checkURL(s)
	if err != nil {
		return "", "", err
	}
	if u.RawQuery != "" || u.ForceQuery {
		return "", "", errors.New("must not have a query; parameters and jobToken have keys of their own")
	}
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
func (a *jenkins) Target() string { return a.job }

// Do queues one build. An API token needs no crumb, so Jenkins is asked for
// one only when it says that it wants one: for a password, or for nobody.
func (a *jenkins) Do(ctx context.Context, _ trigger.Run, log io.Writer) error {
	c, err := a.call()
	if err != nil {
		return trigger.Retry(err) // a secret that is not there; nothing was sent
	}
	got, err := c.do(ctx)
	if err != nil {
		return err
	}
	if got.status == http.StatusForbidden && strings.Contains(strings.ToLower(string(got.body)), "no valid crumb") {
		if err := a.addCrumb(ctx, c); err != nil {
			return err
		}
		if got, err = c.do(ctx); err != nil {
			return err
		}
	}
	if got.status != http.StatusCreated {
		return got.fault(a.advice(got))
	}
	fmt.Fprintln(log, c.hide(fmt.Sprintf("Jenkins queued a build: %s", oneLine(showURL(got.header.Get("Location"))))))
	return nil
}

func (a *jenkins) call() (*call, error) {
	endpoint := a.job + "/build"
	if a.spec.Parameters != nil {
		endpoint += "WithParameters"
	}
	c := newCall(a.client, http.MethodPost, endpoint, endpoint)
	if a.spec.Parameters != nil {
		form := url.Values{}
		for name, v := range a.spec.Parameters {
			form.Set(name, v)
		}
		c.body = []byte(form.Encode())
		c.header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if a.spec.User != "" {
		token, err := a.spec.Token.Read()
		if err != nil {
			return nil, err
		}
		basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(a.spec.User+":"+token))
		c.header.Set("Authorization", basic)
		c.secrets = append(c.secrets, token, basic)
	}
	if !a.spec.JobToken.IsZero() {
		token, err := a.spec.JobToken.Read()
		if err != nil {
			return nil, err
		}
		c.url += "?" + url.Values{"token": {token}}.Encode()
		c.secrets = append(c.secrets, token)
	}
	return c, nil
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
