package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// Backup copies a store of SQLite to a new file, also while a dockbell uses
// it. The copy is whole as of one moment.
func Backup(ctx context.Context, location, to string) (err error) {
	// What is received is not for everybody on the machine.
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s is there already", to)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(to))
		}
	}()
	return aside(ctx, location, func(d dialect, db *sql.DB) error {
		if d.shared {
			return errors.New("PostgreSQL is backed up with its own tools, as pg_dump")
		}
		_, err := db.ExecContext(ctx, "VACUUM INTO ?", to)
		return err
	})
}

// Migrate takes a store to the schema of this dockbell, as opening it does,
// and gives the version it had and the one it has.
func Migrate(ctx context.Context, location string) (from, to int, err error) {
	err = aside(ctx, location, func(d dialect, db *sql.DB) (err error) {
		from, err = d.schemaVersion(ctx, db)
		to = d.version()
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	s, err := Open(ctx, location)
	if err != nil {
		return 0, 0, err
	}
	return from, to, s.Close()
}

// checks are statements that find what must not be, a line each.
var checks = []string{
	"SELECT 'runs ' || min(run_id) || ' and ' || max(run_id) || ' were made for the same event' FROM origins WHERE dedupe IS NOT NULL GROUP BY dedupe HAVING count(*) > 1",
	"SELECT 'run ' || id || ' has no origin' FROM runs WHERE NOT EXISTS (SELECT 1 FROM origins o WHERE o.run_id = runs.id)",
	"SELECT 'run ' || id || ' is of an event that is not there' FROM runs WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.id = runs.event_id)",
	`SELECT 'lane ' || lane || ' has runs that wait, and none whose turn it is' FROM waiting WHERE lane IS NOT NULL
		AND NOT EXISTS (SELECT 1 FROM holds WHERE released_at = 0 AND digest = '' AND holds.lane = waiting.lane)
		AND NOT EXISTS (SELECT 1 FROM running WHERE running.lane = waiting.lane)
		GROUP BY lane HAVING count(*) FILTER (WHERE head) = 0`,
	"SELECT 'lane ' || lane || ' has several runs whose turn it is' FROM waiting WHERE head AND lane IS NOT NULL GROUP BY lane HAVING count(*) > 1",
	`SELECT 'run ' || r.id || ' waits and takes no turn, and would not be started' FROM waiting w JOIN runs r ON r.id = w.run_id
		WHERE w.lane IS NULL AND NOT w.head AND NOT r.after AND NOT r.pending AND NOT EXISTS (SELECT 1 FROM holds WHERE released_at = 0 AND digest = '' AND holds.lane = r.lane)`,
	`SELECT 'run ' || r.id || ' waits for steps that have ended' FROM runs r WHERE r.state = 'waiting' AND r.pending AND NOT EXISTS (
		SELECT 1 FROM origins o JOIN runs b ON b.id = o.run_id WHERE o.event_id = r.event_id AND b.rule = r.rule AND b.step <> '' AND b.idx < r.idx AND b.state IN ('waiting', 'running'))`,
	`SELECT 'run ' || r.id || ' is ' || r.state || ', which its lane does not know' FROM runs r JOIN origins o ON o.run_id = r.id
		WHERE o.lane <> r.lane OR o.outcome <> CASE WHEN r.state IN ('waiting', 'running', 'succeeded') THEN '' ELSE r.state END`,
	"SELECT 'run ' || id || ' is ' || state || ', and not where those are' FROM runs WHERE (state = 'waiting') <> EXISTS (SELECT 1 FROM waiting WHERE run_id = id) OR (state = 'running') <> EXISTS (SELECT 1 FROM running WHERE run_id = id)",
	"SELECT 'run ' || run_id || ' waits or runs, and is not there' FROM (SELECT run_id FROM waiting UNION ALL SELECT run_id FROM running) AS live WHERE NOT EXISTS (SELECT 1 FROM runs WHERE id = run_id)",
}

// deferredChecks are those of an index of SQLite that follows its table: what it
// lacks, and what it has too much.
func deferredChecks(d *deferred) []string {
	entry := fmt.Sprintf("SELECT 1 FROM %s x WHERE x.key = dockbell_key(t.%s) AND x.id = t.%s", d.name, d.column, d.id)
	row := fmt.Sprintf("SELECT 1 FROM %s t WHERE t.%s = x.id AND dockbell_key(t.%s) = x.key", d.table, d.id, d.column)
	return []string{
		fmt.Sprintf("SELECT '%s lacks row ' || t.%s FROM %s t WHERE t.%s IS NOT NULL AND t.%s <= (SELECT upto FROM deferred WHERE name = '%s') AND NOT EXISTS (%s)",
			d.name, d.id, d.table, d.column, d.id, d.name, entry),
		fmt.Sprintf("SELECT '%s has row ' || x.id || ', which is not there' FROM %s x WHERE NOT EXISTS (%s)", d.name, d.name, row),
	}
}

// Check looks for damage in a store, also while a dockbell uses it. It gives a
// line for each thing that is wrong, none for a good one.
func Check(ctx context.Context, location string) (problems []string, err error) {
	err = aside(ctx, location, func(d dialect, db *sql.DB) error {
		have, err := d.schemaVersion(ctx, db)
		if err != nil {
			return err
		}
		if have != d.version() {
			advice := "`dockbell db migrate` changes it"
			if have > d.version() {
				advice = "run the newer dockbell"
			}
			problems = append(problems, fmt.Sprintf("it has schema version %d and this dockbell is for %d: the rest cannot be checked; %s", have, d.version(), advice))
			return nil
		}
		problems, err = d.check(ctx, db)
		return err
	})
	return problems, err
}

// check gives a line for each thing that is wrong in a database of today's
// version.
func (d dialect) check(ctx context.Context, db *sql.DB) (problems []string, err error) {
	queries := checks
	if !d.shared {
		queries = append([]string{"SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check <> 'ok'"}, checks...)
		for _, index := range newDeferredIndexes().each() {
			queries = append(queries, deferredChecks(index)...)
		}
	}
	// One transaction: what is changed meanwhile is not half seen.
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: d.snapshot(), ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	for _, query := range queries {
		err := each(tx.QueryContext(ctx, query))(func(rows rowScanner) error {
			var line string
			err := rows.Scan(&line)
			problems = append(problems, line)
			return err
		})
		if err != nil {
			return problems, err
		}
	}
	return problems, nil
}

// snapshot is the isolation under which all statements see the same.
func (d dialect) snapshot() sql.IsolationLevel {
	if d.shared {
		return sql.LevelRepeatableRead
	}
	return sql.LevelDefault
}

// aside opens a store that is there, beside a dockbell that may use it.
func aside(ctx context.Context, location string, do func(dialect, *sql.DB) error) (err error) {
	where, err := locate(location)
	if err != nil {
		return err
	}
	db, err := where.openAside()
	if err != nil {
		return fmt.Errorf("store %s: %w", where, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := do(where.dialect, db); err != nil {
		return fmt.Errorf("store %s: %w", where, advised(err))
	}
	return nil
}

func (p place) openAside() (*sql.DB, error) {
	if p.shared {
		config, err := pgx.ParseConfig(p.config)
		if err != nil {
			return nil, errors.New("the URL cannot be read: " + scrub(err, p.config))
		}
		return stdlib.OpenDB(*config), nil
	}
	if _, err := os.Stat(p.path); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(p.path)
	if err != nil {
		return nil, err
	}
	return sql.Open("sqlite", fileURL(abs)+"?mode=ro&_pragma=busy_timeout(5000)")
}
