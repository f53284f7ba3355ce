package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
)

// batch is how many operations share one transaction at the most, and so one
// flush of the disk.
const batch = 512

// mostYields is how often a transaction lets those go ahead who are about to
// write and can run now. Where nobody is that takes no time; where many are,
// half as many again share a flush.
const mostYields = 3

// writer is the only one that writes. Operations that wait while a
// transaction is being flushed go together into the next one: under load many
// share a flush, and a single one never waits for company.
type writer struct {
	dialect
	engine  engine
	indexes deferredIndexes
	ops     chan *op
	wake    chan struct{}
	tell    chan struct{} // that there is something to tell
	quit    chan struct{}
	done    chan struct{}

	conn    *sql.Conn // nil when there is none at the moment
	stmts   map[string]*sql.Stmt
	ctx     context.Context // of the present transaction
	due     bool            // something in this transaction may have become due
	noticed bool            // there is something to tell people

	cancel context.CancelFunc // ends ctx
	me     int64              // the replica that this is
	lapse  func()             // ends its lease

	claims   []*claiming        // of this transaction
	finished []int64            // the runs of which it knows that they need not be written again
	handed   map[int64]struct{} // the runs that were claimed and are not finished
	doubt    bool               // others may have been claimed: the answer was lost
	late     bool               // there were runs that people were to approve before the last claim

	tells map[string]bool // outcomes that people are told of
	memory
	ahead

	damage error // that the database was found to be damaged
}

// engine is how a database begins and ends a transaction.
type engine interface {
	// connect gives the connection that a writer uses from now on.
	connect(ctx context.Context) (*sql.Conn, error)
	// begin makes w the only one that writes, of all replicas, and may put the
	// operations into another order.
	begin(w *writer, ops []*op) error
	// commit writes what was kept back and flushes. When it is not known
	// whether it did, the error is errDoubtful.
	commit(w *writer) error
	rollback(w *writer) error
}

// op is one operation. It may be carried out twice, when another one of its
// transaction fails, so it must set its results anew.
type op struct {
	do     func(*writer) error
	asks   question // what do is going to ask
	result chan error
	begun  atomic.Bool
}

// begin makes the caller the only one who may carry an operation out, or give it
// up; ok is false when somebody has before.
func (o *op) begin() (ok bool) { return o.begun.CompareAndSwap(false, true) }

var (
	errClosed   = errors.New("the store is closed")
	errDoubtful = errors.New("the connection was lost while it was being written")
)

