package action

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeJenkins answers as Jenkins does: authentication first, then the crumb
// of POST requests, then the job. An API token stands for its crumb; a
// password or nobody needs one that was issued in the same session. A queued
// build starts after the quiet period of its job and ends after its time.
type fakeJenkins struct {
	noCrumbs  bool                                          // CSRF protection is off
	anonymous bool                                          // everybody may read jobs
	known     string                                        // the URL by which Jenkins knows itself; "" for that of the request
	broken    func(w http.ResponseWriter, path string) bool // answers instead
	jobs      map[string]fakeJob

	mu       sync.Mutex
	sessions map[string]string // crumb of each
	builds   []*fakeBuild
}

type fakeJob struct {
	parameters      []string
	token           string
	webhook         string // of the Generic Webhook Trigger
	filtered        bool   // its filter lets nothing through
	disabled, isDir bool
	quiet, takes    time.Duration
	result          string
	cancelled       bool // somebody takes its builds out of the queue
}

// fakeBuild is one that was queued. Its queue item is its place in the list,
// from 1, which is also its number.
type fakeBuild struct {
	job    string
	what   string // for tests to look at
	values []string
	note   string
	queued time.Time
}

const (
	jenkinsUser, jenkinsAPIToken, jenkinsPassword = "ci", "11planted-api", "planted-password"
	jenkinsGuest, jenkinsGuestToken               = "guest", "22planted-guest"
	plantedHook                                   = "planted-webhook-token"
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
	switch {
	case !ok:
		fail(http.StatusNotFound, "Not Found")
		return
	case f.broken != nil && f.broken(w, path):
		return
	case path == "/crumbIssuer/api/json":
		f.issueCrumb(w, fail)
		return
	case path == "/generic-webhook-trigger/invoke": // open to everybody, as the plugin says
		f.webhook(w, r)
		return
	case strings.HasSuffix(path, "/api/json"):
		if user == "" && !f.anonymous {
			fail(http.StatusForbidden, "Authentication required")
			return
		}
		f.show(w, r, strings.TrimSuffix(path, "/api/json"), fail)
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
	say(w, http.StatusOK, map[string]any{"_class": "hudson.security.csrf.DefaultCrumbIssuer", "crumb": crumb, "crumbRequestField": "Jenkins-Crumb"})
}

// say answers with JSON.
func say(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
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
		b := &fakeBuild{job: name, what: name, queued: time.Now()}
		if rightToken {
			b.note = r.Form.Get("cause")
		}
		for _, p := range job.parameters { // Jenkins drops what the job does not declare
			if r.PostForm.Has(p) {
				b.what += fmt.Sprintf(" %s=%s", p, r.PostForm.Get(p))
				b.values = append(b.values, r.PostForm.Get(p))
			}
		}
		f.builds = append(f.builds, b)
		w.Header().Set("Location", fmt.Sprintf("%s/queue/item/%d/", f.root(r), len(f.builds)))
		w.WriteHeader(http.StatusCreated)
	}
}

func (f *fakeJenkins) root(r *http.Request) string {
	if f.known != "" {
		return f.known
	}
	return "http://" + r.Host + "/ci"
}

func (f *fakeJenkins) webhook(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	jobs := map[string]any{}
	for name, job := range f.jobs {
		if job.webhook == "" || job.webhook != r.Header.Get("token") {
			continue
		}
		says := map[string]any{"regexpFilterExpression": "", "regexpFilterText": "", "resolvedVariables": map[string]any{}, "triggered": !job.filtered, "id": 0, "url": ""}
		if !job.filtered {
			f.builds = append(f.builds, &fakeBuild{job: name, what: name + " " + string(body), queued: time.Now()})
			says["id"], says["url"] = len(f.builds), fmt.Sprintf("queue/item/%d/", len(f.builds))
		}
		jobs[strings.TrimPrefix(name, "/job/")] = says
	}
	if len(jobs) == 0 {
		say(w, http.StatusNotFound, map[string]any{"jobs": nil, "message": "Did not find any jobs with GenericTrigger configured! A token was supplied.\n"})
		return
	}
	say(w, http.StatusOK, map[string]any{"jobs": jobs, "message": "Triggered jobs."})
}

