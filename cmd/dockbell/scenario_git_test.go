package main

import (
	"strings"
	"testing"

	"github.com/dockbell/dockbell/trigger/action/git/gittest"
)

// serveRepository serves the scenario's repository, if it has one, and gives
// the configuration with its address and what checks its files at the end.
func (s *scenario) serveRepository(t *testing.T, config string) (_ string, check func()) {
	t.Helper()
	if s.Repo == nil {
		return config, func() {}
	}
	repo := gittest.New(t, s.Repo)
	return strings.ReplaceAll(config, "REPOSITORY", repo.URL), func() {
		t.Helper()
		for name, want := range s.Files {
			if got := repo.Git("show", name); got != want {
				t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
			}
		}
	}
}