func startWriter(ctx context.Context, d dialect, e engine, i deferredIndexes) (*writer, error) {
	w := &writer{
		dialect: d, engine: e, indexes: i, ops: make(chan *op, batch), stmts: map[string]*sql.Stmt{}, handed: map[int64]struct{}{},
		wake: make(chan struct{}, 1), tell: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	var err error
	if w.conn, err = e.connect(ctx); err != nil {
		return nil, err
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
// caller from the answer.
func (w *writer) do(ctx context.Context, f func(*writer) error) error {
	return w.doAsking(ctx, question{}, f)
}

// doAsking is do for an operation that says what it is going to ask.
func (w *writer) doAsking(ctx context.Context, q question, f func(*writer) error) error {
	o := &op{do: f, asks: q, result: make(chan error, 1)}
	select {
	case w.ops <- o:
	case <-ctx.Done():
		return ctx.Err()
	case <-w.quit:
		return errClosed
	}
	select {
	case err := <-o.result:
		return err
	case <-ctx.Done():
	case <-w.done:
	}
	if o.begin() { // nobody has, and now nobody will
		return cmp.Or(ctx.Err(), errClosed)
	}
	return <-o.result
}

func (w *writer) loop() {
	defer close(w.done)
	defer w.disconnect()
	ops := make([]*op, 0, batch)
	for {
		select {
		case o := <-w.ops:
			ops = appendBegun(ops[:0], o)
		case <-w.quit:
			return
		}
	more:
		for yields := 0; len(ops) < batch; {
			select {
			case o := <-w.ops:
				ops = appendBegun(ops, o)
				continue
			default:
			}
			if yields++; yields > mostYields {
				break more
			}
			runtime.Gosched()
		}
		if len(ops) > 0 {
			w.write(ops)
		}
	}
}

// appendBegun adds an operation that was not given up.
func appendBegun(ops []*op, o *op) []*op {
	if o.begin() {
		ops = append(ops, o)
	}
	return ops
}

// write carries out all operations or, when one of them fails, each by itself.
func (w *writer) write(ops []*op) {
	err := w.transaction(ops)
	if err != nil && len(ops) > 1 && w.conn != nil {
		for _, o := range ops {
			w.answer(o, w.transaction([]*op{o}))
		}
		return
	}
	for _, o := range ops {
		w.answer(o, err)
	}
}

// answer tells how an operation went, and keeps in mind that the database is
// damaged: that does not pass.
func (w *writer) answer(o *op, err error) {
	if damaged(err) {
		err = advised(err)
		w.damage = err
	}
	o.result <- err
}

func (w *writer) transaction(ops []*op) error {
	w.due, w.noticed, w.claims, w.finished = false, false, nil, nil
	if err := w.engine.begin(w, ops); err != nil {
		w.forget()
		return err
	}
	var err error
	for _, o := range ops {
		if err = o.do(w); err != nil {
			break
		}
	}
	if err == nil {
		err = w.engine.commit(w)
	}
	if err != nil {
		w.forget()
		if errors.Is(err, errDoubtful) {
			w.doubt = w.doubt || len(w.claims) > 0
			return err
		}
		return errors.Join(err, w.engine.rollback(w))
	}
	w.handOut()
	if w.due {
		rouse(w.wake)
	}
	if w.noticed {
		rouse(w.tell)
	}
	return nil
}

// rouse lets somebody look, who has perhaps been told already.
func rouse(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// disconnect drops the connection, with what was prepared on it.
func (w *writer) disconnect() {
	if w.conn == nil {
		return
	}
	for _, s := range w.stmts {
		_ = s.Close() // the connection goes with them
	}
	clear(w.stmts)
	_ = w.conn.Close() // nothing is in the middle
	w.conn = nil
}

func (w *writer) stmt(query string) (*sql.Stmt, error) {
	if s, ok := w.stmts[query]; ok {
		return s, nil
	}
	s, err := w.conn.PrepareContext(w.ctx, w.bind(query))
	if err != nil {
		return nil, fmt.Errorf("%w in: %s", err, query)
	}
	w.stmts[query] = s
	return s, nil
}

func (w *writer) exec(query string, args ...any) error {
	_, err := w.change(query, args...)
	return err
}

// change is exec that gives the number of rows it changed.
func (w *writer) change(query string, args ...any) (int, error) {
	if err := w.flush(); err != nil {
		return 0, err
	}
	s, err := w.stmt(query)
	if err != nil {
		return 0, err
	}
	r, err := s.ExecContext(w.ctx, w.values(args)...)
	if err != nil {
		return 0, err
	}
	n, err := r.RowsAffected()
	return int(n), err
}

// row scans the only row; ok is false when there is none.
func (w *writer) row(query string, args []any, into ...any) (ok bool, err error) {
	if err := w.flush(); err != nil {
		return false, err
	}
	s, err := w.stmt(query)
	if err != nil {
		return false, err
	}
	err = s.QueryRowContext(w.ctx, w.values(args)...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// rows calls scan for each row. All rows are read before the next statement
// may run.
func (w *writer) rows(query string, args []any, scan func(rowScanner) error) error {
	if err := w.flush(); err != nil {
		return err
	}
	s, err := w.stmt(query)
	if err != nil {
		return err
	}
	return each(s.QueryContext(w.ctx, w.values(args)...))(scan)
}

// idsOf gives the ids that a statement returns.
func (w *writer) idsOf(query string, args ...any) (ids []int64, err error) {
	err = w.rows(query, args, func(rows rowScanner) error {
		var id int64
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
	return ids, err
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
