package action

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/dockbell/dockbell/trigger"
)

// fakeJenkins answers as Jenkins does: authentication first, then the crumb
// of POST requests, then the job. An API token stands for its crumb; a
// password or nobody needs one that was issued in the same session.
type fakeJenkins struct {
	noCrumbs  bool // CSRF protection is off
	anonymous bool // everybody may read jobs
	jobs      map[string]fakeJob

	mu       sync.Mutex
	sessions map[string]string // crumb of each
	builds   []string
}

type fakeJob struct {
	parameters      []string
	token           string
	disabled, isDir bool
}

const (
	jenkinsUser, jenkinsAPIToken, jenkinsPassword = "ci", "11planted-api", "planted-password"
	jenkinsGuest, jenkinsGuestToken               = "guest", "22planted-guest"
)

func (f *fakeJenkins) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fail := func(status int, msg string) {
		w.Header().Set("Content-Type", "text/html;charset=iso-8859-1")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<html><head><title>Error %d</title></head><body><h2>HTTP ERROR %d %s</h2></body></html>", status, status, msg)
	}
	user, password, given := r.BasicAuth()
	byToken := user == jenkinsUser && password == jenkinsAPIToken || user == jenkinsGuest && password == jenkinsGuestToken
	if given && !byToken && (user != jenkinsUser || password != jenkinsPassword) {
		fail(http.StatusUnauthorized, "Invalid password/token for user: "+user)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/ci")
	if !ok {
		fail(http.StatusNotFound, "Not Found")
		return
	}
	if path == "/crumbIssuer/api/json" {
		f.issueCrumb(w, fail)
		return
	}
	if r.Method == http.MethodPost && !f.noCrumbs && !byToken {
		session, err := r.Cookie("JSESSIONID.4f1c")
		if err != nil || f.sessions[session.Value] == "" || f.sessions[session.Value] != r.Header.Get("Jenkins-Crumb") {
			fail(http.StatusForbidden, "No valid crumb was included in the request")
			return
		}
	}
	f.job(w, r, path, user, fail)
}

func (f *fakeJenkins) issueCrumb(w http.ResponseWriter, fail func(int, string)) {
	if f.noCrumbs {
		fail(http.StatusNotFound, "Not Found")
		return
	}
	if f.sessions == nil {
		f.sessions = map[string]string{}
	}
	session, crumb := fmt.Sprintf("planted-node0%d", len(f.sessions)), fmt.Sprintf("planted-crumb%d", len(f.sessions))
	f.sessions[session] = crumb
	http.SetCookie(w, &http.Cookie{Name: "JSESSIONID.4f1c", Value: session, Path: "/ci", HttpOnly: true})
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	fmt.Fprintf(w, `{"_class":"hudson.security.csrf.DefaultCrumbIssuer","crumb":%q,"crumbRequestField":"Jenkins-Crumb"}`, crumb)
}

func (f *fakeJenkins) job(w http.ResponseWriter, r *http.Request, path, user string, fail func(int, string)) {
	name, endpoint := path[:strings.LastIndex(path, "/")], path[strings.LastIndex(path, "/")+1:]
	job, ok := f.jobs[name]
	_ = r.ParseForm()
	rightToken := job.token != "" && r.Form.Get("token") == job.token
	switch {
	case user == "" && !f.anonymous:
		fail(http.StatusForbidden, "Authentication required")
	case !ok || endpoint != "build" && endpoint != "buildWithParameters":
		fail(http.StatusNotFound, "Not Found")
	case job.isDir:
		fail(http.StatusMethodNotAllowed, "Method Not Allowed")
	case job.disabled:
		fail(http.StatusConflict, name+" is not buildable")
	case !rightToken && (user != jenkinsUser || r.Form.Has("token") && job.token != ""):
		fail(http.StatusForbidden, user+" is missing the Job/Build permission")
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", "POST")
		fail(http.StatusMethodNotAllowed, "Form post required")
	case endpoint == "build" && job.parameters != nil:
		fail(http.StatusBadRequest, "Nothing is submitted")
	case endpoint == "buildWithParameters" && job.parameters == nil:
		fail(http.StatusInternalServerError, "This build is not parameterized!")
	default:
		build := name
		for _, p := range job.parameters { // Jenkins drops what the job does not declare
			if r.PostForm.Has(p) {
				build += fmt.Sprintf(" %s=%s", p, r.PostForm.Get(p))
			}
		}
		f.builds = append(f.builds, build)
		w.Header().Set("Location", fmt.Sprintf("http://%s/ci/queue/item/%d/", r.Host, len(f.builds)))
		w.WriteHeader(http.StatusCreated)
	}
}

func newFakeJenkins(t *testing.T) (*fakeJenkins, string) {
	f := &fakeJenkins{jobs: map[string]fakeJob{
		"/job/web":                              {},
		"/job/param":                            {parameters: []string{"VERSION", "NOTE"}},
		"/job/remote":                           {token: plantedJob},
		"/job/off":                              {disabled: true},
		"/job/team":                             {isDir: true},
		"/job/team/job/app/job/feature%2Flogin": {},
		"/view/All/job/web":                     {},
	}}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return f, server.URL + "/ci"
}

