package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/test/parts"
)

// gitRepo is a repository on a real server, and somebody who works in it.
type gitRepo struct {
	*parts.Git
	t    *testing.T
	work string
}

func newGitRepo(t *testing.T, files map[string]string) *gitRepo {
	t.Helper()
	server, err := parts.StartGit(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	r := &gitRepo{server, t, filepath.Join(t.TempDir(), "work")}
	r.git(".", "clone", "--quiet", r.Dir, r.work)
	r.git(r.work, "checkout", "--quiet", "-B", "main")
	if err := r.commit("first", files); err != nil {
		t.Fatal(err)
	}
	return r
}

// commit pushes, as somebody else would: again when the branch has moved.
func (r *gitRepo) commit(message string, files map[string]string) error {
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(r.work, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if _, err := r.try(r.work, "add", "--all"); err != nil {
		return err
	}
	if _, err := r.try(r.work, "commit", "--quiet", "--message", message); err != nil {
		return err
	}
	for range 100 {
		if _, err := r.try(r.work, "push", "--quiet", "origin", "main"); err == nil {
			return nil
		}
		if _, err := r.try(r.work, "pull", "--quiet", "--rebase", "origin", "main"); err != nil {
			return err
		}
	}
	return errors.New("dockbell lets nobody else push")
}

func (r *gitRepo) try(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.com", "GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.com")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (r *gitRepo) git(dir string, args ...string) string {
	r.t.Helper()
	out, err := r.try(dir, args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// ask is what git says about the repository of the server.
func (r *gitRepo) ask(args ...string) string {
	r.t.Helper()
	return r.git(r.Dir, args...)
}

// config is that of a dockbell that sets images of the shop in it.
func (r *gitRepo) config(repository, auth string) string {
	return fmt.Sprintf(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
store: sqlite:dockbell.db
sources:
  hub: {type: dockerhub, auth: none}
rules:
  - name: shop
    repo: shop/*
    actions:
      - git:
          repository: %s
          auth: %s
          changes: [{file: kustomization.yaml, kustomize: "{{.Registry}}/{{.Repository}}"}]
`, repository, auth)
}

func (r *gitRepo) overSSH() string {
	return r.config(r.SSH, fmt.Sprintf("{sshKey: {file: %s}, knownHosts: %s}", r.Key, r.KnownHosts))
}

func (r *gitRepo) overHTTP() string { return r.config(r.HTTP, "{token: {env: GIT_TOKEN}}") }

func (r *gitRepo) serve(config string) *daemon {
	r.t.Helper()
	return serve(r.t, config, "XDG_CACHE_HOME="+r.t.TempDir(), "GIT_TOKEN="+r.Token)
}

// kustomizationOf is one with the given images at a tag.
func kustomizationOf(tag string, images ...string) string {
	text := "# What the shop runs.\nimages:\n"
	for _, name := range images {
		text += fmt.Sprintf("  - name: docker.io/shop/%s   # a part of the shop\n    newTag: %s\n", name, tag)
	}
	return text
}

// Dockbell and somebody else push to one branch all the time, by SSH and by
// HTTP: every commit of the other is there at the end, in their order, and
// every image is at its newest version.
func TestGitWithOthersWhoPush(t *testing.T) {
	t.Parallel()
	images := []string{"web", "api", "job", "mail"}
	for _, way := range []string{"SSH", "HTTP"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			repo := newGitRepo(t, map[string]string{"kustomization.yaml": kustomizationOf("v1.0.0", images...)})
			config := repo.overSSH()
			if way == "HTTP" {
				config = repo.overHTTP()
			}
			d := repo.serve(config)
			stop, other := make(chan struct{}), make(chan error, 1)
			pushed := 0
			go func() {
				defer close(other)
				for {
					select {
					case <-stop:
						return
					case <-time.After(100 * time.Millisecond): // one who never rests may win each time
					}
					pushed++
					if err := repo.commit(fmt.Sprintf("other %d", pushed), map[string]string{"other.txt": fmt.Sprintln(pushed)}); err != nil {
						other <- err
						return
					}
				}
			}()
			versions := soak(5, 50)
			for v := 1; v <= versions; v++ {
				for _, name := range images {
					d.mustPost(202, "hub", sample(t, "dockerhub", "shop/"+name, fmt.Sprintf("v1.%d.0", v)))
				}
				d.ended()
			}
			runs := d.runs("")
			close(stop)
			if err := <-other; err != nil {
				t.Error(err)
			}
			for _, r := range runs {
				if r.State != "succeeded" {
					t.Errorf("run %s for %s is %s: %s", r.ID, r.Image, r.State, r.Reason)
				}
			}
			if got, want := repo.ask("show", "main:kustomization.yaml"), strings.TrimSpace(kustomizationOf(fmt.Sprintf("v1.%d.0", versions), images...)); got != want {
				t.Errorf("the file is\n%s", got)
			}
			if pushed == 0 {
				t.Error("nobody else pushed")
			}
			var want []string
			for n := 1; n <= pushed; n++ {
				want = append(want, fmt.Sprintf("other %d", n))
			}
			if got := repo.ask("log", "--reverse", "--format=%s", "--grep=^other", "main"); got != strings.Join(want, "\n") {
				t.Errorf("of the other's %d commits there are\n%s", pushed, got)
			}
			if merges := repo.ask("rev-list", "--merges", "--count", "main"); merges != "0" {
				t.Errorf("there are %s merges", merges)
			}
			repo.ask("fsck", "--strict")
			t.Logf("%d commits of the other, %s of dockbell for %d runs", pushed, repo.ask("rev-list", "--count", "--author=dockbell", "main"), len(runs))
		})
	}
}

// Dockbell is killed after its push has arrived and before the server has
// said so. The run is taken up, finds its commit, and makes no second one.
func TestGitKilledWhilePushing(t *testing.T) {
	t.Parallel()
	repo := newGitRepo(t, map[string]string{"kustomization.yaml": kustomizationOf("v1.0.0", "web")})
	arrived, goOn := filepath.Join(t.TempDir(), "arrived"), filepath.Join(t.TempDir(), "go")
	hook := fmt.Sprintf("#!/bin/sh\ntouch %s\nwhile [ ! -e %s ]; do sleep 0.05; done\n", arrived, goOn)
	if err := os.WriteFile(filepath.Join(repo.Dir, "hooks", "update"), []byte(hook), 0o755); err != nil {
		t.Fatal(err)
	}
	d := repo.serve(repo.overSSH())
	d.mustPost(202, "hub", sample(t, "dockerhub", "shop/web", "v1.1.0"))
	eventually(t, "the push arrives", func() error {
		_, err := os.Stat(arrived)
		return err
	})
	d.kill()
	if err := os.WriteFile(goOn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d.start()
	runs := d.ended()
	if len(runs) != 1 || runs[0].State != "succeeded" {
		t.Errorf("runs %+v", runs)
	}
	if got, want := repo.ask("show", "main:kustomization.yaml"), strings.TrimSpace(kustomizationOf("v1.1.0", "web")); got != want {
		t.Errorf("the file is\n%s", got)
	}
	if got := repo.ask("rev-list", "--count", "main"); got != "2" {
		t.Errorf("there are %s commits, want the first and one", got)
	}
}

// What people have to put right is said in words, and not tried again.
func TestGitRefused(t *testing.T) {
	t.Parallel()
	protected := newGitRepo(t, map[string]string{"kustomization.yaml": kustomizationOf("v1.0.0", "web")})
	if err := os.WriteFile(filepath.Join(protected.Dir, "hooks", "pre-receive"), []byte("#!/bin/sh\necho 'GH006: Protected branch update failed'\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	other := newGitRepo(t, map[string]string{"kustomization.yaml": kustomizationOf("v1.0.0", "web")})
	empty := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stranger := strings.Replace(readFile(t, other.KnownHosts), port(other.SSH), port(protected.SSH), 1)
	strange := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(strange, []byte(stranger), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ config, want string }{
		"protected by SSH":  {protected.overSSH(), "it refuses the push (pre-receive hook declined): may the key or token push to this branch, or is it protected? It says: GH006: Protected branch update failed"},
		"protected by HTTP": {protected.overHTTP(), "GH006: Protected branch update failed"},
		"unknown host":      {protected.config(protected.SSH, fmt.Sprintf("{sshKey: {file: %s}, knownHosts: %s}", protected.Key, empty)), "the key of the host is not known: put what `ssh-keyscan` prints"},
		"another host":      {protected.config(protected.SSH, fmt.Sprintf("{sshKey: {file: %s}, knownHosts: %s}", protected.Key, strange)), "the host shows another key than the one that is known"},
		"another key":       {protected.config(protected.SSH, fmt.Sprintf("{sshKey: {file: %s}, anyHostKey: true}", other.Key)), "the server does not take the key"},
		"no repository":     {strings.Replace(protected.overSSH(), "shop/deploy.git", "shop/nothing.git", 1), "'shop/nothing.git' does not appear to be a git repository"},
		"wrong token":       {protected.config(protected.HTTP, "{token: {env: HOME}}"), "it answers 401 Unauthorized: the token is wrong or missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := protected.serve(tt.config)
			d.mustPost(202, "hub", sample(t, "dockerhub", "shop/web", "v1.1.0"))
			runs := d.ended()
			if len(runs) != 1 || runs[0].State != "failed" || runs[0].Attempt != 1 || !strings.Contains(runs[0].Reason, tt.want) {
				t.Errorf("want %q, runs %+v", tt.want, runs)
			}
		})
	}
}

// port is that of a URL.
func port(url string) string {
	return regexp.MustCompile(`:[0-9]+`).FindString(url)
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
