package action

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

func TestJenkins(t *testing.T) {
	t.Setenv("API_TOKEN", jenkinsAPIToken)
	t.Setenv("PASSWORD", jenkinsPassword)
	t.Setenv("GUEST", jenkinsGuestToken)
	t.Setenv("WRONG", "planted-wrong-token")
	t.Setenv("JOB_TOKEN", plantedJob)
	t.Setenv("HOOK", plantedHook)
	t.Setenv("HOOK2", plantedHook+"2")
	const byToken = ", user: ci, token: {env: API_TOKEN}}"
	for _, c := range []struct {
		name, spec          string
		noCrumbs, anonymous bool
		build               string // what Jenkins queued; "" for none
		want                string // of the error
	}{
		{name: "api token", spec: "{url: ROOT/job/web" + byToken, build: "/job/web"},
		{name: "final slash", spec: "{url: ROOT/job/web/" + byToken, build: "/job/web"},
		{name: "below a view", spec: "{url: ROOT/view/All/job/web" + byToken, build: "/view/All/job/web"},
		{name: "branch in a folder", spec: "{url: ROOT/job/team/job/app/job/feature%252Flogin" + byToken, build: "/job/team/job/app/job/feature%2Flogin"},
		{
			name: "parameters", spec: `{url: ROOT/job/param, parameters: {VERSION: 1.10, NOTE: "a&VERSION=2 ü+"}` + byToken,
			build: "/job/param VERSION=1.10 NOTE=a&VERSION=2 ü+",
		},
		{name: "default parameters", spec: "{url: ROOT/job/param, parameters: {}" + byToken, build: "/job/param"},
		{name: "password", spec: "{url: ROOT/job/web, user: ci, token: {env: PASSWORD}}", build: "/job/web"},
		{name: "password below a view", spec: "{url: ROOT/view/All/job/web, user: ci, token: {env: PASSWORD}}", build: "/view/All/job/web"},
		{name: "password without crumbs", spec: "{url: ROOT/job/web, user: ci, token: {env: PASSWORD}}", noCrumbs: true, build: "/job/web"},
		{name: "job token", spec: "{url: ROOT/job/remote, jobToken: {env: JOB_TOKEN}}", anonymous: true, build: "/job/remote"},
		{name: "run parameter", spec: "{url: ROOT/job/param, parameters: {}, runParameter: RUN" + byToken, build: "/job/param RUN=" + mark(aRun)},
		{name: "webhook", spec: "{url: ROOT/, webhookToken: {env: HOOK}, parameters: {tag: v1}, user: ci, token: {env: API_TOKEN}}", build: `/job/hooked {"tag":"v1"}`},
		{name: "job token and user", spec: "{url: ROOT/job/remote, jobToken: {env: JOB_TOKEN}, user: guest, token: {env: GUEST}}", build: "/job/remote"},

		{name: "wrong webhook token", spec: "{url: ROOT, webhookToken: {env: WRONG}}", want: "no job with a Generic Webhook Trigger knows this token"},
		{name: "filtered webhook", spec: "{url: ROOT, webhookToken: {env: HOOK2}}", want: "Jenkins has started nothing: no job's filter"},
		{name: "wrong token", spec: "{url: ROOT/job/web, user: ci, token: {env: WRONG}}", want: "answered 401 Unauthorized: Jenkins does not know this user"},
		{name: "no permission", spec: "{url: ROOT/job/web, user: guest, token: {env: GUEST}}", want: "user guest may not start the job"},
		{name: "wrong job token", spec: "{url: ROOT/job/remote, jobToken: {env: WRONG}, user: guest, token: {env: GUEST}}", want: "a jobToken must be the job's"},
		{name: "nobody", spec: "{url: ROOT/job/remote, jobToken: {env: JOB_TOKEN}}", want: "give user and token"},
		{name: "no such job", spec: "{url: ROOT/job/none" + byToken, want: "there is no such job"},
		{name: "folder", spec: "{url: ROOT/job/team" + byToken, want: "a folder or a multibranch project is not one"},
		{name: "disabled", spec: "{url: ROOT/job/off" + byToken, want: "the job is disabled"},
		{name: "parameters missing", spec: "{url: ROOT/job/param" + byToken, want: "write parameters: {} for its defaults"},
		{name: "parameters unknown", spec: "{url: ROOT/job/web, parameters: {A: b}" + byToken, want: "the job has no parameters: leave out"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, root := newFakeJenkins(t)
			f.noCrumbs, f.anonymous = c.noCrumbs, c.anonymous
			a := mustBuild(t, Jenkins(aClient()), strings.ReplaceAll(c.spec, "ROOT", root))
			var log strings.Builder
			err := a.Do(t.Context(), aRun, &log)
			if built := f.built(); built != c.build {
				t.Errorf("Jenkins built %q, want %q", built, c.build)
			}
			noSecret(t, "the log", log.String())
			if c.want == "" {
				if err != nil || !strings.HasPrefix(log.String(), "Jenkins queued a build: "+root+"/queue/item/1/\nJenkins started "+root+"/job/") {
					t.Errorf("%v, %q", err, log.String())
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			noSecret(t, "the error", err.Error())
			if _, again := trigger.Retryable(err); again {
				t.Errorf("repeatable: %v", err)
			}
		})
	}
}

// What answers instead of Jenkins is not taken for success.
func TestJenkinsLoginPage(t *testing.T) {
	t.Setenv("API_TOKEN", jenkinsAPIToken)
	for status, want := range map[int]string{200: "such as a login page?", 302: "does a login page"} {
		server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/login?from=x")
			w.WriteHeader(status)
		})
		err := mustBuild(t, Jenkins(aClient()), "{url: "+server+"/job/web, user: ci, token: {env: API_TOKEN}}").Do(t.Context(), aRun, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestJenkinsSpecification(t *testing.T) {
	t.Setenv("API_TOKEN", jenkinsAPIToken)
	for spec, want := range map[string]string{
		"{url: https://ci/}":                                                                   "url: must be the URL of a job",
		"{url: https://ci/view/All}":                                                           "url: must be the URL of a job",
		"{url: https://ci/job/web/build}":                                                      "without /build at its end",
		"{url: https://ci/job/web/buildWithParameters/}":                                       "without /buildWithParameters at its end",
		"{url: https://ci/job/../x}":                                                           "is not the name of a job",
		"{url: https://ci/job/web/job}":                                                        "without /job at its end",
		"{url: 'https://ci/job/web?token=x'}":                                                  "url: must not have a query",
		"{url: https://ci/job/web, user: ci}":                                                  "token: is missing",
		"{url: https://ci/job/web, token: {env: API_TOKEN}}":                                   "user: is missing",
		"{url: https://ci/job/web, user: 'a:b', token: {env: API_TOKEN}}":                      "user: must not hold a colon",
		"{url: https://ci/job/web, wait: 0s}":                                                  "wait: must be longer than nothing",
		"{url: https://ci/job/web, runParameter: RUN}":                                         "runParameter: needs parameters",
		"{url: https://ci/job/web, parameters: {RUN: x}, runParameter: RUN}":                   "runParameter: RUN is in parameters too",
		"{url: https://ci/job/web, webhookToken: {env: API_TOKEN}}":                            "url: must be the URL of Jenkins",
		"{url: https://ci, webhookToken: {env: API_TOKEN}, runParameter: RUN, parameters: {}}": "webhookToken: starts jobs by itself",
	} {
		if _, err := build(Jenkins(aClient()), spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
	a := mustBuild(t, Jenkins(aClient()), "{url: 'https://ci.example.com/jenkins/job/build/job/job/'}")
	if a.Target() != "https://ci.example.com/jenkins/job/build/job/job" || a.(*jenkins).root != "https://ci.example.com/jenkins" {
		t.Errorf("%s, root %s", a.Target(), a.(*jenkins).root)
	}
}

// built is what Jenkins has queued.
func (f *fakeJenkins) built() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, b := range f.builds {
		all = append(all, b.what)
	}
	return strings.Join(all, ",")
}

// inMemory answers calls without a network, so that their time can be made up.
type inMemory struct{ http.Handler }

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	in := r.Clone(r.Context())
	in.Host = r.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	}
	m.ServeHTTP(answer, in)
	return answer.Result(), r.Context().Err()
}

// clientOf is the real client, but for the network: h answers everything.
func clientOf(h http.Handler) *Client {
	client := aClient()
	client.asks.Transport, client.does.Transport = inMemory{h}, inMemory{h}
	return client
}

// tries does an action as the queue would: what it has begun is kept, and then
// it has no time limit. It gives what was kept, in order.
func tries(ctx context.Context, a trigger.Action, run trigger.Run) (log string, begun []string, err error) {
	limited, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var out strings.Builder
	err = a.Do(trigger.WithOnlyWaits(limited, func(text string) context.Context {
		cancel()
		begun = append(begun, text)
		return ctx
	}), run, &out)
	return out.String(), begun, err
}

func TestJenkinsWait(t *testing.T) {
	t.Setenv("API_TOKEN", jenkinsAPIToken)
	const root = "https://ci.example.com/ci"
	for _, c := range []struct {
		name string
		job  fakeJob
		spec string
		want string // of the error; "" for success
		took time.Duration
		log  string
	}{
		{"success", fakeJob{quiet: 5 * time.Second, takes: time.Minute}, "wait: 10m", "", 65 * time.Second, "it ended as SUCCESS after 1m0s"},
		{"failure", fakeJob{takes: time.Minute, result: "FAILURE"}, "wait: 10m", "the build ended as FAILURE after 1m0s: " + root + "/job/web/1/console", time.Minute, "Jenkins started " + root + "/job/web/1/console"},
		{"unstable", fakeJob{result: "UNSTABLE"}, "wait: 10m", "the build ended as UNSTABLE", 0, ""},
		{"unstable is fine", fakeJob{result: "UNSTABLE"}, "wait: 10m, allowUnstable: true", "", 0, "it ended as UNSTABLE"},
		{"too long", fakeJob{takes: time.Hour}, "wait: 10m", root + "/job/web/1/console has not ended after 10m0s", 10 * time.Minute, ""},
		{"too long in the queue", fakeJob{quiet: time.Hour}, "wait: 10m", "In the quiet period", 10 * time.Minute, ""},
		{"cancelled", fakeJob{cancelled: true}, "wait: 10m", "was cancelled before it became a build", 0, ""},
		{"cancelled, no wait", fakeJob{cancelled: true}, "", "was cancelled before it became a build", 0, ""},
		{"no wait", fakeJob{quiet: 5 * time.Second, takes: time.Hour}, "", "", 5 * time.Second, "Jenkins started " + root + "/job/web/1/console"},
		{"no wait, long queue", fakeJob{quiet: time.Hour}, "", "", jenkinsGlance, "whether the build has started is not known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeJenkins{jobs: map[string]fakeJob{"/job/web": c.job}, known: "http://inside:8080/ci"}
				a := mustBuild(t, Jenkins(clientOf(f)), "{url: "+root+"/job/web, user: ci, token: {env: API_TOKEN}, "+c.spec+"}")
				began := time.Now()
				log, begun, err := tries(t.Context(), a, aRun)
				if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
				if took := time.Since(began); took < c.took || took > c.took+mostPause {
					t.Errorf("it took %s, want %s", took, c.took)
				}
				if !strings.Contains(log, c.log) {
					t.Errorf("logged %q, want %q", log, c.log)
				}
				if !strings.HasPrefix(begun[0], "http://inside:8080/ci/queue/item/1/ since ") || len(begun) > 1 && !strings.HasPrefix(begun[1], root+"/job/web/1/ since ") {
					t.Errorf("kept %q", begun)
				}
				if _, again := trigger.Retryable(err); again {
					t.Errorf("repeatable: %v", err)
				}
			})
		})
	}
}

