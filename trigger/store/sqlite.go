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
	"syscall"

	sqlitedriver "modernc.org/sqlite" // the driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Readers are separate connections: a list never waits for the writer.
const readers = 4

// sqlite is the engine of a file.
type sqlite struct {
	db          *sql.DB
	checkpoints *checkpointer
	begun       int // transactions
}

func (s *Store) openSQLite(ctx context.Context, where place) (engine, error) {
	lock, err := lockFile(where.path + ".lock")
	if err != nil {
		return nil, err
	}
	s.releases = append(s.releases, lock.Close)
	abs, err := filepath.Abs(where.path)
	if err != nil {
		return nil, err
	}
	if err := create(abs); err != nil {
		return nil, err
	}
	// A larger cache costs more than it saves: at the end of many transactions
	// SQLite goes through all of it.
	pragmas := fmt.Sprint("_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=cache_size(-8000)&_pragma=wal_autocheckpoint(", checkpointAtOnce, ")")
	if s.write, err = sql.Open("sqlite", fileURL(abs)+"?"+pragmas); err != nil {
		return nil, err
	}
	s.releases = append(s.releases, s.write.Close)
	s.write.SetMaxOpenConns(1)
	if err := s.write.PingContext(ctx); err != nil { // makes the log, which readers need
		return nil, err
	}
	if s.read, err = sql.Open("sqlite", fileURL(abs)+"?mode=ro&_pragma=busy_timeout(5000)&_pragma=cache_size(-8000)"); err != nil {
		return nil, err
	}
	s.releases = append(s.releases, s.read.Close)
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	checkpoints, err := startCheckpointer(fileURL(abs), checkpointEvery)
	if err != nil {
		return nil, err
	}
	s.releases = append(s.releases, checkpoints.stop)
	return &sqlite{db: s.write, checkpoints: checkpoints}, nil
}

func fileURL(path string) string {
	return (&url.URL{Scheme: "file", OmitHost: true, Path: path}).String()
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

func (e *sqlite) connect(ctx context.Context) (*sql.Conn, error) { return e.db.Conn(ctx) }

func (e *sqlite) begin(w *writer, ops []*op) error {
	w.ctx, w.cancel = context.Background(), func() {} // what is begun is not abandoned, however slow the disk
	w.ahead.drop()
	if e.begun++; e.begun%checkpointLook == 0 {
		rouse(e.checkpoints.progress)
	}
	if e.checkpoints.little.CompareAndSwap(true, false) {
		_, _, _ = checkpoint(w.conn, "PASSIVE") // otherwise the log goes on growing
	}
	if err := w.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err := e.ask(w, inOrder(ops)); err != nil {
		return errors.Join(err, e.rollback(w))
	}
	return nil
}

// ask asks for ids, and which keys of redelivery are new.
func (e *sqlite) ask(w *writer, q question) error {
	if q.deliveries == 0 {
		return nil
	}
	w.ids, w.keys = map[*table][]int64{}, map[string]duplicate{}
	for t, n := range q.rows() {
		var next int64
		if _, err := w.row(w.nextID(t), nil, &next); err != nil {
			return err
		}
		for i := range int64(n) {
			w.ids[t] = append(w.ids[t], next+i)
		}
	}
	if len(q.keys) == 0 {
		return nil
	}
	known, ask := map[int64]bool{}, make([]int64, len(q.keys))
	for i, k := range q.keys {
		ask[i] = keyOf(k)
		known[ask[i]] = w.indexes.dedupes.has(ask[i])
	}
	err := w.rows("SELECT d.key FROM json_each(?) j CROSS JOIN runs_by_dedupe d WHERE d.key = j.value", []any{w.list(ask)}, func(rows rowScanner) error {
		var key int64
		err := rows.Scan(&key)
		known[key] = true
		return err
	})
	// What may be known is asked about again, by the one who has that key.
	for i, k := range q.keys {
		if !known[ask[i]] {
			w.keys[string(k)] = duplicate{}
		}
	}
	return err
}

func (e *sqlite) commit(w *writer) error {
	for _, d := range w.indexes.each() {
		if err := w.sweep(d); err != nil {
			return err
		}
	}
	if err := w.exec("COMMIT"); err != nil {
		return err
	}
	for _, d := range w.indexes.each() {
		d.commit()
	}
	return nil
}

// rollback is an error only where SQLite has not already rolled back by
// itself, as it does on a full disk.
func (e *sqlite) rollback(w *writer) error {
	for _, d := range w.indexes.each() {
		d.rollback()
	}
	if err := w.exec("ROLLBACK"); err != nil && !isNoTransaction(err) {
		return err
	}
	return nil
}

func isNoTransaction(err error) bool {
	return strings.Contains(err.Error(), "no transaction is active")
}

// damaged reports whether SQLite met something that is not as it wrote it.
func damaged(err error) bool {
	var e *sqlitedriver.Error
	if !errors.As(err, &e) {
		return false
	}
	kind := e.Code() & 0xff // an extended code has more above
	return kind == sqlite3.SQLITE_CORRUPT || kind == sqlite3.SQLITE_NOTADB
}

// advised says what to do about a damaged file.
func advised(err error) error {
	if !damaged(err) {
		return err
	}
	return fmt.Errorf("%w: the file is damaged; stop dockbell, look at it with `dockbell db check`, and put a backup in its place", err)
}
