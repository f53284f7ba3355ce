package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
)

// schemas are the steps from an empty database to the schema of today, for
// each of them 1.sql first. A step that has been released is never changed.
//
//go:embed schema/*/*.sql
var schemas embed.FS

// version is the number of the last step.
func (d dialect) version() int {
	if d.numbered {
		return 6
	}
	return 8
}

// migrate takes a database to the schema of today, step by step. One that a
// newer version wrote, or another program, is left as it is. fresh reports that
// it was empty.
func migrate(ctx context.Context, db *sql.DB, d dialect) (fresh bool, err error) {
	have, err := d.schemaVersion(ctx, db)
	if err != nil {
		return false, err
	}
	fresh = have == 0
	if have > d.version() {
		return false, fmt.Errorf("it has schema version %d and this dockbell knows up to %d; run the newer dockbell", have, d.version())
	}
	for have < d.version() {
		if err := d.step(ctx, db, have+1); err != nil {
			return false, fmt.Errorf("to schema version %d: %w", have+1, err)
		}
		if have, err = d.schemaVersion(ctx, db); err != nil {
			return false, err
		}
	}
	return fresh, nil
}

// schemaVersion is 0 for an empty database.
func (d dialect) schemaVersion(ctx context.Context, db *sql.DB) (have int, err error) {
	// How many tables there are, and whether they are ours.
	tables, ours := 0, "SELECT user_version FROM pragma_user_version"
	count := "SELECT count(*) FROM sqlite_schema"
	if d.numbered {
		ours = "SELECT coalesce(max(version), 0) FROM dockbell_schema"
		count = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
		var exists bool
		if err := db.QueryRowContext(ctx, "SELECT to_regclass('dockbell_schema') IS NOT NULL").Scan(&exists); err != nil {
			return 0, err
		}
		if !exists {
			ours = "SELECT 0"
		}
	}
	if err := db.QueryRowContext(ctx, ours).Scan(&have); err != nil {
		return 0, err
	}
	if err := db.QueryRowContext(ctx, count).Scan(&tables); err != nil {
		return 0, err
	}
	if have == 0 && tables > 0 {
		return 0, errors.New("it is a database of another program")
	}
	return have, nil
}

// step takes a database to a version from the one before, or leaves it there.
func (d dialect) step(ctx context.Context, db *sql.DB, to int) error {
	schema, err := schemas.ReadFile(fmt.Sprintf("schema/%s/%d.sql", d.schema, to))
	if err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	steps := []string{string(schema), fmt.Sprintf("PRAGMA user_version = %d", to)}
	if d.numbered {
		// Of replicas that start together one takes the step. The others wait
		// for its lock, and then find it done.
		var done bool
		if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock(hashtext('dockbell_schema'))"); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS dockbell_schema (version BIGINT PRIMARY KEY)"); err != nil {
			return err
		}
		if err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM dockbell_schema WHERE version >= $1)", to).Scan(&done); err != nil {
			return err
		}
		steps[1] = fmt.Sprintf("INSERT INTO dockbell_schema VALUES (%d)", to)
		if done {
			steps = nil
		}
	}
	for _, s := range steps {
		if _, err := tx.ExecContext(ctx, s); err != nil {
			return err
		}
	}
	return tx.Commit()
}
