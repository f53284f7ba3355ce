package store

import (
	"path/filepath"
	"testing"
)

func openSQLite(t testing.TB, place string) engine {
	t.Helper()
	s, err := Open(t.Context(), "sqlite:"+filepath.Join(place, "a store? #1%41.db"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSQLite(t *testing.T) { runSuite(t, openSQLite) }
