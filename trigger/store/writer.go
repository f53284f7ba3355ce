package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// batch is how many operations share one transaction at the most, and so one
// flush of the disk.
const batch = 512

// writer is the only one that writes. Operations that wait while a
// transaction is being flushed go together into the next one: under load many
// share a flush, and a single one never waits for company.
type writer struct {
	conn *sql.Conn
	ops  chan *op
	wake chan struct{}
	quit chan struct{}
	done chan struct{}

	stmts map[string]*sql.Stmt
	due   bool // something in this transaction may have become due

	observes bool // there are events that pollers found
}

// op is one operation. It may be carried out twice, when another one of its
// transaction fails, so it must set its results anew.
type op struct {
	do     func(*writer) error
	result chan error
}

var errClosed = errors.New("the store is closed")

func startWriter(ctx context.Context, db *sql.DB) (*writer, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	w := &writer{
		conn: conn, ops: make(chan *op), stmts: map[string]*sql.Stmt{},
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	if err := conn.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM events WHERE observed = 1)").Scan(&w.observes); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go w.loop()
	return w, nil
}

func (w *writer) stop() {
	close(w.quit)
	<-w.done
}

// do carries out an operation and returns when it is on disk, or not at all.
// Once begun it is not abandoned: a context that ends then does not keep the
// caller from the answer. A claim that nobody learns of would stay running.
func (w *writer) do(ctx context.Context, f func(*writer) error) error {
	o := &op{do: f, result: make(chan error, 1)}
	select {
	case w.ops <- o:
	case <-ctx.Done():
		return ctx.Err()
	case <-w.quit:
		return errClosed
	}
	return <-o.result
}

func (w *writer) loop() {
	defer close(w.done)
	defer w.conn.Close()
	ops := make([]*op, 0, batch)
	for {
		select {
		case o := <-w.ops:
			ops = append(ops[:0], o)
		case <-w.quit:
			return
		}
	more:
		for len(ops) < batch {
			select {
			case o := <-w.ops:
				ops = append(ops, o)
			default:
				break more
			}
		}
		w.commit(ops)
	}
}

// commit writes all operations or, when one of them fails, each by itself.
func (w *writer) commit(ops []*op) {
	err := w.transaction(ops)
	if err != nil && len(ops) > 1 {
		for _, o := range ops {
			o.result <- w.transaction([]*op{o})
		}
		return
	}
	for _, o := range ops {
		o.result <- err
	}
}

func (w *writer) transaction(ops []*op) error {
	w.due = false
	if err := w.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	for _, o := range ops {
		if err := o.do(w); err != nil {
			return errors.Join(err, w.rollback())
		}
	}
	if err := w.exec("COMMIT"); err != nil {
		return errors.Join(err, w.rollback())
	}
	if w.due {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// rollback is an error only where SQLite has not already rolled back by
// itself, as it does on a full disk.
func (w *writer) rollback() error {
	if err := w.exec("ROLLBACK"); err != nil && !isNoTransaction(err) {
		return err
	}
	return nil
}

func isNoTransaction(err error) bool {
	return strings.Contains(err.Error(), "no transaction is active")
}

func (w *writer) stmt(query string) (*sql.Stmt, error) {
	if s, ok := w.stmts[query]; ok {
		return s, nil
	}
	s, err := w.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, fmt.Errorf("%w in: %s", err, query)
	}
	w.stmts[query] = s
	return s, nil
}

func (w *writer) exec(query string, args ...any) error {
	s, err := w.stmt(query)
	if err != nil {
		return err
	}
	_, err = s.Exec(args...)
	return err
}

// insert gives the id of the new row.
func (w *writer) insert(query string, args ...any) (int64, error) {
	s, err := w.stmt(query)
	if err != nil {
		return 0, err
	}
	r, err := s.Exec(args...)
	if err != nil {
		return 0, err
	}
	return r.LastInsertId()
}

// row scans the only row; ok is false when there is none.
func (w *writer) row(query string, args []any, into ...any) (ok bool, err error) {
	s, err := w.stmt(query)
	if err != nil {
		return false, err
	}
	err = s.QueryRow(args...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// rows calls scan for each row. All rows are read before the next statement
// may run.
func (w *writer) rows(query string, args []any, scan func(rowScanner) error) error {
	s, err := w.stmt(query)
	if err != nil {
		return err
	}
	return each(s.Query(args...))(scan)
}

// each runs through a query's rows and closes it.
func each(rows *sql.Rows, err error) func(scan func(rowScanner) error) error {
	return func(scan func(rowScanner) error) error {
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := scan(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	}
}
