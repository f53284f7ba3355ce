package parts

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A token gives the rights that it was made with.
func TestGitea(t *testing.T) {
	bin, err := Build(t.Context(), os.Stderr, "gitea")
	if err != nil {
		t.Fatal(err)
	}
	g, err := StartGitea(t.Context(), bin, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer g.Stop()
	must := func(method, path string, body any) {
		t.Helper()
		if err := g.Call(t.Context(), GiteaOwner, method, path, body, nil); err != nil {
			t.Fatal(err)
		}
	}
	must(http.MethodPost, "/user/repos", map[string]any{"name": "deploy", "private": true, "auto_init": true, "default_branch": "main"})
	must(http.MethodPut, "/repos/shop/deploy/collaborators/"+GiteaRobot, map[string]any{"permission": "write"})
	reader, err := g.NewToken(t.Context(), GiteaRobot, "read:repository")
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	git := func(args ...string) (string, error) {
		cmd := exec.Command("git", args...)
		cmd.Dir = work
		cmd.Env = []string{"HOME=" + work, "PATH=" + os.Getenv("PATH"), "GIT_TERMINAL_PROMPT=0"}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	as := func(token string) string { return "http://x:" + token + "@" + g.Addr + "/shop/deploy.git" }
	if out, err := git("clone", "--quiet", as(reader), "."); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, tt := range []struct{ token, want string }{
		{g.Token, ""},
		{reader, "403"},
		{"nobody's", "Authentication failed"},
	} {
		if out, err := git("push", "--quiet", as(tt.token), "main:other"); (err == nil) != (tt.want == "") || !strings.Contains(out, tt.want) {
			t.Errorf("push with %s: %v, want %q\n%s", tt.token, err, tt.want, out)
		}
	}
}
