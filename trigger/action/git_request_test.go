package action

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/action/git/gittest"
)

// fakeForge has pull requests beside a real repository, and answers as
// documented in "REST API endpoints for pull requests" of GitHub, "Merge
// requests API" of GitLab, and the API reference of Gitea.
type fakeForge struct {
	t    *testing.T
	repo *gittest.Repository

	mu    sync.Mutex
	pulls []*fakePull // oldest first
	fail  int         // status of the next POST; 0 for none
}

type fakePull struct {
	n                              int
	head, base, title, body, state string // open, closed or merged
	sha                            string // of a head that is gone from the request
}

// forge puts pull requests beside a repository.
func newForge(t *testing.T) *fakeForge {
	f := &fakeForge{t: t, repo: gittest.New(t, map[string]string{"kustomization.yaml": kustomization})}
	f.repo.Before = func(w http.ResponseWriter, r *http.Request) bool {
		api := map[string]func(http.ResponseWriter, *http.Request){"/api/v3/": f.github, "/api/v4/": f.gitlab, "/api/v1/": f.gitea}
		for prefix, answer := range api {
			if strings.HasPrefix(r.URL.Path, prefix) {
				f.mu.Lock()
				defer f.mu.Unlock()
				answer(w, r)
				return false
			}
		}
		return true
	}
	return f
}

func (f *fakeForge) answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		f.t.Error(err)
	}
}

// tip is the commit of a pull request's branch.
func (f *fakeForge) tip(p *fakePull) string {
	if p.sha == "" {
		return strings.TrimSpace(f.repo.Git("rev-parse", p.head))
	}
	return p.sha
}

func (f *fakeForge) url(p *fakePull) string {
	return fmt.Sprintf("https://forge.example.com/pull/%d", p.n)
}

// find gives those of two branches, the newest first.
func (f *fakeForge) find(head, base string) (found []*fakePull) {
	for i := len(f.pulls) - 1; i >= 0; i-- {
		if p := f.pulls[i]; p.head == head && p.base == base {
			found = append(found, p)
		}
	}
	return found
}

// change gives the request at the end of a path another title.
func (f *fakeForge) change(w http.ResponseWriter, r *http.Request, show func(*fakePull) any) {
	n, err := strconv.Atoi(path.Base(r.URL.Path))
	if err != nil || n < 1 || n > len(f.pulls) {
		f.answer(w, http.StatusNotFound, map[string]any{"message": "Not Found"})
		return
	}
	var asked struct{ Title string }
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		f.t.Error(err)
	}
	f.pulls[n-1].title = asked.Title
	f.answer(w, http.StatusOK, show(f.pulls[n-1]))
}

// post makes one, unless there is one that is open.
func (f *fakeForge) post(w http.ResponseWriter, r *http.Request, head, base, body string, refuse func(), show func(*fakePull) any) {
	if f.fail != 0 {
		f.answer(w, f.fail, map[string]any{"message": "later"})
		f.fail = 0
		return
	}
	var asked map[string]any
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		f.t.Error(err)
	}
	text := func(key string) string { s, _ := asked[key].(string); return s }
	for _, p := range f.find(text(head), text(base)) {
		if p.state == "open" {
			refuse()
			return
		}
	}
	p := &fakePull{n: len(f.pulls) + 1, head: text(head), base: text(base), title: text("title"), body: text(body), state: "open"}
	f.pulls = append(f.pulls, p)
	f.answer(w, http.StatusCreated, show(p))
}

