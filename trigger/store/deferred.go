package store

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tidwall/btree"
)

// deferred is an index of SQLite that follows its table some way behind. One by
// what comes in no order, as a key or a repository does, would take a page of
// the log for each row. The newest rows stand in memory instead, and go into
// the index's own table in its order, many to a page: each transaction writes
// about as many as it adds, and goes on where the one before ended. What is not
// known to be in the index is read from the table when the store is opened.
//
// PostgreSQL writes its log by rows and has none: nil is one without rows.
type deferred struct {
	name, column string
	table, id    string // that it is of
	newest       string // statement that gives the newest rows of a value
	one, many    string // statements that write rows
	together     int
	rows         *btree.BTreeG[entry]
	most         int // rows

	// Of the writer alone.
	last    int64 // row that is on disk
	whole   int64 // up to this row the index is whole
	round   int64 // the last row when the present round through the rows began: those it writes
	reached entry // by the present round

	// Of its present transaction.
	added, written []entry
	settled        map[string]int64 // value -> the row up to which its rows are written
	settledTo      int64            // the same for all values
	reaches        entry
	ends           bool // the round
}

// deferredIndexes are those of a store.
type deferredIndexes struct{ events, runs, dedupes *deferred }

func newDeferredIndexes() deferredIndexes {
	return deferredIndexes{
		events:  newDeferred("events_by_repository", "repository", "events", "id"),
		runs:    newDeferred("runs_by_repository", "repository", "origins", "run_id"),
		dedupes: newDeferred("runs_by_dedupe", "dedupe", "origins", "run_id"),
	}
}

// each gives those that there are.
func (i deferredIndexes) each() []*deferred {
	if i.events == nil {
		return nil
	}
	return []*deferred{i.events, i.runs, i.dedupes}
}

// entry is a row of an index.
type entry struct {
	value string
	id    int64
}

func (e entry) less(other entry) bool {
	return cmp.Or(cmp.Compare(e.value, other.value), cmp.Compare(e.id, other.id)) < 0
}

// mostDeferred is how many rows of an index stand in memory: so many come while
// each of its pages is written once. They take 4 MB in all, and as many are read
// in 50 ms.
const mostDeferred = 20_000

func newDeferred(name, column, table, id string) *deferred {
	one := "INSERT OR IGNORE INTO " + name + " VALUES (?, ?)"
	many, n := several(one)
	return &deferred{
		name: name, column: column, table: table, id: id,
		newest: "SELECT id FROM " + name + " WHERE " + column + " = ? AND id < ? ORDER BY id DESC LIMIT ?",
		one:    one, many: many, together: n,
		rows: btree.NewBTreeG(entry.less), most: mostDeferred,
	}
}

// load reads what may not be in the index. Where that is much, because the
// index is new, rows were copied into the table or dockbell ended in a flood,
// it is put there instead.
func (d *deferred) load(ctx context.Context, db *sql.DB) (err error) {
	var upto, many int64
	if err := db.QueryRowContext(ctx, "SELECT coalesce(max(upto), 0) FROM deferred WHERE name = ?", d.name).Scan(&upto); err != nil {
		return err
	}
	from := fmt.Sprintf("FROM %s WHERE %s > ?1 AND %s IS NOT NULL", d.table, d.id, d.column)
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM (SELECT 1 "+from+" LIMIT ?2)", upto, 2*mostDeferred).Scan(&many); err != nil {
		return err
	}
	if many == 2*mostDeferred {
		if upto, err = d.fill(ctx, db, from, upto); err != nil {
			return err
		}
	}
	d.whole = upto
	err = each(db.QueryContext(ctx, fmt.Sprintf("SELECT %s, %s ", d.column, d.id)+from, upto))(func(rows rowScanner) error {
		var e entry
		err := rows.Scan(&e.value, &e.id)
		d.rows.Set(e)
		return err
	})
	if err != nil {
		return err
	}
	// Rows that have no value count as well, or they would be gone through at
	// each start.
	err = db.QueryRowContext(ctx, fmt.Sprintf("SELECT coalesce(max(%s), 0) FROM %s", d.id, d.table)).Scan(&d.last)
	d.round = d.last
	return err
}

// fill puts all rows after an id into the index, and gives the last of them.
func (d *deferred) fill(ctx context.Context, db *sql.DB, from string, upto int64) (last int64, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("INSERT OR IGNORE INTO %s SELECT %s, %s %s ORDER BY 1, 2", d.name, d.column, d.id, from), upto); err != nil {
		return 0, err
	}
	if err := tx.QueryRowContext(ctx, fmt.Sprintf("SELECT max(%s) FROM %s", d.id, d.table)).Scan(&last); err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, isWhole, d.name, last); err != nil {
		return 0, err
	}
	return last, tx.Commit()
}

