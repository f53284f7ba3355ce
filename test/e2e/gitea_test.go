package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dockbell/dockbell/test/parts"
)

// forge is a Gitea with a private repository shop/deploy, in which its robot
// may write.
type forge struct {
	*parts.Gitea
	t *testing.T
}

func startForge(t *testing.T) *forge {
	t.Helper()
	server, err := parts.StartGitea(t.Context(), bin, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	f := &forge{server, t}
	f.do(http.MethodPost, "/user/repos", fields{"name": "deploy", "private": true, "auto_init": true, "default_branch": "main"}, nil)
	f.do(http.MethodPut, deploy+"/collaborators/"+parts.GiteaRobot, fields{"permission": "write"}, nil)
	f.write("main", "kustomization.yaml", kustomizationOf("v1.0.0", "web"))
	return f
}

const (
	deploy    = "/repos/shop/deploy" // in the API
	webBranch = "dockbell/shop-web"  // of pull requests
)

type fields = map[string]any

// do calls the API as a person.
func (f *forge) do(method, path string, body, into any) {
	f.t.Helper()
	if err := f.Call(f.t.Context(), parts.GiteaOwner, method, path, body, into); err != nil {
		f.t.Fatal(err)
	}
}

// write commits a new file to a branch.
func (f *forge) write(branch, name, text string) {
	f.t.Helper()
	f.do(http.MethodPost, deploy+"/contents/"+name, fields{"branch": branch, "content": base64.StdEncoding.EncodeToString([]byte(text))}, nil)
}

func (f *forge) read(branch, name string) string {
	f.t.Helper()
	var file struct{ Content string }
	f.do(http.MethodGet, deploy+"/contents/"+name+"?ref="+url.QueryEscape(branch), nil, &file)
	text, err := base64.StdEncoding.DecodeString(file.Content)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text)
}

// expect compares the pull requests, oldest first, with their state and title.
func (f *forge) expect(want ...string) {
	f.t.Helper()
	var all []struct {
		Title, State string
		Merged       bool
	}
	f.do(http.MethodGet, deploy+"/pulls?state=all&sort=oldest", nil, &all)
	var got []string
	for _, p := range all {
		if p.Merged {
			p.State = "merged"
		}
		got = append(got, p.State+" "+p.Title)
	}
	if !slices.Equal(got, want) {
		f.t.Errorf("the pull requests are %q, want %q", got, want)
	}
}

// merge takes a pull request as one commit and leaves its branch. Gitea looks
// for conflicts before it lets anybody.
func (f *forge) merge(number int) {
	f.t.Helper()
	eventually(f.t, "the request can be merged", func() error {
		return f.Call(f.t.Context(), parts.GiteaOwner, http.MethodPost, fmt.Sprintf(deploy+"/pulls/%d/merge", number), fields{"Do": "squash"}, nil)
	})
}

// config is that of a dockbell that sets the image of the shop, with more keys
// of the action.
func (f *forge) config(keys string) string {
	return header + fmt.Sprintf(`
sources:
  hub: {type: dockerhub, auth: none}
rules:
  - name: web
    repo: shop/web
    actions:
      - git: {changes: [{file: kustomization.yaml, kustomize: docker.io/shop/web}], %s}
`, keys)
}

func (f *forge) overHTTP(keys string) string {
	return f.config(fmt.Sprintf("repository: http://%s/shop/deploy.git, %s", f.Addr, keys))
}

func (f *forge) byRequest() string {
	return f.overHTTP(`auth: {token: {env: TOKEN}}, pullRequest: {provider: gitea, title: "web {{.Tag}}"}`)
}

func (f *forge) serve(config string, env ...string) *daemon {
	f.t.Helper()
	return serve(f.t, config, append(env, "XDG_CACHE_HOME="+f.t.TempDir(), "TOKEN="+f.Token)...)
}

// push has a dockbell deploy a version, and gives the run.
func (f *forge) push(d *daemon, tag string) aRun {
	f.t.Helper()
	d.mustPost(202, "hub", sample(f.t, "dockerhub", "shop/web", tag))
	return d.ended()[0]
}

func (f *forge) mustPush(d *daemon, tag string) {
	f.t.Helper()
	if r := f.push(d, tag); r.State != "succeeded" {
		f.t.Fatalf("run for %s is %s: %s", tag, r.State, r.Reason)
	}
}