// A run that was cut off goes on with what it has begun: no second build. The
// time for it goes on too.
func TestJenkinsGoesOn(t *testing.T) {
	t.Setenv("API_TOKEN", jenkinsAPIToken)
	synctest.Test(t, func(t *testing.T) {
		f := &fakeJenkins{jobs: map[string]fakeJob{"/job/web": {quiet: time.Minute, takes: time.Hour}}}
		a := mustBuild(t, Jenkins(clientOf(f)), "{url: https://ci.example.com/ci/job/web, user: ci, token: {env: API_TOKEN}, wait: 2h}")
		run := aRun
		for _, after := range []time.Duration{30 * time.Second, 20 * time.Minute} { // in the queue, and then as a build
			ctx, cut := context.WithTimeout(t.Context(), after)
			_, kept, err := tries(ctx, a, run)
			cut()
			if err == nil || len(kept) == 0 {
				t.Fatalf("%v, kept %q", err, kept)
			}
			run.Begun, run.Attempt = kept[len(kept)-1], run.Attempt+1
		}
		time.Sleep(10 * time.Minute) // Jenkins has forgotten the queue item
		log, _, err := tries(t.Context(), a, run)
		if err != nil || !strings.Contains(log, "it ended as SUCCESS") || f.built() != "/job/web" {
			t.Errorf("%v, %q, built %s", err, log, f.built())
		}
	})
}

