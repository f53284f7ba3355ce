package action

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

func TestGitHub(t *testing.T) {
	const rest = ", repository: shop/deploy, token: {env: GH_TOKEN}, api_url: API}"
	for _, c := range []struct{ spec, dispatch, want string }{
		{
			"{event_type: image-pushed" + rest,
			`image-pushed {"digest":"sha256:` + strings.Repeat("a", 64) + `","image":"registry.example.com/shop/web:v1.2.3","registry":"registry.example.com","repository":"shop/web","run":"77","tag":"v1.2.3"}`, "",
		},
		{`{event_type: x, client_payload: {a: {b: [1, "\"}"]}}` + rest, `x {"a":{"b":[1,"\"}"]}}`, ""},
		{"{event_type: x, client_payload: {}" + rest, `x {}`, ""},
		{"{workflow: deploy.yml, ref: main, inputs: {tag: 1.10}" + rest, `actions/workflows/deploy.yml/dispatches@main {"tag":"1.10"}`, ""},
		{"{workflow: 161335, ref: main" + rest, `actions/workflows/161335/dispatches@main null`, ""},
		{"{workflow: deploy.yml, ref: main, correlation: dockbell" + rest, `actions/workflows/deploy.yml/dispatches@main {"dockbell":"` + mark(aRun) + `"}`, ""},

		{"{event_type: x" + strings.Replace(rest, "GH_TOKEN", "GH_WRONG", 1), "", "answered 401 Unauthorized: the token is wrong or has expired"},
		{"{event_type: x" + strings.Replace(rest, "GH_TOKEN", "GH_READONLY", 1), "", "it needs Contents: write"},
		{"{workflow: deploy.yml, ref: main" + strings.Replace(rest, "GH_TOKEN", "GH_READONLY", 1), "", "it needs Actions: write"},
		{"{event_type: x" + strings.Replace(rest, "shop/deploy", "shop/none", 1), "", "there is no such repository or workflow"},
		{"{workflow: none.yml, ref: main" + rest, "", "there is no such repository or workflow"},
		{"{workflow: deploy.yml, ref: gone" + rest, "", "No ref found for: gone"},
		{"{workflow: deploy.yml, ref: main, inputs: {name: x}" + rest, "", "Unexpected inputs provided"},
		{"{workflow: push-only.yml, ref: main" + rest, "", "has the workflow on it a workflow_dispatch trigger"},
	} {
		f, api := newFakeGitHub(t)
		var log strings.Builder
		err := mustBuild(t, GitHub(aClient()), strings.ReplaceAll(c.spec, "API", api)).Do(t.Context(), aRun, &log)
		if got := strings.Join(f.dispatch, ","); got != c.dispatch {
			t.Errorf("%s: dispatched %s, want %s", c.spec, got, c.dispatch)
		}
		noSecret(t, "the log", log.String())
		if c.want == "" {
			if err != nil || !strings.Contains(log.String(), "answered 204") && !strings.HasPrefix(log.String(), "GitHub started a run of ") {
				t.Errorf("%s: %v, %s", c.spec, err, log.String())
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.spec, err, c.want)
			continue
		}
		noSecret(t, "the error", err.Error())
		if _, again := trigger.Retryable(err); again {
			t.Errorf("%s: repeatable: %v", c.spec, err)
		}
	}
}

// GitHub itself is asked which run it started; an Enterprise Server, which
// may not know the question, is not.
func TestGitHubRunDetails(t *testing.T) {
	f, _ := newFakeGitHub(t)
	log, _, err := tries(t.Context(), mustBuild(t, GitHub(clientOf(f)), "{repository: shop/deploy, workflow: deploy.yml, ref: main, token: {env: GH_TOKEN}}"), aRun)
	if err != nil || len(f.dispatch) != 1 || log != "GitHub started https://github.com/shop/deploy/actions/runs/1\n" {
		t.Errorf("%v, %q, %q", err, f.dispatch, log)
	}
	f.cannot = true
	log, _, err = tries(t.Context(), mustBuild(t, GitHub(clientOf(f)), "{repository: shop/deploy, workflow: deploy.yml, ref: main, token: {env: GH_TOKEN}, api_url: https://ghe.example.com/api/v3}"), aRun)
	if err != nil || len(f.dispatch) != 2 || log != "GitHub started a run of deploy.yml\n" {
		t.Errorf("%v, %q, %q", err, f.dispatch, log)
	}
}