// show is the remote access API: of queue items, of builds, and of their lists.
// An item that has left the queue is kept for five minutes.
func (f *fakeJenkins) show(w http.ResponseWriter, r *http.Request, path string, fail func(int, string)) {
	number := func(s string) (int, *fakeBuild) {
		if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= len(f.builds) {
			return n, f.builds[n-1]
		}
		return 0, nil
	}
	if s, ok := strings.CutPrefix(path, "/queue/item/"); ok {
		n, b := number(s)
		if b == nil || time.Since(b.starts(f)) > 5*time.Minute {
			fail(http.StatusNotFound, "Not Found")
			return
		}
		say(w, http.StatusOK, f.item(r, n, b))
		return
	}
	if path == "/queue" {
		items := []any{}
		for i, b := range f.builds {
			if time.Now().Before(b.starts(f)) {
				items = append(items, f.item(r, i+1, b))
			}
		}
		say(w, http.StatusOK, map[string]any{"items": items})
		return
	}
	if _, ok := f.jobs[path]; ok {
		builds := []any{}
		for i, b := range f.builds {
			if b.job == path && !time.Now().Before(b.starts(f)) {
				builds = append(builds, f.build(r, i+1, b))
			}
		}
		say(w, http.StatusOK, map[string]any{"builds": builds})
		return
	}
	n, b := number(path[strings.LastIndex(path, "/")+1:])
	if b == nil || b.job != path[:strings.LastIndex(path, "/")] || time.Now().Before(b.starts(f)) {
		fail(http.StatusNotFound, "Not Found")
		return
	}
	say(w, http.StatusOK, f.build(r, n, b))
}

func (b *fakeBuild) starts(f *fakeJenkins) time.Time { return b.queued.Add(f.jobs[b.job].quiet) }

func (b *fakeBuild) actions() []any {
	var parameters, causes []any
	for _, v := range b.values {
		parameters = append(parameters, map[string]any{"value": v})
	}
	return []any{map[string]any{"parameters": parameters}, map[string]any{"causes": append(causes, map[string]any{"note": b.note})}, map[string]any{}}
}

func (f *fakeJenkins) item(r *http.Request, n int, b *fakeBuild) map[string]any {
	says := map[string]any{"_class": "hudson.model.Queue$WaitingItem", "id": n, "url": fmt.Sprintf("queue/item/%d/", n), "why": "In the quiet period. Expires in 2.4 sec", "actions": b.actions()}
	if !time.Now().Before(b.starts(f)) {
		says["_class"], says["why"], says["cancelled"] = "hudson.model.Queue$LeftItem", nil, f.jobs[b.job].cancelled
		if !f.jobs[b.job].cancelled {
			says["executable"] = map[string]any{"number": n, "url": fmt.Sprintf("%s%s/%d/", f.root(r), escaped(b.job), n)}
		}
	}
	return says
}

func (f *fakeJenkins) build(r *http.Request, n int, b *fakeBuild) map[string]any {
	job := f.jobs[b.job]
	building := time.Now().Before(b.starts(f).Add(job.takes))
	says := map[string]any{"building": building, "result": nil, "duration": 0, "url": fmt.Sprintf("%s%s/%d/", f.root(r), escaped(b.job), n), "actions": b.actions()}
	if !building {
		says["result"], says["duration"] = job.result, job.takes.Milliseconds()
		if job.result == "" {
			says["result"] = "SUCCESS"
		}
	}
	return says
}

func escaped(path string) string { return (&url.URL{Path: path}).EscapedPath() }

func newFakeJenkins(t *testing.T) (*fakeJenkins, string) {
	f := &fakeJenkins{jobs: map[string]fakeJob{
		"/job/web":                              {},
		"/job/param":                            {parameters: []string{"VERSION", "NOTE", "RUN"}},
		"/job/remote":                           {token: plantedJob},
		"/job/off":                              {disabled: true},
		"/job/team":                             {isDir: true},
		"/job/team/job/app/job/feature%2Flogin": {},
		"/view/All/job/web":                     {},
		"/job/hooked":                           {webhook: plantedHook},
		"/job/filtered":                         {webhook: plantedHook + "2", filtered: true},
	}}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return f, server.URL + "/ci"
}