// isWhole says up to which row an index is whole.
const isWhole = "INSERT OR REPLACE INTO deferred VALUES (?, ?)"

// of gives the newest rows of a value that may not be in the index, up to n of
// those before an id. They may be of a transaction that goes on.
func (d *deferred) of(value string, before int64, n int) (ids []int64) {
	d.rows.Descend(entry{value, before - 1}, func(e entry) bool {
		if e.value != value {
			return false
		}
		ids = append(ids, e.id)
		return len(ids) < n
	})
	return ids
}

// has reports whether there is a row of a value that may not be in the index.
func (d *deferred) has(value string) bool { return len(d.of(value, math.MaxInt64, 1)) > 0 }

// add takes a row of the present transaction.
func (d *deferred) add(value string, id int64) {
	if d == nil {
		return
	}
	e := entry{strings.Clone(value), id} // which may be a part of something large
	d.rows.Set(e)
	d.added = append(d.added, e)
}

// commit makes what stands in memory follow the present transaction.
func (d *deferred) commit() {
	for _, e := range d.written {
		d.rows.Delete(e)
	}
	d.reached = d.reaches
	if d.ends {
		d.whole, d.round = d.round, d.last
	}
	for _, e := range d.added {
		d.last = max(d.last, e.id)
	}
	d.added, d.written, d.settled, d.settledTo, d.ends = d.added[:0], d.written[:0], nil, 0, false
}

// rollback drops what the present transaction added.
func (d *deferred) rollback() {
	for _, e := range d.added {
		d.rows.Delete(e)
	}
	d.added, d.written, d.settled, d.settledTo, d.reaches, d.ends = d.added[:0], d.written[:0], nil, 0, d.reached, false
}

// sweep writes as many rows as there are too many, from where it ended before.
// Where few are left of a round because they were settled, it is brought to its
// end all the same: what comes after it is read again at the next start.
func (w *writer) sweep(d *deferred) error {
	tooMany, behind := d.rows.Len()-d.most, int(d.last-d.whole)-2*d.most
	n := min(max(tooMany, behind), 2*max(len(d.added), d.together)) / d.together * d.together
	if n <= 0 {
		return nil
	}
	rows := make([]entry, 0, n)
	d.rows.Ascend(d.reached, func(e entry) bool {
		if e.id <= d.round {
			rows = append(rows, e)
		}
		return len(rows) < n
	})
	if d.ends = len(rows) < n; d.ends {
		d.reaches = entry{}
		if err := w.exec(isWhole, d.name, d.round); err != nil {
			return err
		}
	} else {
		d.reaches = rows[n-1]
	}
	return w.index(d, slices.DeleteFunc(rows, d.isSettled))
}

// settle writes what is not in the index of a value, before that is asked for.
func (w *writer) settle(d *deferred, value string) error {
	if d == nil {
		return nil
	}
	var rows []entry
	d.rows.Ascend(entry{value, max(d.settled[value], d.settledTo) + 1}, func(e entry) bool {
		if e.value != value {
			return false
		}
		rows = append(rows, e)
		return true
	})
	if len(rows) == 0 {
		return nil
	}
	if d.settled == nil {
		d.settled = map[string]int64{}
	}
	d.settled[value] = rows[len(rows)-1].id
	return w.index(d, rows)
}

// settleUpTo writes what is not in the index of the rows up to an id, before
// some of them are deleted.
func (w *writer) settleUpTo(d *deferred, id int64) error {
	if d == nil {
		return nil
	}
	var rows []entry
	d.rows.Scan(func(e entry) bool {
		if e.id <= id && !d.isSettled(e) {
			rows = append(rows, e)
		}
		return true
	})
	d.settledTo = max(d.settledTo, id)
	return w.index(d, rows)
}

// isSettled reports whether the present transaction has written a row already. It
// may have been deleted since.
func (d *deferred) isSettled(e entry) bool { return e.id <= max(d.settled[e.value], d.settledTo) }

// index writes rows into an index.
func (w *writer) index(d *deferred, rows []entry) error {
	d.written = append(d.written, rows...)
	bytes := slices.Contains(binary, d.column)
	for len(rows) > 0 {
		n, insert := 1, d.one
		if len(rows) >= d.together {
			n, insert = d.together, d.many
		}
		values := make([]any, 0, 2*n)
		for _, e := range rows[:n] {
			if bytes {
				values = append(values, []byte(e.value), e.id)
			} else {
				values = append(values, e.value, e.id)
			}
		}
		if err := w.exec(insert, values...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}
