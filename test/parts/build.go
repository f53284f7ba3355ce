// Package parts starts the servers that dockbell works with, the real ones,
// for end-to-end tests: a Kubernetes control plane with simulated nodes, a
// container registry, Gitea. They are built from their Go modules, once, and so
// is helm. Those that the machine has are run: PostgreSQL and git.
package parts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// Those of Kubernetes and etcd are also in test/tools/go.mod, which says what
// is built; a test compares them.
const (
	kubernetesVersion = "v1.36.3"
	etcdVersion       = "v3.6.8"
	kwokVersion       = "v0.8.0"
	helmVersion       = "v3.22.0"
	registryVersion   = "v3.1.2"
	giteaVersion      = "v1.26.0"
)

// ForCluster are the names of the programs that StartCluster starts.
var ForCluster = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"}

// Bin is a folder with the built programs.
type Bin string

// program is one of them and how it is built.
type program struct {
	name    string
	version string // a new one is built beside the old
	takes   string // on two cores
	// The package is built in the module test/tools, or installed by itself
	// at the version, or built in the module that it belongs to: one with
	// replacements cannot be installed.
	pkg     string
	install bool
	module  string
	ldflags string
	tags    string
	cgo     bool // with parts in C
}

var programs = []program{
	{name: "etcd", version: etcdVersion, takes: "a minute", pkg: "go.etcd.io/etcd/server/v3"},
	{name: "kube-apiserver", version: kubernetesVersion, takes: "3 to 5 minutes", pkg: "k8s.io/kubernetes/cmd/kube-apiserver", ldflags: kubernetesFlags},
	{name: "kube-controller-manager", version: kubernetesVersion, takes: "1 to 2 minutes", pkg: "k8s.io/kubernetes/cmd/kube-controller-manager", ldflags: kubernetesFlags},
	{name: "kube-scheduler", version: kubernetesVersion, takes: "seconds after the others", pkg: "k8s.io/kubernetes/cmd/kube-scheduler", ldflags: kubernetesFlags},
	{name: "kwok", version: kwokVersion, takes: "a minute", pkg: "sigs.k8s.io/kwok/cmd/kwok", install: true},
	{name: "helm", version: helmVersion, takes: "1 to 2 minutes", pkg: "helm.sh/helm/v3/cmd/helm", install: true, ldflags: helmFlags},
	{name: "gitea", version: giteaVersion, takes: "2 to 4 minutes", pkg: ".", module: giteaModule, tags: "sqlite,sqlite_unlock_notify", cgo: true},
	{name: "registry", version: registryVersion, takes: "a minute", pkg: "github.com/distribution/distribution/v3/cmd/registry", install: true},
}

// Without its version the API server reports one that clients cannot parse.
const kubernetesFlags = " -X k8s.io/component-base/version.gitVersion=" + kubernetesVersion

// Without a cluster helm takes charts for one of this version; if it is not
// told, for one that is years old.
const helmFlags = " -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36"

// file is its name in the cache. The version in it makes an upgrade build anew.
func (p program) file() string { return p.name + "-" + p.version }

// path is where a program lies in the folder.
func (b Bin) path(name string) string {
	for _, p := range programs {
		if p.name == name {
			return filepath.Join(string(b), p.file())
		}
	}
	panic("parts: no program " + name)
}

// Build builds what is missing, of those that are named or of all, and says so
// on log. The folder is that of DOCKBELL_TEST_CACHE, else dockbell-test in the
// user's cache. Tests that start together build once. A program appears under
// its name only when it is complete, so that a build may be killed at any
// moment.
func Build(ctx context.Context, log io.Writer, names ...string) (Bin, error) {
	dir := os.Getenv("DOCKBELL_TEST_CACHE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(cache, "dockbell-test")
	}
	dir, err := filepath.Abs(dir) // the programs run in folders of their own
	if err != nil {
		return "", err
	}
	wanted := programs
	if len(names) > 0 {
		wanted = slices.DeleteFunc(slices.Clone(programs), func(p program) bool { return !slices.Contains(names, p.name) })
	}
	return Bin(dir), buildMissing(ctx, log, dir, wanted)
}

func buildMissing(ctx context.Context, log io.Writer, dir string, programs []program) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	unlock, err := lock(ctx, log, filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if err := removeUnfinished(dir); err != nil {
		return err
	}
	for _, p := range programs {
		path := filepath.Join(dir, p.file())
		if _, err := os.Stat(path); err == nil {
			continue
		}
		fmt.Fprintf(log, "building %s %s, once; on two cores this takes %s\n", p.name, p.version, p.takes)
		began := time.Now()
		if err := p.build(ctx, path); err != nil {
			return err
		}
		fmt.Fprintf(log, "built %s in %s\n", p.name, time.Since(began).Round(time.Second))
	}
	return nil
}

const unfinished = "building-" // how the folder of a build in progress begins

// removeUnfinished removes what killed builds left. Only the holder of the
// lock may: nobody else is building then.
func removeUnfinished(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, unfinished+"*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

func (p program) build(ctx context.Context, into string) error {
	temp, err := os.MkdirTemp(filepath.Dir(into), unfinished)
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	built := filepath.Join(temp, p.name)
	flags := []string{"-trimpath", "-tags", p.tags, "-ldflags", "-s -w" + p.ldflags}
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build"}, flags...), "-o", built, p.pkg)...)
	cmd.Dir = toolsDir()
	switch {
	case p.install:
		cmd = exec.CommandContext(ctx, "go", append(append([]string{"install"}, flags...), p.pkg+"@"+p.version)...)
		cmd.Dir = temp
	case p.module != "":
		if cmd.Dir, err = moduleDir(ctx, p.module+"@"+p.version); err != nil {
			return err
		}
	}
	cgo := "CGO_ENABLED=0"
	if p.cgo {
		if _, err := exec.LookPath("gcc"); err != nil {
			return fmt.Errorf("building %s: there is no C compiler on this machine: apt-get install gcc libc6-dev", p.name)
		}
		cgo = "CGO_ENABLED=1"
	}
	cmd.Env = append(os.Environ(), "GOBIN="+temp, "GOFLAGS=-buildvcs=false", "GOWORK=off", cgo)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a go command left alone would go on for minutes
	cmd.WaitDelay = 5 * time.Second                                    // compilers may outlive it, and hold its output
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", p.name, err, out)
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
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, failed := cmd.Output()
	var m struct{ Dir, Error string } // printed also when it fails
	if err := errors.Join(failed, json.Unmarshal(out, &m)); err != nil {
		return "", fmt.Errorf("go mod download %s: %w: %s", module, err, m.Error)
	}
	return m.Dir, nil
}

// lock waits until no other process holds the file, which the kernel also
// releases when a holder is killed.
func lock(ctx context.Context, log io.Writer, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for told := false; ; told = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != syscall.EWOULDBLOCK {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if !told {
			fmt.Fprintf(log, "waiting for the build of another process, which holds %s\n", path)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
