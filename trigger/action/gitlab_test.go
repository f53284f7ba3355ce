package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// fakeGitLab answers as GitLab's API documentation says: 201 with the pipeline,
// 400 for a ref that is not there, 401 for a bad token, 403 for one that may not
// do it, 404 for what a token cannot see.
type fakeGitLab struct {
	takes time.Duration
	ends  string
	known string // the URL by which GitLab knows itself

	started []string
	began   []time.Time
}

const (
	gitlabToken, gitlabGuest = "glpat-planted", "glpat-planted-guest"
	gitlabTrigger            = "glptt-planted"
)

func (f *fakeGitLab) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := r.Header.Get("PRIVATE-TOKEN")
	if token == "" {
		token = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	}
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/api/v4/projects/shop%2Fdeploy/")
	if !ok {
		path, ok = strings.CutPrefix(r.URL.EscapedPath(), "/api/v4/projects/7/")
	}
	var n int
	switch {
	case path == "trigger/pipeline" && r.Method == http.MethodPost:
		if r.FormValue("token") != gitlabTrigger {
			say(w, 404, map[string]string{"message": "404 Not Found"})
			return
		}
		variables := map[string]string{}
		for name := range r.PostForm {
			if key, ok := strings.CutPrefix(name, "variables["); ok {
				variables[strings.TrimSuffix(key, "]")] = r.PostFormValue(name)
			}
		}
		f.start(w, r.FormValue("ref"), variables)
	case token != gitlabToken && token != gitlabGuest:
		say(w, 401, map[string]string{"message": "401 Unauthorized"})
	case !ok:
		say(w, 404, map[string]string{"message": "404 Project Not Found"})
	case path == "pipeline" && r.Method == http.MethodPost:
		var body struct {
			Ref       string
			Variables []struct{ Key, Value string }
		}
		if json.NewDecoder(r.Body).Decode(&body) != nil {
			say(w, 400, map[string]string{"error": "body is invalid"})
			return
		}
		if token == gitlabGuest {
			say(w, 403, map[string]string{"message": "403 Forbidden"})
			return
		}
		variables := map[string]string{}
		for _, v := range body.Variables {
			variables[v.Key] = v.Value
		}
		f.start(w, body.Ref, variables)
	case r.Method == http.MethodGet && scan(path, "pipelines/%d", &n) && n <= len(f.began):
		status := "running"
		if time.Since(f.began[n-1]) >= f.takes {
			status = f.ends
		}
		say(w, 200, map[string]any{"id": n, "status": status, "web_url": f.page(n)})
	default:
		say(w, 404, map[string]string{"message": "404 Not found"})
	}
}

func scan(s, format string, into *int) bool {
	_, err := fmt.Sscanf(s, format, into)
	return err == nil && *into > 0
}

func (f *fakeGitLab) page(n int) string {
	return fmt.Sprintf("%s/shop/deploy/-/pipelines/%d", f.known, n)
}

func (f *fakeGitLab) start(w http.ResponseWriter, ref string, variables map[string]string) {
	if ref != "main" {
		say(w, 400, map[string]any{"message": map[string]any{"base": []string{"Reference not found"}}})
		return
	}
	text, _ := json.Marshal(variables)
	f.started, f.began = append(f.started, ref+" "+string(text)), append(f.began, time.Now())
	n := len(f.began)
	say(w, 201, map[string]any{"id": n, "project_id": 7, "ref": ref, "status": "pending", "web_url": f.page(n)})
}

