package action

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/action/git"
	"github.com/dockbell/dockbell/trigger/action/git/gittest"
)

const (
	kustomization = "images:\n# the shop\n- name: registry.example.com/shop/web\n  newTag: v1.2.0   # now\n- name: registry.example.com/shop/api\n  newTag: v1.0.0\n"
	webChange     = "changes: [{file: kustomization.yaml, kustomize: registry.example.com/shop/web}]"
)

func gitClient(t *testing.T) *Client {
	t.Helper()
	client, err := NewClient(Outbound{})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func newGit(t *testing.T) trigger.Builder {
	return Git(gitClient(t), git.NewClones(t.TempDir()), nil)
}

// webRun is a run for the image web.
func webRun(tag string) trigger.Run {
	run := aRun
	run.Event.Tag, run.Ordered, run.Attempt = tag, true, 1
	return run
}

func doGit(t *testing.T, a trigger.Action, run trigger.Run) (log string, err error) {
	t.Helper()
	var out strings.Builder
	err = a.Do(t.Context(), run, &out)
	return out.String(), err
}

func TestGitCommits(t *testing.T) {
	repo := gittest.New(t, map[string]string{"kustomization.yaml": kustomization, "other.yaml": "a: 1\n"})
	a := mustBuild(t, newGit(t), "{repository: "+repo.URL+", "+webChange+"}")
	before := repo.Git("rev-parse", "main")
	log, err := doGit(t, a, webRun("v1.3.0"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := repo.File("main", "kustomization.yaml"), strings.Replace(kustomization, "v1.2.0", "v1.3.0", 1); got != want {
		t.Errorf("the file is\n%s", got)
	}
	if got := repo.Git("rev-parse", "main~"); got != before {
		t.Errorf("it is not on top of what was there")
	}
	if got := repo.Git("diff", "--stat", "main~", "main"); !strings.Contains(got, "1 file changed, 1 insertion(+), 1 deletion(-)") {
		t.Errorf("more than a line has changed:\n%s", got)
	}
	want := "Set registry.example.com/shop/web:v1.3.0\n\nkustomization.yaml: images[name=registry.example.com/shop/web].newTag: v1.2.0 -> v1.3.0\n\n" +
		"Dockbell-Image: registry.example.com/shop/web:v1.3.0@sha256:" + strings.Repeat("a", 64) + "\nDockbell-Rule: web-to-prod\nDockbell-Event: 5\nDockbell-Run: 77\n"
	if got := repo.Git("log", "-1", "--format=%B", "main"); strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("the message is\n%s", got)
	}
	if got := repo.Git("log", "-1", "--format=%an <%ae> %cn %(trailers:key=Dockbell-Run,valueonly)", "main"); strings.TrimSpace(got) != "dockbell <dockbell@localhost> dockbell 77" {
		t.Errorf("it is by %q", got)
	}
	if !strings.Contains(log, "commit "+strings.TrimSpace(repo.Git("rev-parse", "main"))+" on main") || !strings.Contains(log, "v1.2.0 -> v1.3.0") {
		t.Errorf("the log is\n%s", log)
	}
	repo.Git("fsck", "--strict")

	// What was only not written down is no second commit.
	again := webRun("v1.3.0")
	again.Attempt = 2
	if log, err := doGit(t, a, again); err != nil || !strings.Contains(log, "an earlier try has pushed") {
		t.Errorf("again: %v\n%s", err, log)
	}
	again.ID++
	for tag, why := range map[string]string{"v1.3.0": "main has it already", "v1.1.0": "v1.1.0 is a lower version than v1.3.0"} {
		var skip *trigger.SkipError
		again.Event.Tag = tag
		if _, err := doGit(t, a, again); !errors.As(err, &skip) || !strings.Contains(skip.Reason, why) {
			t.Errorf("%s: %v", tag, err)
		}
	}
	if got := repo.Git("rev-list", "--count", "main"); strings.TrimSpace(got) != "2" {
		t.Errorf("there are %s commits", got)
	}
}

// Others push while a commit is made: nothing of theirs is lost, and nothing
// is forced.
func TestGitWhileOthersPush(t *testing.T) {
	repo := gittest.New(t, map[string]string{"kustomization.yaml": kustomization})
	var pushes atomic.Int32
	repo.Before = func(_ http.ResponseWriter, r *http.Request) bool {
		// Twice somebody is faster: before the refs are read for the push, and
		// after that.
		if r.URL.Query().Get("service") == "git-receive-pack" && pushes.Add(1) == 1 || strings.HasSuffix(r.URL.Path, "/git-receive-pack") && pushes.Load() == 2 {
			repo.Commit("main", fmt.Sprintf("other %d", pushes.Load()), map[string]string{fmt.Sprintf("other-%d.yaml", pushes.Load()): "a: 1\n"})
		}
		return true
	}
	a := mustBuild(t, newGit(t), "{repository: "+repo.URL+", "+webChange+"}")
	if _, err := doGit(t, a, webRun("v1.3.0")); err != nil {
		t.Fatal(err)
	}
	if got := repo.Git("log", "--format=%s", "main"); got != "Set registry.example.com/shop/web:v1.3.0\nother 2\nother 1\nfirst\n" {
		t.Errorf("the history is\n%s", got)
	}
}

// A branch that moves all the time ends a try, not the run.
func TestGitBranchThatNeverRests(t *testing.T) {
	repo := gittest.New(t, map[string]string{"kustomization.yaml": kustomization})
	n := 0
	repo.Before = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("service") == "git-receive-pack" {
			n++
			repo.Commit("main", fmt.Sprintf("other %d", n), nil)
		}
		return true
	}
	a := mustBuild(t, newGit(t), "{repository: "+repo.URL+", "+webChange+"}")
	_, err := doGit(t, a, webRun("v1.3.0"))
	if _, again := trigger.Retryable(err); !again || !strings.Contains(err.Error(), "10 pushes came too late") {
		t.Error(err)
	}
}

func TestGitProtectedBranch(t *testing.T) {
	plant(t)
	repo := gittest.New(t, map[string]string{"kustomization.yaml": kustomization})
	repo.Hook("pre-receive", `echo "main is protected, see our wiki"; exit 1`)
	a := mustBuild(t, newGit(t), "{repository: "+repo.URL+", auth: {token: {env: PLANTED_TOKEN}}, "+webChange+"}")
	_, err := doGit(t, a, webRun("v1.3.0"))
	if _, again := trigger.Retryable(err); err == nil || again {
		t.Fatalf("repeatable: %v", err)
	}
	for _, want := range []string{repo.URL, "it refuses the push (pre-receive hook declined)", "is it protected?", "main is protected, see our wiki"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	noSecret(t, "the error", err.Error())
}

// Runs for several images that come together make one commit; what is wrong
// with one of them is its own fault.
func TestGitTogether(t *testing.T) {
	repo := gittest.New(t, map[string]string{"kustomization.yaml": kustomization})
	var requests atomic.Int32
	first := make(chan struct{})
	repo.Before = func(http.ResponseWriter, *http.Request) bool {
		if requests.Add(1) == 1 {
			<-first
		}
		return true
	}
	build := newGit(t)
	spec := "{repository: " + repo.URL + ", changes: [{file: kustomization.yaml, kustomize: registry.example.com/shop/%s}]}"
	var wg sync.WaitGroup
	errs := map[string]error{}
	var mu sync.Mutex
	start := func(name, tag string) {
		run := webRun(tag)
		run.Event.Repository = "shop/" + name
		wg.Go(func() {
			_, err := doGit(t, mustBuild(t, build, fmt.Sprintf(spec, name)), run)
			mu.Lock()
			defer mu.Unlock()
			errs[name] = err
		})
	}
	start("web", "v1.3.0")
	waitFor(t, func() bool { return requests.Load() == 1 })
	waiting := func(n int) {
		waitFor(t, func() bool { return desksWaiting(t, build, fmt.Sprintf(spec, "web")) == n })
	}
	start("api", "v2.0.0")
	waiting(1)
	start("job", "v2.0.0")
	waiting(2)
	close(first)
	wg.Wait()
	if errs["web"] != nil || errs["api"] != nil || errs["job"] == nil || !strings.Contains(errs["job"].Error(), "has no element with `name: registry.example.com/shop/job`") {
		t.Errorf("%v", errs)
	}
	want := strings.NewReplacer("v1.2.0", "v1.3.0", "v1.0.0", "v2.0.0").Replace(kustomization)
	if got := repo.File("main", "kustomization.yaml"); got != want {
		t.Errorf("the file is\n%s", got)
	}
	if got := strings.TrimSpace(repo.Git("rev-list", "--count", "main")); got != "3" {
		t.Errorf("there are %s commits, want the first, web's, and one for the others", got)
	}
}

// desksWaiting counts the orders that wait at the desk of a specification.
func desksWaiting(t *testing.T, build trigger.Builder, spec string) int {
	t.Helper()
	a := mustBuild(t, build, spec).(*gitAction)
	n := 0
	_ = a.world.desks.with(a.spec.deskKey(), func(d *gitDesk) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		n = len(d.waiting)
		return nil
	})
	return n
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for end := time.After(30 * time.Second); !done(); {
		select {
		case <-look.C:
		case <-end:
			t.Fatal("waited in vain")
		}
	}
}

func TestGitGathers(t *testing.T) {
	repo := gittest.New(t, map[string]string{"kustomization.yaml": kustomization})
	build := newGit(t)
	spec := "{repository: " + repo.URL + ", gather: 1500ms, changes: [{file: kustomization.yaml, kustomize: registry.example.com/shop/%s}]}"
	var wg sync.WaitGroup
	for _, name := range []string{"web", "api"} {
		run := webRun("v1.3.0")
		run.Event.Repository = "shop/" + name
		wg.Go(func() {
			if log, err := doGit(t, mustBuild(t, build, fmt.Sprintf(spec, name)), run); err != nil || !strings.Contains(log, "of 2 runs together") {
				t.Errorf("%s: %v\n%s", name, err, log)
			}
		})
	}
	wg.Wait()
	if got := repo.Git("log", "-1", "--format=%B", "main"); !strings.HasPrefix(got, "Set 2 images\n\nSet registry.example.com/shop/") || strings.Count(got, "Dockbell-Run: ") != 2 {
		t.Errorf("the message is\n%s", got)
	}
}

func TestGitRehearsal(t *testing.T) {
	repo := gittest.New(t, map[string]string{"kustomization.yaml": kustomization})
	a := mustBuild(t, newGit(t), "{repository: "+repo.URL+", dryRun: true, "+webChange+"}")
	log, err := doGit(t, a, webRun("v1.3.0"))
	if want := "kustomization.yaml:4\n-  newTag: v1.2.0   # now\n+  newTag: v1.3.0   # now\n"; err != nil || !strings.Contains(log, want) {
		t.Errorf("%v\n%s", err, log)
	}
	if got := repo.File("main", "kustomization.yaml"); got != kustomization {
		t.Error("it was changed")
	}
	if !strings.HasSuffix(a.Target(), " as a rehearsal") {
		t.Errorf("the target %q is that of the real one", a.Target())
	}
}

func TestGitOnAnotherBranch(t *testing.T) {
	repo := gittest.New(t, map[string]string{"kustomization.yaml": kustomization})
	a := mustBuild(t, newGit(t), "{repository: "+repo.URL+", pushTo: stage, message: 'web on stage', "+webChange+"}")
	for _, tag := range []string{"v1.3.0", "v1.4.0"} {
		if _, err := doGit(t, a, webRun(tag)); err != nil {
			t.Fatal(err)
		}
	}
	if got := repo.Git("log", "--format=%s", "stage"); got != "web on stage\nweb on stage\nfirst\n" {
		t.Errorf("the history is\n%s", got)
	}
	if got := repo.File("main", "kustomization.yaml"); got != kustomization {
		t.Error("main was changed")
	}
	var skip *trigger.SkipError
	if _, err := doGit(t, a, webRun("v1.3.5")); !errors.As(err, &skip) {
		t.Errorf("back: %v", err)
	}
}

func TestGitSigns(t *testing.T) {
	repo := gittest.New(t, map[string]string{"kustomization.yaml": kustomization})
	dir := t.TempDir()
	key := filepath.Join(dir, "id")
	for _, kind := range []string{"ed25519", "rsa", "ecdsa"} {
		os.Remove(key)
		run(t, "ssh-keygen", "-q", "-t", kind, "-N", "open sesame", "-f", key)
		t.Setenv("SIGN_PASSPHRASE", "open sesame")
		public, err := os.ReadFile(key + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		allowed := filepath.Join(dir, "allowed")
		if err := os.WriteFile(allowed, append([]byte("dockbell@localhost "), public...), 0o600); err != nil {
			t.Fatal(err)
		}
		a := mustBuild(t, newGit(t), fmt.Sprintf("{repository: %s, sign: {ssh: {file: %s}, passphrase: {env: SIGN_PASSPHRASE}}, changes: [{file: kustomization.yaml, path: 'images[0].newTag', text: %s}]}", repo.URL, key, kind))
		if _, err := doGit(t, a, webRun("v1.3.0")); err != nil {
			t.Fatal(err)
		}
		repo.Git("-c", "gpg.format=ssh", "-c", "gpg.ssh.allowedSignersFile="+allowed, "verify-commit", "main")
	}

	home := filepath.Join(dir, "gpg")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GNUPGHOME", home)
	run(t, "gpg", "--batch", "--quiet", "--passphrase", "open sesame", "--pinentry-mode", "loopback", "--quick-gen-key", "dockbell <dockbell@localhost>", "ed25519", "sign", "never")
	exported := run(t, "gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase", "open sesame", "--armor", "--export-secret-keys")
	t.Cleanup(func() { run(t, "gpgconf", "--kill", "all") })
	t.Setenv("SIGN_GPG", exported)
	a := mustBuild(t, newGit(t), "{repository: "+repo.URL+", sign: {gpg: {env: SIGN_GPG}, passphrase: {env: SIGN_PASSPHRASE}}, changes: [{file: kustomization.yaml, path: 'images[0].newTag', value: tag}]}")
	if _, err := doGit(t, a, webRun("v1.3.0")); err != nil {
		t.Fatal(err)
	}
	repo.Git("verify-commit", "main")
}

func TestGitContext(t *testing.T) {
	repo := gittest.New(t, map[string]string{"kustomization.yaml": kustomization})
	for _, at := range []string{"/info/refs", "/git-upload-pack", "/git-receive-pack"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := make(chan struct{})
		repo.Before = func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, at) {
				cancel(errors.New("timed out after 3s"))
				<-stop
			}
			return true
		}
		a := mustBuild(t, newGit(t), "{repository: "+repo.URL+", "+webChange+"}")
		var out strings.Builder
		began := time.Now()
		err := a.Do(ctx, webRun("v1.3.0"), &out)
		close(stop)
		if _, again := trigger.Retryable(err); !again || !strings.Contains(err.Error(), "timed out after 3s") {
			t.Errorf("%s: %v", at, err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: it took %s to end", at, took)
		}
	}
}

func TestGitAnswers(t *testing.T) {
	plant(t)
	for status, want := range map[int]struct {
		again bool
		says  string
	}{
		401: {false, "the token is wrong"}, 403: {false, "may not do this"}, 404: {false, "no such repository"},
		301: {false, "it answers 301"}, 429: {true, "429"}, 500: {true, "500"}, 503: {true, "503"}, 200: {false, "is no git server"},
	} {
		server := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "7")
			echo(w, r, status)
		})
		a := mustBuild(t, newGit(t), "{repository: "+server+"/shop/deploy, auth: {user: ci, token: {env: PLANTED_TOKEN}}, "+webChange+"}")
		_, err := doGit(t, a, webRun("v1.3.0"))
		if err == nil || !strings.Contains(err.Error(), want.says) {
			t.Errorf("%d: %v", status, err)
			continue
		}
		after, again := trigger.Retryable(err)
		if again != want.again || again && after != 7*time.Second {
			t.Errorf("%d: repeatable is %t after %s", status, again, after)
		}
		noSecret(t, "the error", err.Error())
	}
}

