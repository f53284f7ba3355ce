// Package gittest serves a git repository to tests: the real git, behind its
// own CGI program. It needs git on the machine.
package gittest

import (
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Repository is one repository with a server of its own.
type Repository struct {
	Dir string // bare
	URL string

	// Before is called before each request when it is not nil; false means
	// that it has answered. It is set before the first request.
	Before func(w http.ResponseWriter, r *http.Request) bool

	t    testing.TB
	work string // where another committer works
}

// New makes a repository whose branch main has the given files.
func New(t testing.TB, files map[string]string) *Repository {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("there is no git on this machine: apt-get install git")
	}
	root := t.TempDir()
	r := &Repository{t: t, Dir: filepath.Join(root, "shop", "deploy.git"), work: filepath.Join(root, "work")}
	r.run(root, "init", "--quiet", "--bare", "--initial-branch=main", r.Dir)
	r.run(r.Dir, "config", "http.receivepack", "true")
	r.run(root, "clone", "--quiet", r.Dir, r.work)
	r.run(r.work, "checkout", "--quiet", "-B", "main")
	if files != nil {
		r.Commit("main", "first", files)
	}
	backend := &cgi.Handler{
		Path: git, Args: []string{"http-backend"}, Dir: root,
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + root, "REMOTE_USER=tester"},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if r.Before == nil || r.Before(w, req) {
			backend.ServeHTTP(w, req)
		}
	}))
	t.Cleanup(server.Close)
	r.URL = server.URL + "/shop/deploy.git"
	return r
}

// Commit pushes a commit of somebody else on top of a branch, which is made
// when it is not there.
func (r *Repository) Commit(branch, message string, files map[string]string) {
	r.t.Helper()
	if r.Git("branch", "--list", branch) != "" {
		r.run(r.work, "fetch", "--quiet")
		r.run(r.work, "checkout", "--quiet", "-B", branch, "origin/"+branch)
	} else {
		r.run(r.work, "checkout", "--quiet", "-B", branch)
	}
	for name, text := range files {
		name = filepath.Join(r.work, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	r.run(r.work, "add", "--all")
	r.run(r.work, "commit", "--quiet", "--allow-empty", "--message", message)
	r.run(r.work, "push", "--quiet", "origin", "HEAD:refs/heads/"+branch)
}

// Hook installs a hook: a script that the server runs.
func (r *Repository) Hook(name, script string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.Dir, "hooks", name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		r.t.Fatal(err)
	}
}

// File is what a branch has in a file.
func (r *Repository) File(branch, name string) string {
	r.t.Helper()
	return r.Git("show", branch+":"+name)
}

// Git runs git in the repository and gives what it prints.
func (r *Repository) Git(args ...string) string {
	r.t.Helper()
	return r.run(r.Dir, args...)
}

func (r *Repository) run(dir string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.com", "GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.com")
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return string(out)
}
