package store

import (
	"database/sql"
	"fmt"
	"hash/fnv"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/dockbell/dockbell/trigger"
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
	query.Set("application_name", schema)
	u.RawQuery = query.Encode()
	return u.String()
}

// Statements that change something find their rows by an index, and never by
// reading a table, although the planner knows nothing of how it has grown.
func TestPlansOfPostgres(t *testing.T) {
	s := openPostgres(t, t.TempDir())
	defer s.Close()
	b := &bench{TB: t, Store: s, now: begin}
	testFollowers(t, b)
	exec(t, s, "UPDATE running SET owner = 1")
	if _, err := b.Recover(t.Context(), b.now, never); err != nil {
		t.Fatal(err)
	}
	b.accept(b.push("v98"), planned("y", trigger.Latest))
	b.accept(b.push("v99"), planned("y", trigger.Latest))
	for _, r := range b.claim(14) {
		b.finish(r, trigger.Failed)
	}
	b.release(b.hold("y", ""))
	if err := b.Retry(t.Context(), 14, "", b.now); err != nil {
		t.Fatal(err)
	}

	queries := []string{askKeys, askTries, askLanes, askTags, endRuns, promoteHeads, s.bind(takeAtOnce), s.bind(nextDue)}
	for q := range s.writer.stmts {
		queries = append(queries, s.bind(q))
	}
	tables := regexp.MustCompile(`Seq Scan on (deliveries|events|runs|origins|waiting|running|attempts|notes|votes)`)
	planned := 0
	for _, q := range queries {
		if strings.HasPrefix(q, "INSERT INTO") && !strings.Contains(q, "SELECT") {
			continue
		}
		plan := planOfPostgres(t, s, q)
		if tables.MatchString(plan) {
			t.Errorf("%s\nreads a whole table:\n%s", q, plan)
		}
		planned++
	}
	if planned < 20 {
		t.Errorf("only %d statements were planned", planned)
	}
	for query, index := range map[string]string{
		askKeys:         "origins_dedupe",
		askLanes:        "origins_lane",
		askTags:         "events_observed",
		s.bind(nextDue): "waiting_due",
		"SELECT run_id FROM waiting WHERE head AND NOT awaits AND due_at <= 1 ORDER BY due_at, run_id LIMIT 64": "waiting_due",
		"SELECT run_id FROM waiting WHERE lane = 'a' ORDER BY lane, run_id LIMIT 1":                             "waiting_lane",
		selectHolds + " WHERE released_at = 0 ORDER BY id":                                                      "holds_open",
		"SELECT run_id FROM origins WHERE event_id = 7":                                                         "origins_event",
	} {
		if plan := planOfPostgres(t, s, query); !strings.Contains(plan, index) {
			t.Errorf("%s\ndoes not use %s:\n%s", query, index, plan)
		}
	}
}

// planOfPostgres is how the writer's statements are carried out whatever their
// parameters are.
func planOfPostgres(t *testing.T, s *Store, query string) (plan string) {
	t.Helper()
	n := 0
	for strings.Contains(query, fmt.Sprint("$", n+1)) {
		n++
	}
	args := ""
	if n > 0 {
		args = "(NULL" + strings.Repeat(", NULL", n-1) + ")"
	}
	err := s.writer.do(t.Context(), func(w *writer) error {
		for _, q := range []string{"SET LOCAL plan_cache_mode = force_generic_plan", "PREPARE planned AS " + query} {
			if _, err := w.conn.ExecContext(t.Context(), q); err != nil {
				return err
			}
		}
		err := each(w.conn.QueryContext(t.Context(), "EXPLAIN EXECUTE planned"+args))(func(rows rowScanner) error {
			var line string
			err := rows.Scan(&line)
			plan += line + "\n"
			return err
		})
		if err != nil {
			return err
		}
		_, err = w.conn.ExecContext(t.Context(), "DEALLOCATE planned")
		return err
	})
	if err != nil {
		t.Fatalf("%s\n%v", query, err)
	}
	return plan
}

// Lists are not planned anew each time. PostgreSQL decides that after five.
func TestPlansOfLists(t *testing.T) {
	s := openPostgres(t, t.TempDir())
	defer s.Close()
	fill(t, s, 1, 5000, false)
	exec(t, s, "ANALYZE")
	s.read.SetMaxOpenConns(2) // one listens
	for range 9 {
		for _, f := range []trigger.RunFilter{{Limit: 50}, {Limit: 50, Repository: "shop/web7"}, {Limit: 50, State: trigger.Waiting}} {
			if _, err := s.Runs(t.Context(), f); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range []trigger.EventFilter{{Limit: 50}, {Limit: 50, Repository: "shop/web7"}} {
			if _, err := s.Events(t.Context(), f); err != nil {
				t.Fatal(err)
			}
		}
	}
	lists := 0
	query := "SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%LIMIT%' AND generic_plans + custom_plans >= 9"
	err := each(s.query(t.Context(), query))(func(rows rowScanner) error {
		var statement string
		var kept, anew int
		if err := rows.Scan(&statement, &kept, &anew); err != nil {
			return err
		}
		lists++
		if kept < 4 {
			t.Errorf("planned anew %d of %d times: %s", anew, kept+anew, statement)
		}
		return nil
	})
	if err != nil || lists < 5 {
		t.Errorf("%d lists were looked at, %v", lists, err)
	}
}

func TestRefusedByPostgres(t *testing.T) {
	location := postgresAt(t, t.TempDir())
	s, err := Open(t.Context(), location)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, s, "UPDATE dockbell_schema SET version = 9 WHERE version = 2")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	foreign := postgresAt(t, filepath.Join(t.TempDir(), "foreign"))
	db, err := sql.Open("pgx", foreign)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "CREATE TABLE theirs (id int)"); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(location)
	if err != nil {
		t.Fatal(err)
	}
	u.User, u.Host = url.UserPassword("dockbell", "geheim"), "127.0.0.1:1"
	for location, want := range map[string]string{
		location:                                "it has schema version 9 and this dockbell knows up to 6; run the newer dockbell",
		foreign:                                 "it is a database of another program",
		u.String():                              "PostgreSQL does not answer",
		"postgres://dockbell:geheim@db:port/db": "the URL cannot be read",
	} {
		s, err := Open(t.Context(), location)
		if err == nil {
			s.Close()
			t.Fatalf("%s was opened", location)
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v, want %s", location, err, want)
		}
	}
}