func (f *fakeForge) github(w http.ResponseWriter, r *http.Request) {
	show := func(p *fakePull) any {
		shown := map[string]any{"number": p.n, "html_url": f.url(p), "state": "open", "merged_at": nil, "head": map[string]any{"ref": p.head, "sha": f.tip(p)}}
		if p.state != "open" {
			shown["state"] = "closed"
		}
		if p.state == "merged" {
			shown["merged_at"] = "2026-03-04T05:06:07Z"
		}
		return shown
	}
	switch {
	case r.Header.Get("Authorization") != "Bearer "+plantedToken:
		f.answer(w, http.StatusUnauthorized, map[string]any{"message": "Bad credentials"})
	case r.Method == http.MethodPatch && strings.HasPrefix(r.URL.Path, "/api/v3/repos/shop/deploy/pulls/"):
		f.change(w, r, show)
	case r.URL.Path != "/api/v3/repos/shop/deploy/pulls":
		f.answer(w, http.StatusNotFound, map[string]any{"message": "Not Found"})
	case r.Method == http.MethodGet:
		q := r.URL.Query()
		head, ok := strings.CutPrefix(q.Get("head"), "shop:")
		list := []any{}
		for _, p := range f.find(head, q.Get("base")) {
			if ok && (q.Get("state") == "all" || p.state == "open") {
				list = append(list, show(p))
			}
		}
		f.answer(w, http.StatusOK, list)
	default:
		f.post(w, r, "head", "base", "body", func() {
			f.answer(w, http.StatusUnprocessableEntity, map[string]any{"message": "Validation Failed", "errors": []any{map[string]any{
				"resource": "PullRequest", "code": "custom", "message": "A pull request already exists for shop:branch."}}})
		}, show)
	}
}

func (f *fakeForge) gitlab(w http.ResponseWriter, r *http.Request) {
	show := func(p *fakePull) any {
		state := p.state
		if state == "open" {
			state = "opened"
		}
		return map[string]any{"iid": p.n, "web_url": f.url(p), "state": state, "sha": f.tip(p)}
	}
	switch {
	case r.Header.Get("Authorization") != "Bearer "+plantedToken:
		f.answer(w, http.StatusUnauthorized, map[string]any{"message": "401 Unauthorized"})
	case r.Method == http.MethodPut && strings.HasPrefix(r.URL.EscapedPath(), "/api/v4/projects/shop%2Fdeploy/merge_requests/"):
		f.change(w, r, show)
	case r.URL.EscapedPath() != "/api/v4/projects/shop%2Fdeploy/merge_requests":
		f.answer(w, http.StatusNotFound, map[string]any{"message": "404 Project Not Found"})
	case r.Method == http.MethodGet:
		q := r.URL.Query()
		list := []any{}
		for _, p := range f.find(q.Get("source_branch"), q.Get("target_branch")) {
			list = append(list, show(p))
		}
		f.answer(w, http.StatusOK, list)
	default:
		f.post(w, r, "source_branch", "target_branch", "description", func() {
			f.answer(w, http.StatusConflict, map[string]any{"message": []string{"Another open merge request already exists for this source branch: !1"}})
		}, show)
	}
}

func (f *fakeForge) gitea(w http.ResponseWriter, r *http.Request) {
	show := func(p *fakePull) any {
		state := p.state
		if state == "merged" {
			state = "closed"
		}
		return map[string]any{"number": p.n, "html_url": f.url(p), "state": state, "merged": p.state == "merged", "head": map[string]any{"sha": f.tip(p)}}
	}
	const pulls = "/api/v1/repos/shop/deploy/pulls"
	branches, one := strings.CutPrefix(r.URL.Path, pulls+"/")
	switch {
	case r.Header.Get("Authorization") != "token "+plantedToken:
		f.answer(w, http.StatusUnauthorized, map[string]any{"message": "token is required"})
	case r.Method == http.MethodPatch && one:
		f.change(w, r, show)
	case r.Method == http.MethodGet && one:
		base, head, _ := strings.Cut(branches, "/")
		found := f.find(head, base)
		if len(found) == 0 {
			f.answer(w, http.StatusNotFound, map[string]any{"message": "The target couldn't be found."})
			return
		}
		f.answer(w, http.StatusOK, show(found[0]))
	case r.Method == http.MethodPost && r.URL.Path == pulls:
		f.post(w, r, "head", "base", "body", func() {
			f.answer(w, http.StatusConflict, map[string]any{"message": "pull request already exists for these targets [id: 1]"})
		}, show)
	default:
		f.answer(w, http.StatusNotFound, map[string]any{"message": "Not Found"})
	}
}

// merge takes a pull request, by a commit of its own as "squash" makes it, and
// leaves its branch.
func (f *fakeForge) merge(p *fakePull) {
	f.repo.Commit("main", "squashed", map[string]string{"kustomization.yaml": f.repo.File(p.head, "kustomization.yaml")})
	p.sha, p.state = f.tip(p), "merged"
}

