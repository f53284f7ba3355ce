// Package store keeps deliveries, events and runs on disk. It owns what must
// be decided inside a transaction: whether a run is new, what it supersedes,
// which run of a lane is next. It knows no kind of action, starts nothing and
// reads no clock.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Store is a database in one SQLite file, or on a PostgreSQL server that
// several replicas may share. Everything it says it has accepted or finished
// has been flushed to the disk. Its methods may be called from many
// goroutines.
type Store struct {
	dialect
	read     *sql.DB
	write    *sql.DB
	writer   *writer
	indexes  deferredIndexes
	replica  replica
	fresh    bool
	releases []func() error // what Close undoes, last first
	close    func() error
}

// Open opens the store at a location and creates it when there is none:
// sqlite:PATH, a file that no other dockbell has open, or a URL of PostgreSQL
// as postgres://user@host/database. One that a newer version wrote is refused.
func Open(ctx context.Context, location string) (*Store, error) {
	return openLeased(ctx, location, leaseTime)
}

func openLeased(ctx context.Context, location string, lease time.Duration) (*Store, error) {
	where, err := locate(location)
	if err != nil {
		return nil, err
	}
	s := &Store{dialect: where.dialect}
	s.bound, s.replica.lasts = &sync.Map{}, lease
	s.close = sync.OnceValue(s.release)
	if err := s.open(ctx, where); err != nil {
		return nil, fmt.Errorf("store %s: %w", where, errors.Join(advised(err), s.close()))
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, where place) (err error) {
	var e engine
	if s.shared {
		e, err = s.openPostgres(ctx, where)
	} else {
		e, err = s.openSQLite(ctx, where)
	}
	if err != nil {
		return err
	}
	if s.fresh, err = migrate(ctx, s.write, s.dialect); err != nil {
		return err
	}
	if !s.shared {
		s.indexes = newDeferredIndexes()
		for _, d := range s.indexes.each() {
			if err := d.load(ctx, s.write); err != nil {
				return err
			}
		}
	}
	if s.writer, err = startWriter(ctx, s.dialect, e, s.indexes); err != nil {
		return err
	}
	s.releases = append(s.releases, func() error { s.writer.stop(); return nil })
	return s.join(ctx)
}

// place is where a store is.
type place struct {
	dialect
	path   string // of SQLite
	config string // of PostgreSQL
}

// locate reads a location.
func locate(location string) (place, error) {
	if path, ok := strings.CutPrefix(location, "sqlite:"); ok && path != "" {
		return place{dialect: sqliteDialect, path: path}, nil
	}
	if strings.HasPrefix(location, "postgres://") || strings.HasPrefix(location, "postgresql://") {
		return place{dialect: postgresDialect, config: location}, nil
	}
	return place{}, fmt.Errorf("store %q: must be sqlite:PATH or postgres://USER@HOST/DATABASE", location)
}

// String names the place without its password.
func (p place) String() string {
	if p.path != "" {
		return p.path
	}
	return withoutPassword(p.config)
}

// Fresh reports whether there was no store before it was opened.
func (s *Store) Fresh() bool { return s.fresh }

// Close ends the store after what is being written. Operations that wait for
// that are refused.
func (s *Store) Close() error { return s.close() }

func (s *Store) release() error {
	var errs []error
	for i := len(s.releases) - 1; i >= 0; i-- {
		errs = append(errs, s.releases[i]())
	}
	return errors.Join(errs...)
}

// Ping reports whether the store can be read, and its writer answers and has
// met no damage.
func (s *Store) Ping(ctx context.Context) error {
	if _, err := s.queryRow(ctx, "SELECT 1", nil, new(int)); err != nil {
		return err
	}
	return s.writer.do(ctx, func(w *writer) error { return w.damage })
}

// Wake receives when a run may have become due.
func (s *Store) Wake() <-chan struct{} { return s.writer.wake }

// Noticed receives when this replica has kept something to tell people.
func (s *Store) Noticed() <-chan struct{} { return s.writer.tell }
