package action

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"

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
	fail  int         // status of the next change; 0 for none
	race  *fakePull   // somebody else opens it just before the next one
}

type fakePull struct {
	n                              int
	head, base, title, body, state string // open, closed or merged
	sha                            string // of a head that is gone from the request
	fork                           int    // that head is in; 0 for the repository itself
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
		if p := f.pulls[i]; p.head == head && p.base == base && p.fork == 0 {
			found = append(found, p)
		}
	}
	return found
}

// change gives the request at the end of a path another title.
func (f *fakeForge) change(w http.ResponseWriter, r *http.Request, status int, show func(*fakePull) any) {
	if f.fails(w) {
		return
	}
	n, err := strconv.Atoi(path.Base(r.URL.Path))
	if err != nil || n < 1 || n > len(f.pulls) {
		f.answer(w, http.StatusNotFound, map[string]any{"message": "Not Found"})
		return
	}
	var asked struct{ Title, Body, Description string }
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		f.t.Error(err)
	}
	f.pulls[n-1].title, f.pulls[n-1].body = asked.Title, asked.Body+asked.Description
	f.answer(w, status, show(f.pulls[n-1]))
}

// post makes one, unless there is one that is open.
func (f *fakeForge) post(w http.ResponseWriter, r *http.Request, head, base, body string, refuse func(), show func(*fakePull) any) {
	if f.fails(w) {
		return
	}
	if f.race != nil {
		f.add(f.race)
		f.race = nil
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
	p := &fakePull{head: text(head), base: text(base), title: text("title"), body: text(body), state: "open"}
	f.add(p)
	f.answer(w, http.StatusCreated, show(p))
}

func (f *fakeForge) add(p *fakePull) {
	f.pulls = append(f.pulls, p)
	p.n = len(f.pulls)
}

// fails refuses one change when it was told to.
func (f *fakeForge) fails(w http.ResponseWriter) bool {
	if f.fail == 0 {
		return false
	}
	f.answer(w, f.fail, map[string]any{"message": "later"})
	f.fail = 0
	return true
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
		f.change(w, r, http.StatusOK, show)
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
		f.change(w, r, http.StatusOK, show)
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
		branch := func(name string, repository int) any { return map[string]any{"ref": name, "repo_id": repository} }
		return map[string]any{"number": p.n, "html_url": f.url(p), "state": state, "merged": p.state == "merged", "base": branch(p.base, 1), "head": branch(p.head, p.fork+1)}
	}
	const repository = "/api/v1/repos/shop/deploy"
	const pulls = repository + "/pulls"
	branches, one := strings.CutPrefix(r.URL.Path, pulls+"/")
	ref, isRef := strings.CutPrefix(r.URL.Path, repository+"/git/refs/pull/")
	switch {
	case r.Header.Get("Authorization") != "token "+plantedToken:
		f.answer(w, http.StatusUnauthorized, map[string]any{"message": "token is required"})
	case r.Method == http.MethodPatch && one:
		f.change(w, r, http.StatusCreated, show)
	case r.Method == http.MethodGet && one:
		base, head, _ := strings.Cut(branches, "/")
		found := f.find(head, base)
		if len(found) == 0 {
			f.answer(w, http.StatusNotFound, map[string]any{"message": "The target couldn't be found."})
			return
		}
		f.answer(w, http.StatusOK, show(found[len(found)-1]))
	case r.Method == http.MethodGet && r.URL.Path == pulls:
		f.giteaList(w, r, show)
	case r.Method == http.MethodGet && isRef:
		n, err := strconv.Atoi(ref)
		if err != nil || n < 1 || n > len(f.pulls) {
			f.answer(w, http.StatusNotFound, map[string]any{"message": "The target couldn't be found."})
			return
		}
		f.answer(w, http.StatusOK, []any{map[string]any{"ref": fmt.Sprintf("refs/pull/%d/head", n), "object": map[string]any{"sha": f.tip(f.pulls[n-1])}}})
	case r.Method == http.MethodPost && r.URL.Path == pulls:
		f.post(w, r, "head", "base", "body", func() {
			f.answer(w, http.StatusConflict, map[string]any{"message": "pull request already exists for these targets [id: 1]"})
		}, show)
	default:
		f.answer(w, http.StatusNotFound, map[string]any{"message": "Not Found"})
	}
}

// giteaList gives a page of the requests of all branches, the newest first.
func (f *fakeForge) giteaList(w http.ResponseWriter, r *http.Request, show func(*fakePull) any) {
	q := r.URL.Query()
	limit, _ := strconv.Atoi(q.Get("limit"))
	page, _ := strconv.Atoi(q.Get("page"))
	if limit < 1 || page < 1 {
		f.t.Errorf("%s has no page", r.URL)
		return
	}
	list := []any{}
	for i := len(f.pulls) - 1; i >= 0; i-- {
		if p := f.pulls[i]; q.Get("state") == "all" || (p.state == "open") == (q.Get("state") == "open") {
			list = append(list, show(p))
		}
	}
	from, to := min((page-1)*limit, len(list)), min(page*limit, len(list))
	if to < len(list) {
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?page=%d>; rel="next",<%[1]s%[2]s?page=9>; rel="last"`, f.repo.URL, r.URL.Path, page+1))
	}
	f.answer(w, http.StatusOK, list[from:to])
}

// merge takes a pull request, by a commit of its own as "squash" makes it, and
// leaves its branch.
func (f *fakeForge) merge(p *fakePull) {
	f.repo.Commit("main", "squashed", map[string]string{"kustomization.yaml": f.repo.File(p.head, "kustomization.yaml")})
	p.sha, p.state = f.tip(p), "merged"
}