// What Jenkins cannot say for a while is asked again, and what it will never say
// leaves the outcome open.
func TestJenkinsTroubleWhileWaiting(t *testing.T) {
	t.Setenv("API_TOKEN", jenkinsAPIToken)
	for status, want := range map[int]string{503: "", 502: "", 404: "there is no such job"} {
		synctest.Test(t, func(t *testing.T) {
			asked := 0
			f := &fakeJenkins{jobs: map[string]fakeJob{"/job/web": {takes: time.Minute}}}
			f.broken = func(w http.ResponseWriter, path string) bool {
				if !strings.HasSuffix(path, "/1/api/json") || !strings.HasPrefix(path, "/job/") {
					return false
				}
				if asked++; asked > 5 {
					return false
				}
				w.WriteHeader(status)
				return true
			}
			a := mustBuild(t, Jenkins(clientOf(f)), "{url: https://ci.example.com/ci/job/web, user: ci, token: {env: API_TOKEN}, wait: 1h}")
			_, _, err := tries(t.Context(), a, aRun)
			var uncertain *trigger.UncertainError
			if (want == "") != (err == nil) || err != nil && !errors.As(err, &uncertain) {
				t.Errorf("%d: %v", status, err)
			}
		})
	}
}

// A build whose answer was lost is found again by what it knows of the run.
func TestJenkinsFindsWhatItHasBegun(t *testing.T) {
	t.Setenv("API_TOKEN", jenkinsAPIToken)
	t.Setenv("JOB_TOKEN", plantedJob)
	for name, spec := range map[string]string{
		"parameter": "{url: ROOT/job/param, parameters: {VERSION: 1}, runParameter: RUN, user: ci, token: {env: API_TOKEN}}",
		"cause":     "{url: ROOT/job/remote, jobToken: {env: JOB_TOKEN}, user: guest, token: {env: GUEST}}",
	} {
		t.Setenv("GUEST", jenkinsGuestToken)
		for _, quiet := range []time.Duration{0, time.Hour} { // a build, or a queue item
			synctest.Test(t, func(t *testing.T) {
				f := &fakeJenkins{jobs: map[string]fakeJob{
					"/job/param":  {parameters: []string{"VERSION", "RUN"}, quiet: quiet},
					"/job/remote": {token: plantedJob, quiet: quiet},
				}}
				a := mustBuild(t, Jenkins(clientOf(losesAnswers{f})), strings.ReplaceAll(spec, "ROOT", "https://ci.example.com/ci"))
				first := aRun
				first.Attempt = 1
				_, _, err := tries(t.Context(), a, first)
				if _, again := trigger.Retryable(err); !again {
					t.Fatalf("%s: not repeatable: %v", name, err)
				}
				a.(*jenkins).client = clientOf(f)
				if _, _, err := tries(t.Context(), a, aRun); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				other := aRun
				other.ID = 7 // begins as 77 does
				if _, _, err := tries(t.Context(), a, other); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if n := len(f.builds); n != 2 {
					t.Errorf("%s: %d builds, want 2: %s", name, n, f.built())
				}
			})
		}
	}
}

// losesAnswers lets a call happen and answers as a proxy that gave up does.
type losesAnswers struct{ http.Handler }

func (l losesAnswers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.Handler.ServeHTTP(httptest.NewRecorder(), r)
	w.WriteHeader(http.StatusGatewayTimeout)
}