func TestGitLooksForFiles(t *testing.T) {
	repo := gittest.New(t, map[string]string{
		"apps/a/values.yaml": "image:\n  tag: v1.2.0 # {\"$imagepolicy\": \"flux-system:web:tag\"}\n",
		"apps/b/values.yaml": "image: x\n",
		"docs/values.yaml":   "tag: v1.2.0 # {\"$imagepolicy\": \"flux-system:web:tag\"}\n",
	})
	for changes, want := range map[string]string{
		"[{file: 'apps/**/*.yaml', marker: 'flux-system:web'}]":                          "apps/a/values.yaml: image.tag: v1.2.0 -> v1.3.0",
		"[{file: 'apps/**/*.yaml', marker: 'flux-system:api'}]":                          "no file of apps/**/*.yaml has it: the last one has no field with the comment",
		"[{file: nothing.yaml, path: a, value: tag}]":                                    "there is no file nothing.yaml on the branch",
		"[{file: 'nothing/*', path: a, value: tag}]":                                     "there is no file nothing/* on the branch",
		"[{file: apps/b/values.yaml, path: image.tag, value: tag}]":                      "apps/b/values.yaml: has no image.tag",
		"[{file: apps, path: image.tag, value: tag}]":                                    "there is no file apps on the branch",
		"[{file: apps/a/values.yaml, helm: image}, {file: apps/b/values.yaml, path: y}]": "",
	} {
		spec := "{repository: " + repo.URL + ", dryRun: true, changes: " + changes + "}"
		a, err := build(newGit(t), spec)
		if want == "" {
			if err == nil {
				t.Errorf("%s is good", changes)
			}
			continue
		}
		var log string
		if err == nil {
			log, err = doGit(t, a, webRun("v1.3.0"))
		}
		if err != nil {
			log = err.Error()
		}
		if !strings.Contains(strings.ReplaceAll(log, "apps/a/values.yaml:2\n-  tag: v1.2.0", "apps/a/values.yaml: image.tag: v1.2.0 -> v1.3.0"), want) {
			t.Errorf("%s: %s", changes, log)
		}
	}
}

