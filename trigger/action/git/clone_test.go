package git

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/action/git/gittest"
)

// remoteTo is a way to a repository.
func remoteTo(t *testing.T, repo *gittest.Repository) *Remote {
	t.Helper()
	address, err := ParseAddress(repo.URL)
	if err != nil {
		t.Fatal(err)
	}
	return &Remote{Address: address, Client: http.DefaultClient}
}

// readIn reads a file of main by a clone that is opened for that.
func readIn(t *testing.T, clones *Clones, r *Remote, name string) (string, error) {
	t.Helper()
	clone, err := clones.Open(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer clone.Close()
	commits, err := clone.Fetch(t.Context(), "main")
	if err != nil {
		return "", err
	}
	files, err := commits[0].Files(name)
	return string(files[name]), err
}

func packs(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*", "objects", "pack", "*.pack"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// noise cannot be compressed.
func noise(n int) string {
	var text strings.Builder
	r := rand.New(rand.NewPCG(1, 2))
	for text.Len() < n {
		text.WriteByte(byte(r.Uint32()))
	}
	return text.String()
}

// A clone fetches what is new, and only that.
func TestCloneGrowsByWhatIsNew(t *testing.T) {
	large := noise(200 << 10)
	repo := gittest.New(t, map[string]string{"a/b/c.yaml": "v1", "large": large})
	dir := t.TempDir()
	clones := NewClones(dir)
	r := remoteTo(t, repo)
	for _, text := range []string{"v1", "v2", "v3"} {
		if text != "v1" {
			repo.Commit("main", text, map[string]string{"a/b/c.yaml": text})
		}
		for range 2 { // a second look fetches nothing
			if got, err := readIn(t, clones, r, "a/b/c.yaml"); err != nil || got != text {
				t.Fatalf("%q: %q, %v", text, got, err)
			}
		}
	}
	if n := len(packs(t, dir)); n != 1 {
		t.Errorf("there are %d packs, want that of the first fetch", n)
	}
	var all int64
	if err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, _ error) error {
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			all += info.Size()
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if all > 300<<10 {
		t.Errorf("%d bytes are kept: the large file was fetched again", all)
	}
}

func TestCloneIsMadeAnew(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, pack string){
		"a pack is gone":      func(_ *testing.T, pack string) { os.Remove(pack) },
		"a pack is cut off":   func(_ *testing.T, pack string) { os.Truncate(pack, 20) },
		"an index is gone":    func(_ *testing.T, pack string) { os.Remove(strings.TrimSuffix(pack, "pack") + "idx") },
		"there are too many":  func(t *testing.T, pack string) { copies(t, pack, filesLeft) },
		"a fetch was cut off": func(t *testing.T, pack string) { write(t, filepath.Join(filepath.Dir(pack), "tmp_pack_1"), "PACK") },
	} {
		for _, moved := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, the branch has moved: %t", name, moved), func(t *testing.T) { madeAnew(t, harm, moved) })
		}
	}
}

func madeAnew(t *testing.T, harm func(t *testing.T, pack string), moved bool) {
	repo := gittest.New(t, map[string]string{"a/b/c.yaml": "v1"})
	dir := t.TempDir()
	clones := NewClones(dir)
	r := remoteTo(t, repo)
	if _, err := readIn(t, clones, r, "a/b/c.yaml"); err != nil {
		t.Fatal(err)
	}
	first := packs(t, dir)[0]
	if err := os.Chmod(first, 0o600); err != nil {
		t.Fatal(err)
	}
	harm(t, first)
	if moved {
		repo.Commit("main", "second", map[string]string{"a/b/d.yaml": "v1"})
	}
	if _, err := readIn(t, clones, r, "a/b/c.yaml"); err != nil {
		if _, again := trigger.Retryable(err); !again {
			t.Errorf("not repeatable: %v", err)
		}
	}
	if got, err := readIn(t, clones, r, "a/b/c.yaml"); err != nil || got != "v1" {
		t.Errorf("the next time: %q, %v", got, err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(first), "tmp_*")); err != nil || len(left) > 0 {
		t.Errorf("there are %q, %v", left, err)
	}
	if n := len(packs(t, dir)); n > 1 {
		t.Errorf("there are %d packs", n)
	}
}

func copies(t *testing.T, file string, n int) {
	t.Helper()
	for i := range n {
		write(t, fmt.Sprintf("%s-%d", file, i), "")
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The folder stays within its limit; the clone that was used last stays.
func TestClonesStaySmall(t *testing.T) {
	dir := t.TempDir()
	clones := NewClones(dir)
	clones.limit = 400 << 10
	var last *Remote
	for range 3 {
		last = remoteTo(t, gittest.New(t, map[string]string{"a": "v1", "noise": noise(150 << 10)}))
		if _, err := readIn(t, clones, last, "a"); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(packs(t, dir)); n != 2 {
		t.Errorf("%d clones are kept, want two", n)
	}
	clones.limit = 1
	if _, err := readIn(t, clones, last, "a"); err != nil {
		t.Fatal(err)
	}
	if found := packs(t, dir); len(found) != 0 {
		t.Errorf("there are %q", found)
	}
}

// One at a time uses a clone; the next waits, as long as it may.
func TestCloneIsLocked(t *testing.T) {
	r := remoteTo(t, gittest.New(t, map[string]string{"a": "v1"}))
	dir := t.TempDir()
	first, err := NewClones(dir).Open(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("timed out after 3s"))
	defer cancel()
	_, err = NewClones(dir).Open(ctx, r) // as another process would
	if _, again := trigger.Retryable(err); !again || !strings.Contains(err.Error(), "in use by another run: timed out after 3s") {
		t.Errorf("a second one: %v", err)
	}
	first.Close()
	second, err := NewClones(dir).Open(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

// A folder that somebody else prepared is not used, nor one that cannot be.
func TestClonesFindAFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "good")
	got, err := NewClones(filepath.Join(dir, "file", "below"), filepath.Join(dir, "link"), good).folder()
	if err != nil || got != good {
		t.Errorf("%q, %v", got, err)
	}
	_, err = NewClones(filepath.Join(dir, "file", "below")).folder()
	if err == nil || !strings.Contains(err.Error(), "set XDG_CACHE_HOME") {
		t.Error(err)
	}
}

func TestAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"https://example.com/shop/deploy.git":          "example.com shop/deploy",
		"http://127.0.0.1:3000/shop/deploy":            "127.0.0.1 shop/deploy",
		"ssh://git@example.com:2222/shop/deploy.git":   "example.com shop/deploy",
		"git@example.com:shop/deploy.git":              "example.com shop/deploy",
		"example.com:deploy.git":                       "example.com deploy",
		"https://gitlab.example.com/a/b/c/deploy.git/": "gitlab.example.com a/b/c/deploy",
		"":                       "is missing",
		"file:///srv/deploy.git": "must be what you give to git clone",
		"/srv/deploy.git":        "must be what you give to git clone",
		"https://user:secret@example.com/shop/deploy": "must not hold a user or password",
		"https://token@example.com/shop/deploy":       "must not hold a user or password",
		"ssh://git:secret@example.com/shop/deploy":    "must not hold a user or password",
		"https://example.com/shop/deploy?x=1":         "must not have a ?query",
		"git@example.com:shop/deploy'; rm -rf /":      "is not that of a repository",
		"https://example.com/../etc":                  "is not that of a repository",
		"https://example.com":                         "is not that of a repository",
	} {
		a, err := ParseAddress(text)
		got := a.Hostname() + " " + a.Name()
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
