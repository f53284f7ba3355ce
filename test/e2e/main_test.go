// Package e2e tests dockbell as its users run it: the built binary, a real
// Kubernetes control plane, a real registry.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dockbell/dockbell/test/parts"
)

// What all tests share. Each has a namespace of its own in the cluster.
var (
	bin     parts.Bin
	cluster *parts.Cluster
	program string // dockbell
)

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "dockbell-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "dockbell")
	build := exec.Command("go", "build", "-o", program, "./cmd/dockbell")
	build.Dir = "../.." // the product is a module of its own
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("building dockbell: %w\n%s", err, out)
	}
	if bin, err = parts.Build(ctx, os.Stderr); err != nil {
		return 0, err
	}
	if cluster, err = parts.StartCluster(ctx, bin, dir); err != nil {
		return 0, err
	}
	defer cluster.Stop()
	return m.Run(), nil
}