// A GitHub App gets in with a token of its installation, which is asked for
// once.
func TestGitAsGitHubApp(t *testing.T) {
	repo := gittest.New(t, map[string]string{"kustomization.yaml": kustomization})
	const token = "ghs_of_the_installation"
	asked := 0
	repo.Before = func(w http.ResponseWriter, r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		switch {
		case r.URL.Path == "/api/v3/repos/shop/deploy/installation":
			fmt.Fprint(w, `{"id": 4711}`)
		case r.URL.Path == "/api/v3/app/installations/4711/access_tokens":
			asked++
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, `{"token": %q, "expires_at": %q}`, token, time.Now().Add(time.Hour).Format(time.RFC3339))
		case user != "x-access-token" || password != token:
			w.WriteHeader(http.StatusUnauthorized)
		default:
			return true
		}
		return false
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("APP_KEY", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	a := mustBuild(t, newGit(t), "{repository: "+repo.URL+", auth: {app: {id: '12', key: {env: APP_KEY}}}, "+webChange+"}")
	for _, tag := range []string{"v1.3.0", "v1.4.0"} {
		if _, err := doGit(t, a, webRun(tag)); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 1 {
		t.Errorf("%d tokens were asked for", asked)
	}
}

// run runs a program of the machine; without it the test is skipped.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("there is no %s on this machine", program)
	}
	out, err := exec.Command(program, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return string(out)
}
