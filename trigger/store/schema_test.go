package store

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// A database of any earlier version keeps what is in it, and its runs go on.
func TestMigration(t *testing.T) {
	for name, d := range map[string]struct {
		dialect
		at   func(t *testing.T) (location string, db *sql.DB)
		rows []string
	}{
		"SQLite": {sqliteDialect, func(t *testing.T) (string, *sql.DB) {
			path := filepath.Join(t.TempDir(), "db")
			return "sqlite:" + path, openDB(t, "sqlite", path)
		}, sqliteRows},
		"PostgreSQL": {postgresDialect, func(t *testing.T) (string, *sql.DB) {
			location := postgresAt(t, t.TempDir())
			return location, openDB(t, "pgx", location)
		}, postgresRows},
	} {
		for from := 1; from < d.version(); from++ {
			t.Run(fmt.Sprint(name, " from ", from), func(t *testing.T) {
				location, db := d.at(t)
				earlier(t, db, d.dialect, from, d.rows)
				testMigration(t, location, from, d.version())
			})
		}
	}
}

func testMigration(t *testing.T, location string, from, to int) {
	have, now, err := Migrate(t.Context(), location)
	if err != nil || have != from || now != to {
		t.Fatalf("from %d to %d, %v", have, now, err)
	}
	s, err := Open(t.Context(), location)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if d, ok, err := s.Delivery(t.Context(), 1); err != nil || !ok || string(d.Body) != "kept" {
		t.Errorf("delivery %+v, %t, %v", d, ok, err)
	}
	if left, err := s.Recover(t.Context(), time.Unix(10, 0), func(string) bool { return true }); err != nil || len(left) != 1 || left[0].ID != 1 {
		t.Errorf("left over %+v, %v", left, err)
	}
	runs, _, err := s.Claim(t.Context(), time.Unix(20, 0), upTo(10))
	if err != nil || len(runs) != 1 || runs[0].ID != 1 || runs[0].Attempt != 2 {
		t.Fatalf("claimed %+v, %v", runs, err)
	}
	if _, err := s.Finish(t.Context(), runs[0], trigger.Result{State: trigger.Succeeded, At: time.Unix(21, 0)}); err != nil {
		t.Fatal(err)
	}
	if runs, _, err = s.Claim(t.Context(), time.Unix(30, 0), upTo(10)); err != nil || len(runs) != 1 || runs[0].ID != 2 {
		t.Errorf("claimed %+v, %v", runs, err)
	}
	for limit := 1; limit < 4; limit++ {
		listed, err := s.Runs(t.Context(), trigger.RunFilter{Repository: "shop/web", Limit: limit})
		if err != nil || len(listed) != min(limit, 2) || listed[0].ID != 2 {
			t.Errorf("runs of the repository %+v, %v", listed, err)
		}
	}
	if events, err := s.Events(t.Context(), trigger.EventFilter{Repository: "shop/web", Limit: 5, Before: 2}); err != nil || len(events) != 1 || events[0].ID != 1 {
		t.Errorf("events of the repository %+v, %v", events, err)
	}
	if problems, err := Check(t.Context(), location); err != nil || len(problems) > 0 {
		t.Errorf("%q, %v", problems, err)
	}
}

func openDB(t *testing.T, driver, location string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, location)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// earlier makes a database of an earlier version, with a run in the middle and
// one that waits for it, both of the first version there was.
func earlier(t *testing.T, db *sql.DB, d dialect, version int, rows []string) {
	t.Helper()
	defer db.Close()
	db.SetMaxOpenConns(1)
	for to := 1; to <= version; to++ {
		if err := d.step(t.Context(), db, to); err != nil {
			t.Fatal(err)
		}
		if to > 1 {
			continue
		}
		for _, q := range rows {
			if _, err := db.ExecContext(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
	}
}

var sqliteRows = []string{
	"INSERT INTO deliveries (source, received_at, header, body) VALUES ('hub', 1, '{}', 'kept')",
	`INSERT INTO events (delivery_id, source, sender_id, action, registry, repository, tag, digest, media_type, actor, occurred_at, received_at, reason)
		VALUES (1, 'hub', '1', 'push', 'r.example', 'shop/web', 'v1', 'sha256:1', '', '', 1, 1, ''), (1, 'hub', '2', 'push', 'r.example', 'shop/web', 'v2', 'sha256:2', '', '', 2, 2, '')`,
	`INSERT INTO runs (event_id, rule, idx, kind, target, spec, repository, lane, mode, ordered, ordering, attempts, timeout, after, followed,
			state, reason, attempt, not_before, created_at, started_at, finished_at, dedupe, live_lane, due_at)
		VALUES (1, 'web', 0, 'set', 't', '{}', 'shop/web', 'l', 'queue', 1, '', 0, 0, 0, 0, 'running', '', 1, 1, 1, 1, 0, x'01', 'l', NULL),
			(2, 'web', 0, 'set', 't', '{}', 'shop/web', 'l', 'queue', 1, '', 0, 0, 0, 0, 'waiting', '', 0, 2, 2, 0, 0, x'02', 'l', NULL)`,
}

var postgresRows = []string{
	"INSERT INTO deliveries (id, source, received_at, header, body) VALUES (1, 'hub', 1, '{}', 'kept')",
	`INSERT INTO events (id, delivery_id, source, sender_id, action, registry, repository, tag, digest, media_type, actor, occurred_at, received_at, reason, observed)
		VALUES (1, 1, 'hub', '1', 'push', 'r.example', 'shop/web', 'v1', 'sha256:1', '', '', 1, 1, '', FALSE), (2, 1, 'hub', '2', 'push', 'r.example', 'shop/web', 'v2', 'sha256:2', '', '', 2, 2, '', FALSE)`,
	`INSERT INTO runs (id, event_id, rule, idx, kind, target, spec, lane, mode, ordered, ordering, attempts, timeout, after, followed,
			state, reason, attempt, not_before, created_at, started_at, finished_at,
			deadline, first_backoff, most_backoff, hold_failed, approvals, approved, approvers, approve_by, tells, first_at, owner, live_lane, due_at)
		VALUES (1, 1, 'web', 0, 'set', 't', '{}', 'l', 'queue', TRUE, '', 0, 0, FALSE, FALSE, 'running', '', 1, 1, 1, 1, 0, 0, 0, 0, FALSE, 0, 0, '', 0, 0, 1, 1, 'l', NULL),
			(2, 2, 'web', 0, 'set', 't', '{}', 'l', 'queue', TRUE, '', 0, 0, FALSE, FALSE, 'waiting', '', 0, 2, 2, 0, 0, 0, 0, 0, FALSE, 0, 0, '', 0, 0, 0, 0, 'l', NULL)`,
	"INSERT INTO origins (run_id, event_id, repository, dedupe) VALUES (1, 1, 'shop/web', '1'), (2, 2, 'shop/web', '2')",
}
