package action

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/dockbell/dockbell/trigger"
)

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

			// Somebody works on in a branch that was merged: that is not lost.
			f.merge(f.pulls[1])
			f.repo.Commit(branch, "after the merge", map[string]string{"other.yaml": "a: 2\n"})
			if log, err := do("v1.5.1"); err != nil || !strings.Contains(log, "opened https://forge.example.com/pull/3") {
				t.Fatalf("%v\n%s", err, log)
			}
			if got := f.repo.File(branch, "other.yaml"); got != "a: 2\n" {
				t.Errorf("other.yaml is %q", got)
			}

			// It is closed: what a person does not want is not opened again.
			f.pulls[2].state = "closed"
			skips("v1.5.1", "somebody closed https://forge.example.com/pull/3")
			f.fail = http.StatusServiceUnavailable
			if _, err := do("v1.6.0"); err == nil || !strings.Contains(err.Error(), "503") {
				t.Errorf("a forge that is away: %v", err)
			} else if _, again := trigger.Retryable(err); !again {
				t.Errorf("not repeatable: %v", err)
			}
			f.pulls = f.pulls[:2] // the branch was pushed, its request never opened
			if log, err := do("v1.6.0"); err != nil || !strings.Contains(log, "opened https://forge.example.com/pull/3") {
				t.Errorf("%v\n%s", err, log)
			}
		})
	}
}

// Another dockbell opens the request first, or this one is away between its
// push and the new title: in the end the request is about the newest version.
func TestPullRequestLateTitle(t *testing.T) {
	plant(t)
	for _, provider := range []string{"github", "gitlab", "gitea"} {
		t.Run(provider, func(t *testing.T) {
			f := newForge(t)
			build := newGit(t)
			action := func(tag string) trigger.Action {
				return mustBuild(t, build, fmt.Sprintf("{repository: %s, auth: {token: {env: PLANTED_TOKEN}}, pullRequest: {provider: %s, title: 'web %s'}, %s}", f.repo.URL, provider, tag, webChange))
			}
			expect := func(title, body string) {
				t.Helper()
				if len(f.pulls) != 1 || f.pulls[0].title != title || !strings.Contains(f.pulls[0].body, body) {
					t.Errorf("the requests are %+v, want one with %q and %q", f.pulls, title, body)
				}
			}
			const branch = "dockbell/shop-web"
			f.race = &fakePull{head: branch, base: "main", title: "web v1.2.1", state: "open"}
			if log, err := doGit(t, action("v1.3.0"), webRun("v1.3.0")); err != nil || !strings.Contains(log, "has pushed commit "+strings.TrimSpace(f.repo.Git("rev-parse", branch))+"\nit is in https://forge.example.com/pull/1") {
				t.Fatalf("%v\n%s", err, log)
			}
			expect("web v1.3.0", "v1.2.0 -> v1.3.0")

			f.fail = http.StatusServiceUnavailable
			run := webRun("v1.4.0")
			run.ID++
			if _, err := doGit(t, action("v1.4.0"), run); err == nil {
				t.Fatal("a forge that is away is no error")
			}
			expect("web v1.3.0", "v1.2.0 -> v1.3.0")
			if log, err := doGit(t, action("v1.4.0"), run); err != nil {
				t.Fatalf("%v\n%s", err, log)
			}
			expect("web v1.4.0", "v1.3.0 -> v1.4.0")
		})
	}
}

// Gitea lists the requests of all branches, page by page, with those of forks.
func TestPullRequestsOfManyBranches(t *testing.T) {
	plant(t)
	f := newForge(t)
	const branch = "dockbell/shop-web"
	f.repo.Git("branch", branch, "main")
	for _, state := range []string{"closed", "open"} {
		f.add(&fakePull{head: branch, base: "main", title: "ours, " + state, state: state})
		f.add(&fakePull{head: branch, base: "main", title: "of a fork", state: "open", fork: 1})
		f.add(&fakePull{head: branch, base: "release", title: "to another branch", state: "open"})
		for range 2 * teaPage {
			f.add(&fakePull{head: "main", base: "main", title: "other", state: state})
		}
	}
	a := mustBuild(t, newGit(t), fmt.Sprintf("{repository: %s, auth: {token: {env: PLANTED_TOKEN}}, pullRequest: {provider: gitea, title: changed}, %s}", f.repo.URL, webChange))
	if log, err := doGit(t, a, webRun("v1.3.0")); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	for _, p := range f.pulls {
		if (p.title == "changed") != (p.head == branch && p.base == "main" && p.state == "open" && p.fork == 0) {
			t.Errorf("after it there is %+v", p)
		}
		if p.title == "changed" {
			p.state = "closed"
		}
	}
	var skip *trigger.SkipError
	if _, err := doGit(t, a, webRun("v1.3.0")); !errors.As(err, &skip) || !strings.Contains(skip.Reason, "somebody closed https://forge.example.com/pull/44,") {
		t.Errorf("closed on a later page: %v", err)
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
