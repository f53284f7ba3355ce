package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Backup copies a store to a new file, also while a dockbell uses it. The copy
// is whole as of one moment.
func Backup(ctx context.Context, location, to string) error {
	if _, err := os.Stat(to); err == nil {
		return fmt.Errorf("%s is there already", to)
	}
	return readOnly(ctx, location, func(db *sql.DB) error {
		_, err := db.ExecContext(ctx, "VACUUM INTO ?", to)
		return err
	})
}

// Check looks for damage in a store, also while a dockbell uses it. It gives a
// line for each thing that is wrong, none for a good one.
func Check(ctx context.Context, location string) (problems []string, err error) {
	err = readOnly(ctx, location, func(db *sql.DB) error {
		var have int
		if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
			return err
		}
		if have != version {
			problems = append(problems, fmt.Sprintf("it has schema version %d, this dockbell makes %d of it when it serves", have, version))
		}
		for _, query := range []string{
			"SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'",
			"SELECT 'run ' || id || ' is of an event that is not there' FROM runs WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.id = runs.event_id)",
			"SELECT 'lane ' || lane || ' has runs that wait, and none that is due' FROM runs WHERE live_lane IS NOT NULL GROUP BY live_lane HAVING count(due_at) = 0 AND sum(state = 'running') = 0",
			"SELECT 'lane ' || live_lane || ' has several runs at once' FROM runs WHERE live_lane IS NOT NULL AND state = 'running' GROUP BY live_lane HAVING count(*) > 1",
		} {
			err := each(db.QueryContext(ctx, query))(func(rows rowScanner) error {
				var line string
				err := rows.Scan(&line)
				problems = append(problems, line)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return problems, err
}

// readOnly opens a store that is there, beside a dockbell that may use it.
func readOnly(ctx context.Context, location string, do func(*sql.DB) error) (err error) {
	path, ok := strings.CutPrefix(location, "sqlite:")
	if !ok || path == "" {
		return fmt.Errorf("store %q: must be sqlite:PATH", location)
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	file := (&url.URL{Scheme: "file", OmitHost: true, Path: abs}).String()
	db, err := sql.Open("sqlite", file+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := do(db); err != nil {
		return fmt.Errorf("store %s: %w", path, err)
	}
	return nil
}
