// Package chart tests the Helm chart, what is written from it, and how the image
// that it installs is described, as far as that needs no cluster.
package chart

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/dockbell/dockbell/test/parts"
)

var update = flag.Bool("update", false, "write the table of the chart's README and the plain manifests")

// bin holds helm, which all tests run.
var bin parts.Bin

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if bin, err = parts.Build(context.Background(), os.Stderr, "helm"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const (
	chart     = "../../charts/dockbell"
	manifests = "../../manifests"
)

// variants are files of values that must work, the one of the plain manifests
// among them.
func variants(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(chart + "/ci/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no variants: %v", err)
	}
	return append(files, manifests+"/values.yaml")
}

// render gives what the chart makes in the namespace dockbell.
func render(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return bin.Helm(t.Context(), t.TempDir(), append([]string{"template", "dockbell", chart, "--namespace", "dockbell"}, args...)...)
}
