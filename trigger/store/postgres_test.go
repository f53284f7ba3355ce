package store

import (
	"database/sql"
	"fmt"
	"hash/fnv"
	"net/url"
	"os"
	"testing"
)

// openPostgres gives each place a schema of its own on the server that
// DOCKBELL_TEST_POSTGRES names.
func openPostgres(t testing.TB, place string) *Store {
	t.Helper()
	s, err := Open(t.Context(), postgresAt(t, place))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// postgresAt is the location of the store at a place.
func postgresAt(t testing.TB, place string) string {
	t.Helper()
	server := os.Getenv("DOCKBELL_TEST_POSTGRES")
	if server == "" {
		t.Skip("DOCKBELL_TEST_POSTGRES names no server; `make check` starts one")
	}
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	h := fnv.New64a()
	h.Write([]byte(place))
	schema := fmt.Sprintf("test_%x", h.Sum64())
	db, err := sql.Open("pgx", server)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "CREATE SCHEMA IF NOT EXISTS "+schema); err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set("search_path", schema)
	u.RawQuery = query.Encode()
	return u.String()
}