func TestGitHubWait(t *testing.T) {
	const enterprise, marked = ", api_url: https://ghe.example.com/api/v3", ", correlation: dockbell"
	for _, c := range []struct {
		name, spec string
		fake       *fakeGitHub
		want       string // of the error; "" for success
		took       time.Duration
		log, kept  string
	}{
		{"success", "", &fakeGitHub{takes: 5 * time.Minute, ends: "success"}, "", 5 * time.Minute, "it ended as success", runPage(1) + " since "},
		{"failure", "", &fakeGitHub{takes: 5 * time.Minute, ends: "failure"}, "the run ended as failure: " + runPage(1), 5 * time.Minute, "", runPage(1)},
		{"too long", "", &fakeGitHub{takes: 2 * time.Hour}, runPage(1) + " has not ended after 1h0m0s", time.Hour, "", runPage(1)},
		{"found by its name", enterprise + marked, &fakeGitHub{appears: 20 * time.Second, takes: time.Minute, ends: "success", named: true, cannot: true}, "", 80 * time.Second, "it is " + runPage(1), runPage(1)},
		{"no name", enterprise + marked, &fakeGitHub{cannot: true}, "has the workflow its input dockbell in run-name?", time.Hour, "", "a run of deploy.yml"},
		{"not said which", "", &fakeGitHub{}, "", 0, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("GH_TOKEN", githubToken)
			synctest.Test(t, func(t *testing.T) {
				f := c.fake
				var h http.Handler = f
				if c.name == "not said which" {
					h = saysNothing{f}
					c.want = "GitHub did not say which run"
				}
				a := mustBuild(t, GitHub(clientOf(h)), "{repository: shop/deploy, workflow: deploy.yml, ref: main, wait: 1h, token: {env: GH_TOKEN}"+c.spec+"}")
				run, began := aRun, time.Now()
				run.Attempt, run.FirstAt = 1, began
				log, kept, err := tries(t.Context(), a, run)
				if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
				if took := time.Since(began); took < c.took || took > c.took+mostPause {
					t.Errorf("it took %s, want %s", took, c.took)
				}
				if !strings.Contains(log, c.log) || !strings.HasPrefix(kept[len(kept)-1], c.kept) {
					t.Errorf("logged %q, kept %q", log, kept)
				}
				if c.took > mostPause && strings.HasPrefix(c.kept, "https") && f.unchanged == 0 {
					t.Error("nothing is asked with If-None-Match")
				}
			})
		})
	}
}

// saysNothing answers each success with 204.
type saysNothing struct{ http.Handler }

func (s saysNothing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.Handler.ServeHTTP(httptest.NewRecorder(), r)
	w.WriteHeader(http.StatusNoContent)
}

// A run that was cut off goes on with the run it has begun, and one whose answer
// was lost finds it.
func TestGitHubGoesOn(t *testing.T) {
	t.Setenv("GH_TOKEN", githubToken)
	const spec = "{repository: shop/deploy, workflow: deploy.yml, ref: main, wait: 1h, correlation: dockbell, token: {env: GH_TOKEN}}"
	synctest.Test(t, func(t *testing.T) {
		f := &fakeGitHub{takes: 10 * time.Minute, ends: "success", named: true}
		run := aRun
		run.Attempt, run.FirstAt = 1, time.Now()
		_, _, err := tries(t.Context(), mustBuild(t, GitHub(clientOf(losesAnswers{f})), spec), run)
		if _, again := trigger.Retryable(err); !again {
			t.Fatalf("not repeatable: %v", err)
		}
		a := mustBuild(t, GitHub(clientOf(f)), spec)
		run.Attempt = 2
		ctx, cut := context.WithTimeout(t.Context(), time.Minute)
		defer cut()
		log, kept, err := tries(ctx, a, run)
		if err == nil || len(kept) != 1 || !strings.Contains(log, "an earlier try started "+runPage(1)) {
			t.Fatalf("%v, %q, kept %q", err, log, kept)
		}
		run.Attempt, run.Begun = 3, kept[0]
		log, _, err = tries(t.Context(), a, run)
		if err != nil || log != "it ended as success\n" || len(f.runs) != 1 {
			t.Errorf("%v, %q, %d runs", err, log, len(f.runs))
		}
	})
}