// The fake is held against the exchange that Jenkins' documentation shows for
// curl: a crumb is asked for with a cookie jar, and counts only with it.
func TestFakeJenkins(t *testing.T) {
	f, root := newFakeJenkins(t)
	send := func(client *http.Client, method, path, user, password, crumb string) *http.Response {
		req, err := http.NewRequest(method, root+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			req.SetBasicAuth(user, password)
		}
		if crumb != "" {
			req.Header.Set("Jenkins-Crumb", crumb)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	jar, _ := cookiejar.New(nil)
	session, none := &http.Client{Jar: jar}, &http.Client{}
	status := func(want int, resp *http.Response) {
		t.Helper()
		if resp.StatusCode != want {
			t.Errorf("status %d, want %d", resp.StatusCode, want)
		}
	}
	status(403, send(none, "POST", "/job/web/build", jenkinsUser, jenkinsPassword, ""))
	issued := send(session, "GET", "/crumbIssuer/api/json", jenkinsUser, jenkinsPassword, "")
	status(200, issued)
	body, _ := io.ReadAll(issued.Body)
	if !strings.Contains(string(body), `"crumb":"planted-crumb0","crumbRequestField":"Jenkins-Crumb"`) {
		t.Errorf("%s", body)
	}
	status(403, send(none, "POST", "/job/web/build", jenkinsUser, jenkinsPassword, "planted-crumb0"))
	queued := send(session, "POST", "/job/web/build", jenkinsUser, jenkinsPassword, "planted-crumb0")
	status(201, queued)
	if queued.Header.Get("Location") != root+"/queue/item/1/" {
		t.Errorf("Location %q", queued.Header.Get("Location"))
	}
	status(201, send(none, "POST", "/job/web/build", jenkinsUser, jenkinsAPIToken, ""))
	status(405, send(none, "GET", "/job/web/build", jenkinsUser, jenkinsAPIToken, ""))
	status(401, send(none, "POST", "/job/web/build", jenkinsUser, "wrong", ""))
	status(404, send(none, "POST", "/job/none/build", jenkinsUser, jenkinsAPIToken, ""))
	status(403, send(none, "GET", "/job/web/build", "", "", ""))
	status(201, send(none, "POST", "/job/remote/build?token="+url.QueryEscape(plantedJob), jenkinsGuest, jenkinsGuestToken, ""))
	status(403, send(none, "POST", "/job/remote/build?token=wrong", jenkinsGuest, jenkinsGuestToken, ""))
	f.noCrumbs = true
	status(404, send(none, "GET", "/crumbIssuer/api/json", jenkinsUser, jenkinsPassword, ""))
	status(201, send(none, "POST", "/job/web/build", jenkinsUser, jenkinsPassword, ""))
}

func TestJenkins(t *testing.T) {
	t.Setenv("API_TOKEN", jenkinsAPIToken)
	t.Setenv("PASSWORD", jenkinsPassword)
	t.Setenv("GUEST", jenkinsGuestToken)
	t.Setenv("WRONG", "planted-wrong-token")
	t.Setenv("JOB_TOKEN", plantedJob)
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
		{name: "job token and user", spec: "{url: ROOT/job/remote, jobToken: {env: JOB_TOKEN}, user: guest, token: {env: GUEST}}", build: "/job/remote"},

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
			a := mustBuild(t, Jenkins(NewClient()), strings.ReplaceAll(c.spec, "ROOT", root))
			var log strings.Builder
			err := a.Do(t.Context(), aRun, &log)
			if built := strings.Join(f.builds, ","); built != c.build {
				t.Errorf("Jenkins built %q, want %q", built, c.build)
			}
			noSecret(t, "the log", log.String())
			if c.want == "" {
				if err != nil || log.String() != "Jenkins queued a build: "+root+"/queue/item/1/\n" {
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
		err := mustBuild(t, Jenkins(NewClient()), "{url: "+server+"/job/web, user: ci, token: {env: API_TOKEN}}").Do(t.Context(), aRun, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestJenkinsSpecification(t *testing.T) {
	t.Setenv("API_TOKEN", jenkinsAPIToken)
	for spec, want := range map[string]string{
		"{url: https://ci/}":                                              "url: must be the URL of a job",
		"{url: https://ci/view/All}":                                      "url: must be the URL of a job",
		"{url: https://ci/job/web/build}":                                 "without /build at its end",
		"{url: https://ci/job/web/buildWithParameters/}":                  "without /buildWithParameters at its end",
		"{url: https://ci/job/../x}":                                      "is not the name of a job",
		"{url: https://ci/job/web/job}":                                   "without /job at its end",
		"{url: 'https://ci/job/web?token=x'}":                             "url: must not have a query",
		"{url: https://ci/job/web, user: ci}":                             "token: is missing",
		"{url: https://ci/job/web, token: {env: API_TOKEN}}":              "user: is missing",
		"{url: https://ci/job/web, user: 'a:b', token: {env: API_TOKEN}}": "user: must not hold a colon",
	} {
		if _, err := build(Jenkins(NewClient()), spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
	a := mustBuild(t, Jenkins(NewClient()), "{url: 'https://ci.example.com/jenkins/job/build/job/job/'}")
	if a.Target() != "https://ci.example.com/jenkins/job/build/job/job" || a.(*jenkins).root != "https://ci.example.com/jenkins" {
		t.Errorf("%s, root %s", a.Target(), a.(*jenkins).root)
	}
}
