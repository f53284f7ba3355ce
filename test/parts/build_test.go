package parts

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The cache is asked for the versions that are written here; what is built
// are those of the module.
func TestVersionsAreThoseOfTheModule(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(toolsDir(), "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for module, version := range map[string]string{"k8s.io/kubernetes": kubernetesVersion, "go.etcd.io/etcd/server/v3": etcdVersion} {
		if !strings.Contains(string(mod), "\t"+module+" "+version+"\n") {
			t.Errorf("test/tools/go.mod does not require %s %s", module, version)
		}
	}
	if minor := strings.Split(kubernetesVersion, ".")[1]; !strings.HasSuffix(helmFlags, "k8sVersionMinor="+minor) {
		t.Errorf("helm takes charts for another Kubernetes than %s: %s", kubernetesVersion, helmFlags)
	}
}

// small is a program that builds in seconds.
var small = []program{{name: "gofmt", version: "v1", takes: "seconds", pkg: "cmd/gofmt"}}

func TestBuildTogether(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, unfinished+"killed")
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	const builders = 4
	logs := make([]bytes.Buffer, builders)
	failures := make(chan error, builders)
	for i := range builders {
		go func() { failures <- buildMissing(t.Context(), &logs[i], dir, small) }()
	}
	for range builders {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
	all := ""
	for i := range logs {
		all += logs[i].String()
	}
	if n := strings.Count(all, "built gofmt in"); n != 1 {
		t.Errorf("built %d times:\n%s", n, all)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a killed build left: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "gofmt-v1")); err != nil {
		t.Error(err)
	}
}

// Ctrl-C ends a build and the wait for one, and leaves no program.
func TestBuildEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(t.Context(), os.Stderr, filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := buildMissing(ctx, os.Stderr, dir, small); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another builds: %v", err)
	}
	unlock()
	if err := small[0].build(ctx, filepath.Join(dir, "gofmt-v1")); err == nil {
		t.Error("built after the end")
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 1 || files[0].Name() != "lock" {
		t.Errorf("left: %v", files)
	}
}