func TestGitHubDeployment(t *testing.T) {
	for _, c := range []struct{ spec, log, want string }{
		{"{ref: v1, environment: production}", "deployment 1 of v1 to production\n", ""},
		{"{ref: v1, environment: production, state: success, log_url: https://x}", "deployment 1 of v1 to production\nits state is success\n", ""},
		{"{ref: red, environment: production}", "", "its checks have not succeeded (see required_contexts)"},
		{"{ref: red, environment: production, required_contexts: []}", "deployment 1 of red to production\n", ""},
		{"{ref: gone, environment: production}", "", "No ref found for: gone"},
		{"{ref: behind, environment: production, auto_merge: true}", "", "the next try deploys that"},
	} {
		f, api := newFakeGitHub(t)
		log, _, err := tries(t.Context(), mustBuild(t, GitHub(aClient()), "{repository: shop/deploy, token: {env: GH_TOKEN}, api_url: "+api+", deployment: "+c.spec+"}"), aRun)
		if log != c.log || (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v", c.spec, log, err)
		}
		if len(f.deployments) > 1 {
			t.Errorf("%s: %d deployments", c.spec, len(f.deployments))
		}
	}
}

// A deployment is recorded once, although the answer was lost.
func TestGitHubDeploymentOnce(t *testing.T) {
	f, _ := newFakeGitHub(t)
	const spec = "{repository: shop/deploy, token: {env: GH_TOKEN}, deployment: {ref: v1, environment: prod, payload: {who: me}, state: success}}"
	_, _, err := tries(t.Context(), mustBuild(t, GitHub(clientOf(losesAnswers{f})), spec), trigger.Run{ID: aRun.ID, Attempt: 1})
	if _, again := trigger.Retryable(err); !again {
		t.Fatalf("not repeatable: %v", err)
	}
	_, _, err = tries(t.Context(), mustBuild(t, GitHub(clientOf(f)), spec), trigger.Run{ID: aRun.ID, Attempt: 2})
	if err != nil || len(f.deployments) != 1 || len(f.states) != 1 {
		t.Errorf("%v, %v, %v", err, f.deployments, f.states)
	}
}

func TestGitHubStatus(t *testing.T) {
	f, api := newFakeGitHub(t)
	const spec = "{repository: shop/deploy, token: {env: GH_TOKEN}, api_url: API, status: {sha: SHA, state: success, context: dockbell/prod, target_url: https://x}}"
	at := func(sha string) trigger.Action {
		return mustBuild(t, GitHub(aClient()), strings.NewReplacer("API", api, "SHA", sha).Replace(spec))
	}
	log, _, err := tries(t.Context(), at(githubCommit), aRun)
	if err != nil || log != "commit "+githubCommit+" is success in dockbell/prod\n" || f.states[0] != "statuses/"+githubCommit+" success dockbell/prod" {
		t.Errorf("%v, %q, %q", err, log, f.states)
	}
	if _, _, err := tries(t.Context(), at(strings.Repeat("0", 40)), aRun); err == nil || !strings.Contains(err.Error(), "No commit found") {
		t.Error(err)
	}
}

