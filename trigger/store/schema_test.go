package store

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// A file of any earlier version keeps what is in it, and its runs go on.
func TestMigration(t *testing.T) {
	for from := 1; from < sqliteDialect.version(); from++ {
		t.Run(fmt.Sprint("from ", from), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			earlier(t, path, from)
			have, now, err := Migrate(t.Context(), "sqlite:"+path)
			if err != nil || have != from || now != sqliteDialect.version() {
				t.Fatalf("from %d to %d, %v", have, now, err)
			}
			s := openAt(t, path)
			defer s.Close()
			if d, ok, err := s.Delivery(t.Context(), 1); err != nil || !ok || string(d.Body) != "kept" {
				t.Errorf("delivery %+v, %t, %v", d, ok, err)
			}
			if left, err := s.Recover(t.Context(), time.Unix(10, 0), func(string) bool { return true }); err != nil || len(left) != 1 || left[0].ID != 1 {
				t.Errorf("left over %+v, %v", left, err)
			}
			runs, _, err := s.Claim(t.Context(), time.Unix(20, 0), 10)
			if err != nil || len(runs) != 1 || runs[0].ID != 1 || runs[0].Attempt != 2 {
				t.Fatalf("claimed %+v, %v", runs, err)
			}
			if _, err := s.Finish(t.Context(), runs[0], trigger.Result{State: trigger.Succeeded, At: time.Unix(21, 0)}); err != nil {
				t.Fatal(err)
			}
			if runs, _, err = s.Claim(t.Context(), time.Unix(30, 0), 10); err != nil || len(runs) != 1 || runs[0].ID != 2 {
				t.Errorf("claimed %+v, %v", runs, err)
			}
			if problems, err := Check(t.Context(), "sqlite:"+path); err != nil || len(problems) > 0 {
				t.Errorf("%q, %v", problems, err)
			}
		})
	}
}

// earlier makes a file of an earlier version, with a run in the middle and one
// that waits for it.
func earlier(t *testing.T, path string, version int) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for to := range version {
		if err := sqliteDialect.step(t.Context(), db, to+1); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range []string{
		"INSERT INTO deliveries (source, received_at, header, body) VALUES ('hub', 1, '{}', 'kept')",
		`INSERT INTO events (delivery_id, source, sender_id, action, registry, repository, tag, digest, media_type, actor, occurred_at, received_at, reason)
			VALUES (1, 'hub', '1', 'push', 'r.example', 'shop/web', 'v1', 'sha256:1', '', '', 1, 1, ''), (1, 'hub', '2', 'push', 'r.example', 'shop/web', 'v2', 'sha256:2', '', '', 2, 2, '')`,
		`INSERT INTO runs (event_id, rule, idx, kind, target, spec, repository, lane, mode, ordered, ordering, attempts, timeout, after, followed,
				state, reason, attempt, not_before, created_at, started_at, finished_at, dedupe, live_lane, due_at)
			VALUES (1, 'web', 0, 'set', 't', '{}', 'shop/web', 'l', 'queue', 1, '', 0, 0, 0, 0, 'running', '', 1, 1, 1, 1, 0, x'01', 'l', NULL),
				(2, 'web', 0, 'set', 't', '{}', 'shop/web', 'l', 'queue', 1, '', 0, 0, 0, 0, 'waiting', '', 0, 2, 2, 0, 0, x'02', 'l', NULL)`,
	} {
		if _, err := db.ExecContext(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
}
