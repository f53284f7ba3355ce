// Package store keeps deliveries, events and runs on disk. It owns what must
// be decided inside a transaction: whether a run is new, what it supersedes,
// which run of a lane is next. It knows no kind of action, starts nothing and
// reads no clock.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// schemas are the steps from an empty file to the schema of today, 1.sql first.
// A step that has been released is never changed.
//
//go:embed schema/*.sql
var schemas embed.FS

// version is the schema's, kept in the file as user_version.
const version = 2

// Readers are separate connections: a list never waits for the writer.
const readers = 4

// Store is a database in one SQLite file. Everything it says it has accepted
// or finished has been flushed to the disk. Its methods may be called from
// many goroutines.
type Store struct {
	read   *sql.DB
	write  *sql.DB
	writer *writer
	lock   *os.File
	close  func() error
}

// Open opens the store at a location, sqlite:PATH, and creates it when
// there is none. A file that another dockbell has open, or that a newer
// version wrote, is refused.
func Open(ctx context.Context, location string) (*Store, error) {
	path, ok := strings.CutPrefix(location, "sqlite:")
	if !ok || path == "" {
		return nil, fmt.Errorf("store %q: must be sqlite:PATH", location)
	}
	s, err := open(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", path, err)
	}
	return s, nil
}

func open(ctx context.Context, path string) (_ *Store, err error) {
	s := &Store{}
	s.close = sync.OnceValue(s.release)
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.lock, err = lockFile(path + ".lock"); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// A checkpoint writes each changed page once, however often it changed: with
	// 32 MB of log between them a write costs a fifth less than with SQLite's 4.
	const pragmas = "_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=cache_size(-32000)&_pragma=wal_autocheckpoint(8000)"
	if err := create(abs); err != nil {
		return nil, err
	}
	file := (&url.URL{Scheme: "file", OmitHost: true, Path: abs}).String()
	if s.write, err = sql.Open("sqlite", file+"?"+pragmas); err != nil {
		return nil, err
	}
	s.write.SetMaxOpenConns(1)
	if err := migrate(ctx, s.write); err != nil {
		return nil, err
	}
	if s.read, err = sql.Open("sqlite", file+"?mode=ro&_pragma=busy_timeout(5000)&_pragma=cache_size(-8000)"); err != nil {
		return nil, err
	}
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	if s.writer, err = startWriter(ctx, s.write); err != nil {
		return nil, err
	}
	return s, nil
}

// create makes the file where there is none: what is received is not for
// everybody on the machine.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// Close ends the store after what is being written. Operations that wait for
// that are refused.
func (s *Store) Close() error { return s.close() }

func (s *Store) release() error {
	var errs []error
	if s.writer != nil {
		s.writer.stop()
	}
	if s.read != nil {
		errs = append(errs, s.read.Close())
	}
	if s.write != nil {
		errs = append(errs, s.write.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// Ping reports whether the store can be read and its writer answers.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.read.QueryRowContext(ctx, "SELECT 1").Scan(new(int)); err != nil {
		return err
	}
	return s.writer.do(ctx, func(*writer) error { return nil })
}

// Wake receives when a run may have become due.
func (s *Store) Wake() <-chan struct{} { return s.writer.wake }

// lockFile keeps two daemons from one file: each would take the other's
// running runs for its own, left over from a crash. The kernel drops the lock
// with the process.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.New("another dockbell is using it; stop that one, or give this one a store of its own")
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

func migrate(ctx context.Context, db *sql.DB) error {
	var have int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	if have > version {
		return fmt.Errorf("it has schema version %d and this dockbell knows up to %d; run the newer dockbell", have, version)
	}
	var tables int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	if have == 0 && tables > 0 {
		return errors.New("it is a database of another program")
	}
	for have < version {
		have++
		if err := step(ctx, db, have); err != nil {
			return fmt.Errorf("to schema version %d: %w", have, err)
		}
	}
	return nil
}

// step takes a database to a version from the one before, or leaves it there.
func step(ctx context.Context, db *sql.DB, to int) error {
	schema, err := schemas.ReadFile(fmt.Sprintf("schema/%d.sql", to))
	if err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, string(schema)); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", to)); err != nil {
		return err
	}
	return tx.Commit()
}