// One request is open at a time and is about the newest version; what people
// do with it counts, and what they add is kept.
func TestGiteaPullRequests(t *testing.T) {
	t.Parallel()
	f := startForge(t)
	d := f.serve(f.byRequest())
	f.mustPush(d, "v1.1.0")
	f.expect("open web v1.1.0")
	f.mustPush(d, "v1.2.0")
	f.expect("open web v1.2.0")
	if got := f.read("main", "kustomization.yaml"); got != kustomizationOf("v1.0.0", "web") {
		t.Errorf("main was changed:\n%s", got)
	}

	f.merge(1)
	f.mustPush(d, "v1.3.0")
	f.expect("merged web v1.2.0", "open web v1.3.0")
	var commits []fields
	if f.do(http.MethodGet, deploy+"/pulls/2/commits", nil, &commits); len(commits) != 1 {
		t.Errorf("the second request has %d commits, want its own alone", len(commits))
	}

	f.merge(2)
	f.write(webBranch, "notes.txt", "by hand, after the merge")
	f.mustPush(d, "v1.4.0")
	f.expect("merged web v1.2.0", "merged web v1.3.0", "open web v1.4.0")
	f.read(webBranch, "notes.txt")

	f.do(http.MethodPatch, deploy+"/pulls/3", fields{"state": "closed"}, nil)
	other := f.serve(f.byRequest()) // one that does not know that it was opened
	if r := f.push(other, "v1.4.0"); r.State != "skipped" || !strings.Contains(r.Reason, "somebody closed http://"+f.Addr+"/shop/deploy/pulls/3") {
		t.Errorf("run for what was closed is %s: %s", r.State, r.Reason)
	}
	f.mustPush(d, "v1.5.0")
	f.expect("merged web v1.2.0", "merged web v1.3.0", "closed web v1.4.0", "open web v1.5.0")
	if got := f.read(webBranch, "kustomization.yaml"); got != kustomizationOf("v1.5.0", "web") {
		t.Errorf("the branch has\n%s", got)
	}
}

// What people have to put right is said in words, and not tried again. A
// request is for a branch that takes no pushes.
func TestGiteaRefuses(t *testing.T) {
	t.Parallel()
	f := startForge(t)
	f.do(http.MethodPost, deploy+"/branch_protections", fields{"rule_name": "main", "enable_push": false}, nil)
	f.mustPush(f.serve(f.byRequest()), "v1.1.0")
	f.expect("open web v1.1.0")
	reader, err := f.NewToken(t.Context(), parts.GiteaRobot, "read:repository")
	if err != nil {
		t.Fatal(err)
	}
	f.do(http.MethodPost, "/admin/users", fields{"username": "stranger", "email": "stranger@example.com", "password": parts.GiteaPassword, "must_change_password": false}, nil)
	stranger, err := f.NewToken(t.Context(), "stranger", "write:repository")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ keys, want string }{
		"protected branch":  {"auth: {token: {env: TOKEN}}", "may the key or token push to this branch, or is it protected? It says: Not allowed to push to protected branch main"},
		"token that reads":  {"auth: {token: {env: READER}}, pushTo: reads", "it needs the right to write to the repository"},
		"of a stranger":     {"auth: {token: {env: STRANGER}}, pushTo: strange", "there is no such repository, or the token may not see it"},
		"no such token":     {"auth: {token: {env: HOME}}", "it answers 401 Unauthorized: the token is wrong or missing"},
		"request, reads":    {"auth: {token: {env: TOKEN}}, pushTo: web-1, pullRequest: {provider: gitea, token: {env: READER}}", "may the token open pull requests?"},
		"request, strange":  {"auth: {token: {env: TOKEN}}, pushTo: web-2, pullRequest: {provider: gitea, token: {env: STRANGER}}", "may the token open pull requests?"},
		"request, no token": {"auth: {token: {env: TOKEN}}, pushTo: web-3, pullRequest: {provider: gitea, token: {env: HOME}}", "may the token open pull requests?"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &forge{f.Gitea, t}
			d := f.serve(f.overHTTP(tt.keys), "READER="+reader, "STRANGER="+stranger)
			r := f.push(d, "v1.1.0")
			if r.State != "failed" || r.Attempt != 1 || !strings.Contains(r.Reason, tt.want) {
				t.Errorf("want %q, run %+v", tt.want, r)
			}
		})
	}
}

// Two dockbells that know nothing of each other get versions at once: there is
// one request, and it is for the newer.
func TestGiteaTwoAtOnce(t *testing.T) {
	t.Parallel()
	f := startForge(t)
	one, two := f.serve(f.byRequest()), f.serve(f.byRequest())
	one.mustPost(202, "hub", sample(t, "dockerhub", "shop/web", "v1.1.0"))
	two.mustPost(202, "hub", sample(t, "dockerhub", "shop/web", "v1.2.0"))
	older, newer := one.ended()[0], two.ended()[0]
	if older.State != "succeeded" && older.State != "skipped" || newer.State != "succeeded" {
		t.Errorf("the runs are %s: %s, and %s: %s", older.State, older.Reason, newer.State, newer.Reason)
	}
	f.expect("open web v1.2.0")
	if got := f.read(webBranch, "kustomization.yaml"); got != kustomizationOf("v1.2.0", "web") {
		t.Errorf("the branch has\n%s", got)
	}
}