// An app gets a token for its installation, keeps it as long as it is good, and
// gets another when it is not.
func TestGitHubApp(t *testing.T) {
	f := &fakeGitHub{ends: "success"}
	t.Setenv("APP_KEY", f.appKey(t))
	t.Setenv("OTHER_KEY", (&fakeGitHub{}).appKey(t))
	const spec = "{repository: shop/deploy, event_type: x, app: {id: Iv1.app, key: {env: APP_KEY}}}"
	synctest.Test(t, func(t *testing.T) {
		b := GitHub(clientOf(f))
		do := func(spec string) error {
			log, _, err := tries(t.Context(), mustBuild(t, b, spec), aRun)
			noSecret(t, "the log", log)
			if err != nil {
				noSecret(t, "the error", err.Error())
			}
			return err
		}
		for i, pause := range []time.Duration{0, 50 * time.Minute, 6 * time.Minute} {
			time.Sleep(pause)
			if err := do(spec); err != nil {
				t.Fatal(err)
			}
			if want := 1 + i/2; len(f.tokens) != want {
				t.Errorf("%d tokens after %d calls, want %d", len(f.tokens), i+1, want)
			}
		}
		f.tokens = []string{"revoked"}
		err := do(spec)
		if _, again := trigger.Retryable(err); !again || !strings.Contains(err.Error(), "the next try gets another") {
			t.Error(err)
		}
		if err := do(spec); err != nil {
			t.Error(err)
		}
		if err := do(strings.Replace(spec, "APP_KEY", "OTHER_KEY", 1)); err != nil {
			t.Error("a token is asked for again although one is kept: ", err)
		}
		err = do(strings.NewReplacer("APP_KEY", "OTHER_KEY", "Iv1.app", "Iv1.other").Replace(spec))
		if err == nil || !strings.Contains(err.Error(), "is the app installed for the repository, and are id and key its own?") {
			t.Error(err)
		}
		if err := do(strings.Replace(spec, "id: Iv1.app", "id: Iv1.app, installation: 42", 1)); err != nil {
			t.Error(err)
		}
	})
}

// Who has used up a limit does not call before it is over, whatever else there
// is to do; others do.
func TestGitHubIsLeftAlone(t *testing.T) {
	t.Setenv("GH_TOKEN", githubToken)
	t.Setenv("GH_READONLY", githubReadOnly)
	synctest.Test(t, func(t *testing.T) {
		calls, limited := 0, true
		f := &fakeGitHub{limit: func(w http.ResponseWriter) bool {
			calls++
			if limited {
				w.Header().Set("Retry-After", "120")
				w.WriteHeader(429)
			}
			return limited
		}}
		b := GitHub(clientOf(f))
		do := func(token string) (time.Duration, bool) {
			_, _, err := tries(t.Context(), mustBuild(t, b, "{repository: shop/deploy, event_type: x, token: {env: "+token+"}}"), aRun)
			return trigger.Retryable(err)
		}
		do("GH_TOKEN")
		time.Sleep(30 * time.Second)
		if after, again := do("GH_TOKEN"); !again || after != 90*time.Second || calls != 1 {
			t.Errorf("repeatable %t after %s, %d calls", again, after, calls)
		}
		if do("GH_READONLY"); calls != 2 {
			t.Error("another token's limit counts too")
		}
		limited = false
		time.Sleep(90 * time.Second)
		if _, again := do("GH_TOKEN"); again || len(f.dispatch) != 1 {
			t.Errorf("repeatable %t, %d dispatched", again, len(f.dispatch))
		}
	})
}

func TestGitHubRateLimits(t *testing.T) {
	for _, c := range []struct {
		name     string
		status   int
		header   map[string]string
		body     string
		from, to time.Duration
	}{
		{"primary", 403, map[string]string{"x-ratelimit-remaining": "0", "x-ratelimit-reset": fmt.Sprint(time.Now().Add(20 * time.Minute).Unix())}, "API rate limit exceeded", 19 * time.Minute, 20 * time.Minute},
		{"primary, just over", 429, map[string]string{"x-ratelimit-remaining": "0", "x-ratelimit-reset": fmt.Sprint(time.Now().Add(-time.Minute).Unix())}, "", time.Second, time.Second},
		{"secondary with time", 403, map[string]string{"retry-after": "42", "x-ratelimit-remaining": "0"}, "You have exceeded a secondary rate limit", 42 * time.Second, 42 * time.Second},
		{"secondary", 403, map[string]string{"x-ratelimit-remaining": "4999"}, "You have exceeded a secondary rate limit", time.Minute, time.Minute},
		{"bare 429", 429, nil, "", time.Minute, time.Minute},
	} {
		f, api := newFakeGitHub(t)
		f.limit = func(w http.ResponseWriter) bool {
			for k, v := range c.header {
				w.Header().Set(k, v)
			}
			w.WriteHeader(c.status)
			fmt.Fprintf(w, `{"message":%q}`, c.body)
			return true
		}
		err := mustBuild(t, GitHub(aClient()), "{repository: shop/deploy, event_type: x, token: {env: GH_TOKEN}, api_url: "+api+"}").Do(t.Context(), aRun, io.Discard)
		after, again := trigger.Retryable(err)
		if !again || after < c.from || after > c.to {
			t.Errorf("%s: repeatable %t after %s: %v", c.name, again, after, err)
		}
	}
}

