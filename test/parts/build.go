// Package parts starts the servers that dockbell works with, the real ones,
// for end-to-end tests: a Kubernetes control plane with simulated nodes and a
// container registry. They are built from their Go modules, once.
package parts

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

const (
	kubernetesVersion = "v1.36.3"
	kwokVersion       = "v0.8.0"
	registryVersion   = "v3.1.2"
)

// Bin is a folder with the built programs.
type Bin string

// program is one of them and how it is built.
type program struct {
	name    string
	version string // a new one is built beside the old
	takes   string // on two cores
	// The package is built in the module test/tools, or installed by itself
	// at the version.
	pkg     string
	install bool
	ldflags string
}

var programs = []program{
	{name: "etcd", version: "v3.6.8", takes: "half a minute", pkg: "go.etcd.io/etcd/server/v3"},
	{name: "kube-apiserver", version: kubernetesVersion, takes: "3 to 5 minutes", pkg: "k8s.io/kubernetes/cmd/kube-apiserver", ldflags: kubernetesFlags},
	{name: "kube-controller-manager", version: kubernetesVersion, takes: "a minute", pkg: "k8s.io/kubernetes/cmd/kube-controller-manager", ldflags: kubernetesFlags},
	{name: "kube-scheduler", version: kubernetesVersion, takes: "half a minute", pkg: "k8s.io/kubernetes/cmd/kube-scheduler", ldflags: kubernetesFlags},
	{name: "kwok", version: kwokVersion, takes: "a minute", pkg: "sigs.k8s.io/kwok/cmd/kwok", install: true},
	{name: "registry", version: registryVersion, takes: "a minute", pkg: "github.com/distribution/distribution/v3/cmd/registry", install: true},
}

// Without its version the API server reports one that clients cannot parse.
const kubernetesFlags = " -X k8s.io/component-base/version.gitVersion=" + kubernetesVersion

// path is where a program lies in the folder.
func (b Bin) path(name string) string {
	for _, p := range programs {
		if p.name == name {
			return filepath.Join(string(b), p.name+"-"+p.version)
		}
	}
	panic("parts: no program " + name)
}

// Build builds what is missing and says so on log. The folder is that of
// DOCKBELL_TEST_CACHE, else dockbell-test in the user's cache. Two tests that
// start together build once; a build that is cut off leaves nothing behind.
func Build(ctx context.Context, log io.Writer) (Bin, error) {
	dir := os.Getenv("DOCKBELL_TEST_CACHE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(cache, "dockbell-test")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	b := Bin(dir)
	for _, p := range programs {
		if _, err := os.Stat(b.path(p.name)); err == nil {
			continue
		}
		fmt.Fprintf(log, "building %s %s, once; on two cores this takes %s\n", p.name, p.version, p.takes)
		began := time.Now()
		if err := p.build(ctx, b.path(p.name)); err != nil {
			return "", err
		}
		fmt.Fprintf(log, "built %s in %s\n", p.name, time.Since(began).Round(time.Second))
	}
	return b, nil
}

func (p program) build(ctx context.Context, into string) error {
	temp, err := os.MkdirTemp(filepath.Dir(into), "building-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	flags := []string{"-trimpath", "-ldflags", "-s -w" + p.ldflags}
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build"}, flags...), "-o", temp+"/", p.pkg)...)
	cmd.Dir = toolsDir()
	if p.install {
		cmd = exec.CommandContext(ctx, "go", append(append([]string{"install"}, flags...), p.pkg+"@"+p.version)...)
		cmd.Dir = temp
	}
	cmd.Env = append(os.Environ(), "GOBIN="+temp, "GOFLAGS=-buildvcs=false", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", p.name, err, out)
	}
	built := filepath.Join(temp, p.name)
	if _, err := os.Stat(built); err != nil { // etcd's package is named server
		built = filepath.Join(temp, "server")
	}
	return os.Rename(built, into)
}

// toolsDir is the module that pins the versions of Kubernetes and etcd.
func toolsDir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "tools")
}

// moduleDir is where the source of a module lies.
func moduleDir(ctx context.Context, module string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	cmd.Dir = os.TempDir() // outside of any module
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go mod download %s: %w", module, err)
	}
	var m struct{ Dir string }
	return m.Dir, json.Unmarshal(out, &m)
}

func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