// Dockbell pushes by SSH and is killed before its request for a pull request
// arrives, or after that and before the answer does: there is one in the end.
func TestGiteaKilledBetweenPushAndRequest(t *testing.T) {
	t.Parallel()
	for name, arrives := range map[string]bool{"before it arrives": false, "before the answer": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startForge(t)
			f.do(http.MethodPost, deploy+"/branches", fields{"new_branch_name": "release/1", "old_ref_name": "main"}, nil)
			asked := make(chan struct{})
			var first sync.Once
			proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: f.Addr})
			api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answer := w
				if r.Method == http.MethodPost {
					first.Do(func() { answer = nil })
				}
				if answer != nil {
					proxy.ServeHTTP(w, r)
					return
				}
				body, _ := io.ReadAll(r.Body) // only then does it hear that dockbell is gone
				r.Body = io.NopCloser(bytes.NewReader(body))
				if arrives {
					proxy.ServeHTTP(httptest.NewRecorder(), r)
				}
				close(asked)
				<-r.Context().Done()
			}))
			t.Cleanup(api.Close)
			d := f.serve(f.config(fmt.Sprintf(`repository: ssh://%s/shop/deploy.git, branch: release/1, auth: {sshKey: {file: %s}, knownHosts: %s},
          pullRequest: {provider: gitea, token: {env: TOKEN}, api_url: %s/api/v1, title: "web {{.Tag}}"}`, f.SSH, f.Key, f.KnownHosts, api.URL)))
			d.mustPost(202, "hub", sample(t, "dockerhub", "shop/web", "v1.1.0"))
			select {
			case <-asked:
			case <-time.After(patience):
				t.Fatal("nobody asks for a pull request")
			}
			d.kill()
			d.start()
			if r := d.ended()[0]; r.State != "succeeded" {
				t.Errorf("the run is %s: %s", r.State, r.Reason)
			}
			f.expect("open web v1.1.0")
		})
	}
}

// Gitea's own registry reports a push, in JSON and in a form, and a delete,
// signed. Only tags of what was pushed start runs, and a moved one starts
// another.
func TestGiteaReportsPushes(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"json", "form"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f := startForge(t)
			d := serve(t, header+fmt.Sprintf(`
sources:
  gitea: {type: gitea, auth: {signature: {env: SECRET}}}
  wrong: {type: gitea, auth: {signature: {env: HOME}}}
rules:
  - {name: pushed, repo: "%[1]s/**", actions: [command: {argv: ["true"]}]}
  - {name: deleted, repo: "%[1]s/**", event: delete, actions: [command: {argv: ["true"]}]}
`, f.Addr), "SECRET=a secret of both")
			for _, source := range []string{"gitea", "wrong"} {
				config := fields{"url": d.hooks + source, "content_type": kind, "secret": "a secret of both"}
				f.do(http.MethodPost, "/user/hooks", fields{"type": "gitea", "active": true, "events": []string{"package"}, "config": config}, nil)
			}
			must := func(_ string, err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(f.PushImage(t.Context(), "shop/web", "v1.0.0"))
			expectRuns(t, d, "pushed shop/web:v1.0.0")
			must(f.PushIndex(t.Context(), "shop/web", "v1.1.0", "amd64", "arm64"))
			expectRuns(t, d, "pushed shop/web:v1.0.0", "pushed shop/web:v1.1.0")
			must(f.PushImage(t.Context(), "shop/back/api", "RC-1")) // in Gitea tags have no capitals
			must(f.PushImage(t.Context(), "shop/web", "v1.0.0"))
			runs := []string{"pushed shop/web:v1.0.0", "pushed shop/web:v1.1.0", "pushed shop/back/api:rc-1", "pushed shop/web:v1.0.0"}
			expectRuns(t, d, runs...)
			must("", f.DeleteTag(t.Context(), "shop/web", "v1.1.0"))
			expectRuns(t, d, append(runs, "deleted shop/web:v1.1.0")...)
			logged(t, d, "msg=\"delivery refused\" source=wrong status=401", 7)
		})
	}
}

// Dockbell finds the repositories and tags of Gitea's registry with a token
// that may read packages.
func TestGiteaPolled(t *testing.T) {
	t.Parallel()
	f := startForge(t)
	reader, err := f.NewToken(t.Context(), parts.GiteaOwner, "read:package")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.PushImage(t.Context(), "shop/web", "v1.0.0"); err != nil {
		t.Fatal(err)
	}
	d := serve(t, header+fmt.Sprintf(`
registries: [{host: %q, username: shop, password: {env: READER}}]
sources:
  mirror: {type: poll, schedule: "@every 1s", repositories: ["%[1]s/shop/*"], initial: fire}
rules:
  - {name: pushed, repo: "%[1]s/**", actions: [command: {argv: ["true"]}]}
`, f.Addr), "READER="+reader)
	expectRuns(t, d, "pushed shop/web:v1.0.0")
	digest, err := f.PushImage(t.Context(), "shop/web", "v1.1.0")
	if err != nil {
		t.Fatal(err)
	}
	expectRuns(t, d, "pushed shop/web:v1.0.0", "pushed shop/web:v1.1.0")
	var page struct {
		Events []struct{ Tag, Digest string }
	}
	if d.get("/api/v1/events", &page); len(page.Events) == 0 || page.Events[0].Digest != digest {
		t.Errorf("pushed %s, the events are %+v", digest, page.Events)
	}
	if _, err := f.PushImage(t.Context(), "shop/api", "v1.0.0"); err != nil { // a new one
		t.Fatal(err)
	}
	expectRuns(t, d, "pushed shop/web:v1.0.0", "pushed shop/web:v1.1.0", "pushed shop/api:v1.0.0")
}