// The fake is held against what "Remote Access API" and "CSRF Protection" of
// Jenkins' documentation show for curl: a crumb is asked for with a cookie jar,
// and counts only with it; a build is queued with 201 and the address of a queue
// item, which turns into one with an executable, whose build has a result.
func TestFakeJenkins(t *testing.T) {
	f, root := newFakeJenkins(t)
	send := func(client *http.Client, method, path, user, password, crumb string) (*http.Response, string) {
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
		req.Header.Set("token", plantedHook)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp, string(body)
	}
	jar, _ := cookiejar.New(nil)
	session, none := &http.Client{Jar: jar}, &http.Client{}
	status := func(want int) func(*http.Response, string) {
		return func(resp *http.Response, _ string) {
			t.Helper()
			if resp.StatusCode != want {
				t.Errorf("%s: status %d, want %d", resp.Request.URL.Path, resp.StatusCode, want)
			}
		}
	}
	says := func(path, want string) {
		t.Helper()
		resp, body := send(none, "GET", path+"/api/json", jenkinsUser, jenkinsAPIToken, "")
		if status(200)(resp, body); !strings.Contains(body, want) {
			t.Errorf("%s says %s, want %s", path, body, want)
		}
	}
	post := func(client *http.Client, path, user, password, crumb string) (*http.Response, string) {
		return send(client, "POST", path, user, password, crumb)
	}
	status(403)(post(none, "/job/web/build", jenkinsUser, jenkinsPassword, ""))
	issued, body := send(session, "GET", "/crumbIssuer/api/json", jenkinsUser, jenkinsPassword, "")
	if status(200)(issued, body); !strings.Contains(body, `"crumb":"planted-crumb0","crumbRequestField":"Jenkins-Crumb"`) {
		t.Errorf("%s", body)
	}
	status(403)(post(none, "/job/web/build", jenkinsUser, jenkinsPassword, "planted-crumb0"))
	queued, _ := post(session, "/job/web/build", jenkinsUser, jenkinsPassword, "planted-crumb0")
	status(201)(queued, "")
	if queued.Header.Get("Location") != root+"/queue/item/1/" {
		t.Errorf("Location %q", queued.Header.Get("Location"))
	}
	says("/queue/item/1", `"executable":{"number":1,"url":"`+root+`/job/web/1/"}`)
	says("/job/web/1", `"result":"SUCCESS"`)
	says("/job/web", `"builds":[{`)
	f.jobs["/job/web"] = fakeJob{quiet: time.Hour}
	status(201)(post(none, "/job/web/build", jenkinsUser, jenkinsAPIToken, ""))
	says("/queue/item/2", `"why":"In the quiet period.`)
	says("/queue", `"url":"queue/item/2/"`)
	status(404)(send(none, "GET", "/job/web/2/api/json", jenkinsUser, jenkinsAPIToken, ""))
	status(405)(send(none, "GET", "/job/web/build", jenkinsUser, jenkinsAPIToken, ""))
	status(401)(post(none, "/job/web/build", jenkinsUser, "wrong", ""))
	status(404)(post(none, "/job/none/build", jenkinsUser, jenkinsAPIToken, ""))
	status(403)(send(none, "GET", "/job/web/build", "", "", ""))
	status(201)(post(none, "/job/remote/build?token="+url.QueryEscape(plantedJob), jenkinsGuest, jenkinsGuestToken, ""))
	status(403)(post(none, "/job/remote/build?token=wrong", jenkinsGuest, jenkinsGuestToken, ""))
	resp, body := post(none, "/generic-webhook-trigger/invoke", "", "", "")
	if status(200)(resp, body); !strings.Contains(body, `"triggered":true,"url":"queue/item/4/"}},"message":"Triggered jobs."}`) {
		t.Errorf("the webhook says %s", body)
	}
	f.noCrumbs = true
	status(404)(send(none, "GET", "/crumbIssuer/api/json", jenkinsUser, jenkinsPassword, ""))
	status(201)(post(none, "/job/web/build", jenkinsUser, jenkinsPassword, ""))
}