func TestPullRequests(t *testing.T) {
	plant(t)
	for _, provider := range []string{"github", "gitlab", "gitea"} {
		t.Run(provider, func(t *testing.T) {
			f := newForge(t)
			build := newGit(t)
			id := int64(0)
			do := func(tag string) (string, error) {
				t.Helper()
				a := mustBuild(t, build, fmt.Sprintf("{repository: %s, auth: {token: {env: PLANTED_TOKEN}}, pullRequest: {provider: %s, title: 'web %s'}, %s}", f.repo.URL, provider, tag, webChange))
				run := webRun(tag)
				id++
				run.ID = id
				log, err := doGit(t, a, run)
				noSecret(t, "the log", log)
				return log, err
			}
			skips := func(tag, why string) {
				t.Helper()
				var skip *trigger.SkipError
				if _, err := do(tag); !errors.As(err, &skip) || !strings.Contains(skip.Reason, why) {
					t.Errorf("%s: %v, want %q", tag, err, why)
				}
			}
			const branch = "dockbell/shop-web"

			if log, err := do("v1.3.0"); err != nil || !strings.Contains(log, "opened https://forge.example.com/pull/1") {
				t.Fatalf("%v\n%s", err, log)
			}
			first := f.pulls[0]
			if first.head != branch || first.base != "main" || first.title != "web v1.3.0" || !strings.Contains(first.body, "v1.2.0 -> v1.3.0") {
				t.Errorf("it is %+v", first)
			}
			if got := f.repo.File("main", "kustomization.yaml"); got != kustomization {
				t.Error("main was changed")
			}
			skips("v1.3.0", "https://forge.example.com/pull/1 has it already")
			skips("v1.2.5", "lower version")

			// A person adds to the branch; the next version goes on top.
			f.repo.Commit(branch, "by hand", map[string]string{"other.yaml": "a: 1\n"})
			if log, err := do("v1.4.0"); err != nil || !strings.Contains(log, "it is in https://forge.example.com/pull/1") {
				t.Fatalf("%v\n%s", err, log)
			}
			if first.title != "web v1.4.0" {
				t.Errorf("the title is %q", first.title)
			}
			if got := f.repo.Git("log", "--format=%s", branch); strings.Count(got, "\n") != 4 || !strings.Contains(got, "by hand") {
				t.Errorf("the history is\n%s", got)
			}

			// It is merged and its branch left: the next one begins at the base.
			f.merge(first)
			skips("v1.4.0", "main has it already")
			if log, err := do("v1.5.0"); err != nil || !strings.Contains(log, "opened https://forge.example.com/pull/2") {
				t.Fatalf("%v\n%s", err, log)
			}
			if got := f.repo.Git("log", "--format=%s", "main.."+branch); got != "Set registry.example.com/shop/web:v1.5.0\n" {
				t.Errorf("the history is\n%s", got)
			}

			// It is closed: what a person does not want is not opened again.
			f.pulls[1].state = "closed"
			skips("v1.5.0", "somebody closed https://forge.example.com/pull/2")
			f.fail = http.StatusServiceUnavailable
			if _, err := do("v1.6.0"); err == nil || !strings.Contains(err.Error(), "503") {
				t.Errorf("a forge that is away: %v", err)
			} else if _, again := trigger.Retryable(err); !again {
				t.Errorf("not repeatable: %v", err)
			}
			f.pulls = f.pulls[:1] // the branch was pushed, its request never opened
			if log, err := do("v1.6.0"); err != nil || !strings.Contains(log, "opened https://forge.example.com/pull/2") {
				t.Errorf("%v\n%s", err, log)
			}
		})
	}
}

// The forge must not be laxer than those it stands for.
func TestForgesRefuse(t *testing.T) {
	plant(t)
	t.Setenv("WRONG_TOKEN", "wrong")
	for _, provider := range []string{"github", "gitlab", "gitea"} {
		f := newForge(t)
		f.repo.Commit("dockbell/shop-web", "by hand", nil)
		_, err := doGit(t, mustBuild(t, newGit(t), fmt.Sprintf("{repository: %s, pullRequest: {provider: %s, token: {env: WRONG_TOKEN}}, %s}", f.repo.URL, provider, webChange)), webRun("v1.3.0"))
		if _, again := trigger.Retryable(err); err == nil || again || !strings.Contains(err.Error(), "401") {
			t.Errorf("%s: %v", provider, err)
		}
		if len(f.pulls) > 0 {
			t.Errorf("%s: it was opened", provider)
		}
	}
}