// The fake is held against the requests that "Pipeline trigger tokens API" and
// "Pipelines API" of GitLab's documentation show.
func TestFakeGitLab(t *testing.T) {
	server := httptest.NewServer(&fakeGitLab{known: "https://gitlab.example.com", ends: "success"})
	defer server.Close()
	for _, c := range []struct {
		method, path, token, contentType, body string
		status                                 int
		says                                   string
	}{
		{"POST", "shop%2Fdeploy/trigger/pipeline", "", "application/x-www-form-urlencoded", "token=" + gitlabTrigger + "&ref=main&variables%5BUPLOAD_TO_S3%5D=true", 201, `"web_url":"https://gitlab.example.com/shop/deploy/-/pipelines/1"`},
		{"POST", "7/trigger/pipeline", "", "application/x-www-form-urlencoded", "token=wrong&ref=main", 404, "404 Not Found"},
		{"POST", "7/pipeline", gitlabToken, "application/json", `{"ref":"main","variables":[{"key":"A","value":"b"}]}`, 201, `"status":"pending"`},
		{"POST", "7/pipeline", gitlabToken, "application/json", `{"ref":"gone"}`, 400, `{"message":{"base":["Reference not found"]}}`},
		{"POST", "7/pipeline", gitlabGuest, "application/json", `{"ref":"main"}`, 403, "403 Forbidden"},
		{"POST", "7/pipeline", "wrong", "application/json", `{"ref":"main"}`, 401, "401 Unauthorized"},
		{"GET", "7/pipelines/1", gitlabToken, "", "", 200, `"status":"success"`},
		{"GET", "7/pipelines/9", gitlabToken, "", "", 404, "404 Not found"},
		{"GET", "8/pipelines/1", gitlabToken, "", "", 404, "404 Project Not Found"},
	} {
		req, err := http.NewRequest(c.method, server.URL+"/api/v4/projects/"+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", c.contentType)
		req.Header.Set("PRIVATE-TOKEN", c.token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status || !strings.Contains(string(body), c.says) {
			t.Errorf("%s %s: %d %s", c.path, c.body, resp.StatusCode, body)
		}
	}
}

func gitlabTokens(t *testing.T) {
	t.Setenv("GL_TOKEN", gitlabToken)
	t.Setenv("GL_GUEST", gitlabGuest)
	t.Setenv("GL_TRIGGER", gitlabTrigger)
	t.Setenv("GL_WRONG", "glpat-planted-wrong")
}

func TestGitLab(t *testing.T) {
	gitlabTokens(t)
	for _, c := range []struct{ spec, started, want string }{
		{"project: shop/deploy, ref: main, token: {env: GL_TOKEN}, variables: {A: 1.10, B: 'a&b=\"'}", `main {"A":"1.10","B":"a\u0026b=\""}`, ""},
		{"project: 7, ref: main, trigger: {env: GL_TRIGGER}, variables: {A: 'a&b=]'}", `main {"A":"a\u0026b=]"}`, ""},
		{"project: 7, ref: main, trigger: {env: GL_TRIGGER}, variables: {}", `main {}`, ""},
		{
			"project: 7, ref: main, token: {env: GL_TOKEN}",
			`main {"IMAGE":"registry.example.com/shop/web:v1.2.3","IMAGE_DIGEST":"sha256:` + strings.Repeat("a", 64) + `","IMAGE_REGISTRY":"registry.example.com","IMAGE_REPOSITORY":"shop/web","IMAGE_TAG":"v1.2.3"}`, "",
		},
		{"project: 7, ref: gone, token: {env: GL_TOKEN}", "", "Reference not found"},
		{"project: 7, ref: main, token: {env: GL_WRONG}", "", "the token is wrong or has expired"},
		{"project: 7, ref: main, token: {env: GL_GUEST}", "", "it needs the scope api and a role"},
		{"project: 7, ref: main, trigger: {env: GL_WRONG}", "", "a trigger token is good for its own project only"},
		{"project: shop/none, ref: main, token: {env: GL_TOKEN}", "", "there is no such project"},
	} {
		f := &fakeGitLab{known: "https://gitlab.example.com"}
		server := httptest.NewServer(f)
		log, _, err := tries(t.Context(), mustBuild(t, GitLab(aClient()), "{url: "+server.URL+"/, "+c.spec+"}"), aRun)
		server.Close()
		noSecret(t, "the log", log)
		if got := strings.Join(f.started, ","); got != c.started {
			t.Errorf("%s: started %s, want %s", c.spec, got, c.started)
		}
		if c.want == "" {
			if err != nil || log != "GitLab started "+f.page(1)+"\n" {
				t.Errorf("%s: %v, %q", c.spec, err, log)
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

func TestGitLabWait(t *testing.T) {
	gitlabTokens(t)
	for _, c := range []struct {
		ends  string
		takes time.Duration
		want  string
		took  time.Duration
	}{
		{"success", 10 * time.Minute, "", 10 * time.Minute},
		{"failed", 10 * time.Minute, "the pipeline ended as failed: https://gl.example.com/shop/deploy/-/pipelines/1", 10 * time.Minute},
		{"canceled", 0, "the pipeline ended as canceled", 0},
		{"manual", 0, "has not ended after 1h0m0s, which is for how long `wait` lets it be: it has not ended: its status is manual", time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeGitLab{takes: c.takes, ends: c.ends, known: "https://gl.example.com"}
			a := mustBuild(t, GitLab(clientOf(f)), "{project: shop/deploy, ref: main, trigger: {env: GL_TRIGGER}, token: {env: GL_TOKEN}, wait: 1h}")
			began := time.Now()
			log, kept, err := tries(t.Context(), a, aRun)
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) || c.want == "" && !strings.HasSuffix(log, "it ended as success\n") {
				t.Errorf("%s: %v, %q", c.ends, err, log)
			}
			if took := time.Since(began); took < c.took || took > c.took+mostPause {
				t.Errorf("%s: it took %s", c.ends, took)
			}
			if len(kept) != 1 || !strings.HasPrefix(kept[0], f.page(1)+" since ") {
				t.Errorf("%s: kept %q", c.ends, kept)
			}
		})
	}
}

// A run that was cut off goes on with the pipeline it has begun, for as long as
// is left of its time.
func TestGitLabGoesOn(t *testing.T) {
	gitlabTokens(t)
	synctest.Test(t, func(t *testing.T) {
		f := &fakeGitLab{takes: 2 * time.Hour, ends: "success", known: "https://gitlab.com"}
		a := mustBuild(t, GitLab(clientOf(f)), "{project: shop/deploy, ref: main, token: {env: GL_TOKEN}, wait: 1h}")
		ctx, cut := context.WithTimeout(t.Context(), time.Minute)
		defer cut()
		_, kept, err := tries(ctx, a, aRun)
		if err == nil || len(kept) != 1 || !strings.HasPrefix(kept[0], "https://gitlab.com/shop/deploy/-/pipelines/1 since ") {
			t.Fatalf("%v, kept %q", err, kept)
		}
		time.Sleep(29 * time.Minute)
		run, began := aRun, time.Now()
		run.Begun = kept[0]
		if _, _, err := tries(t.Context(), a, run); err == nil || !strings.Contains(err.Error(), "has not ended after 1h0m0s") {
			t.Error(err)
		}
		if took := time.Since(began); took != 30*time.Minute || len(f.started) != 1 {
			t.Errorf("it waited %s, %d pipelines", took, len(f.started))
		}
	})
}

// A token that is taken away while a pipeline is waited for leaves its outcome
// open.
func TestGitLabLosesSight(t *testing.T) {
	gitlabTokens(t)
	synctest.Test(t, func(t *testing.T) {
		f := &fakeGitLab{takes: time.Hour, ends: "success"}
		a := mustBuild(t, GitLab(clientOf(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if len(f.began) > 0 && time.Since(f.began[0]) > time.Minute {
				r.Header.Set("Authorization", "Bearer wrong")
			}
			f.ServeHTTP(w, r)
		}))), "{project: 7, ref: main, token: {env: GL_TOKEN}, wait: 2h}")
		_, _, err := tries(t.Context(), a, aRun)
		var uncertain *trigger.UncertainError
		if !errors.As(err, &uncertain) || !strings.Contains(err.Error(), "the token is wrong or has expired") {
			t.Error(err)
		}
	})
}

func TestGitLabSpecification(t *testing.T) {
	gitlabTokens(t)
	const rest = ", ref: main, token: {env: GL_TOKEN}}"
	for spec, want := range map[string]string{
		"{project: web" + rest:                                                    "project: must be group/name or the project's number",
		"{project: 'a/b?x'" + rest:                                                "project: must be",
		"{project: a/b, token: {env: GL_TOKEN}}":                                  "ref: is missing",
		"{project: a/b, ref: main}":                                               "token: is missing: give trigger",
		"{project: a/b, ref: main, trigger: {env: GL_TRIGGER}, wait: 1h}":         "token: is missing: a trigger token",
		"{project: a/b, url: https://gitlab.example.com/api/v4" + rest:            "url: must be the URL of GitLab alone",
		"{project: a/b, url: gitlab.example.com" + rest:                           "url: must begin with",
		"{project: a/b, variables: {A-B: c}" + rest:                               `variables: "A-B" is not the name of a variable`,
		"{project: a/b, wait: -1s" + rest:                                         "wait: must be longer than nothing",
		"{project: a/b, ref: main, token: {env: ABSENT_TOKEN}}":                   "token: environment variable ABSENT_TOKEN is not set",
		"{project: a/b, ref: main, token: {env: GL_TOKEN}, trigger: glptt-12345}": "a secret is a reference",
	} {
		if _, err := build(GitLab(aClient()), spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
	a := mustBuild(t, GitLab(aClient()), "{project: a/b/c, url: 'https://x.example.com/gitlab/'"+rest)
	if want := "https://x.example.com/gitlab/a/b/c pipeline of main"; a.Target() != want {
		t.Errorf("%s, want %s", a.Target(), want)
	}
	if u, err := url.Parse(a.(*gitlab).api("GET", "/x").url); err != nil || !slices.Contains(strings.Split(u.EscapedPath(), "/"), "a%2Fb%2Fc") {
		t.Errorf("%v, %v", u, err)
	}
}