func TestGitHubSpecification(t *testing.T) {
	t.Setenv("GH_TOKEN", githubToken)
	keys := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "k%d: v, ", i)
		}
		return "{" + b.String() + "}"
	}
	const rest = ", repository: a/b, token: {env: GH_TOKEN}}"
	for spec, want := range map[string]string{
		"{event_type: x, repository: web, token: {env: GH_TOKEN}}":                           "repository: must be owner/name",
		"{event_type: x, repository: a/.., token: {env: GH_TOKEN}}":                          "repository: must be owner/name",
		"{event_type: x, repository: ../b, token: {env: GH_TOKEN}}":                          "repository: must be owner/name",
		"{event_type: x, repository: a/b}":                                                   "token: is missing",
		"{repository: a/b, token: {env: GH_TOKEN}}":                                          "event_type: is missing",
		"{event_type: x, workflow: d.yml, ref: m" + rest:                                     "are four things to do: give one of them",
		"{event_type: x, ref: main" + rest:                                                   "workflow: is missing: ref, inputs, correlation and wait belong to it",
		"{event_type: x, app: {id: a, key: {env: GH_TOKEN}}" + rest:                          "token: there is an app too",
		"{event_type: x, app: {key: {env: GH_TOKEN}}" + rest:                                 "app.id: is missing",
		"{event_type: x, repository: a/b, app: {id: a, key: {env: GH_TOKEN}}}":               "app.key: <secret env GH_TOKEN> is no RSA private key",
		"{event_type: x, repository: a/b, app: {id: a}}":                                     "app.key: no secret is given",
		"{workflow: d.yml, ref: m, wait: 1h, api_url: https://ghe.example.com/api/v3" + rest: "correlation: is missing: Enterprise Server",
		"{workflow: d.yml, ref: m, correlation: a, inputs: {a: b}" + rest:                    "correlation: a is in inputs too",
		"{deployment: {state: done, description: " + strings.Repeat("x", 141) + "}" + rest:   "deployment.ref: is missing",
		"{deployment: {ref: a, state: done}" + rest:                                          "deployment.state: must be one of",
		"{deployment: {ref: a, environment: b, log_url: c}" + rest:                           "deployment.state: is missing",
		"{deployment: {ref: a}" + rest:                                                       "deployment.environment: is missing",
		"{status: {sha: abc, state: success, context: c}" + rest:                             "status.sha: must be the whole hash",
		"{status: {sha: " + githubCommit + ", state: inactive, context: c}" + rest:           "status.state: must be one of",
		"{status: {sha: " + githubCommit + ", state: success}" + rest:                        "status.context: is missing",
		"{event_type: " + strings.Repeat("x", 101) + rest:                                    "event_type: must have at most 100",
		"{event_type: x, client_payload: " + keys(11) + rest:                                 "client_payload: has 11 top-level keys",
		"{event_type: x, client_payload: {a: {1: x}}" + rest:                                 "client_payload: cannot be written as JSON",
		"{workflow: d.yml" + rest:                                                            "ref: is missing",
		"{workflow: .github/workflows/d.yml, ref: m" + rest:                                  "workflow: must be the file's name",
		"{workflow: d.yml, ref: m, inputs: " + keys(26) + rest:                               "inputs: has 26 keys",
		"{workflow: d.yml, ref: m, client_payload: {a: b}" + rest:                            "client_payload: belongs to event_type",
		"{workflow: d.yml, ref: m, inputs: {a: " + strings.Repeat("x", 65536) + "}" + rest:   "GitHub takes at most 65536",
		"{event_type: x, api_url: ftp://x" + rest:                                            "api_url: must begin with",
	} {
		_, err := build(GitHub(aClient()), spec)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v, want %q", spec, err, want)
		}
	}
	for _, spec := range []string{
		"{event_type: x, client_payload: " + keys(10) + rest,
		"{workflow: d.yaml, ref: m, inputs: " + keys(25) + rest,
		"{event_type: x, repository: shop/.github, token: {env: GH_TOKEN}}",
	} {
		if _, err := build(GitHub(aClient()), spec); err != nil {
			t.Error(err)
		}
	}
}
