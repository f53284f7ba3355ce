package store

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"github.com/tidwall/btree"
	sqlitedriver "modernc.org/sqlite"
)

// deferred is an index of SQLite that follows its table some way behind. One by
// what comes in no order, as a key or a repository does, would take a page of
// the log for each row. The newest rows stand in memory instead, and go into
// the index's own table in its order, many to a page: each transaction writes
// about as many as it adds, and goes on where the one before ended. What is not
// known to be in the index is read from the table when the store is opened.
//
// It has a number for each value, which several may share: who looks something
// up holds the value of the row against it.
//
// PostgreSQL writes its log by rows and has none: nil is one without rows.
type deferred struct {
	name, column string
	table, id    string // that it is of
	inserts
	rows *btree.BTreeG[entry]
	most int // rows

	// Of the writer alone.
	last    int64 // row that is on disk
	whole   int64 // up to this row the index is whole
	round   int64 // the last row when the present round through the rows began: those it writes
	reached entry // by the present round

	// Of its present transaction.
	added, written []entry
	settled        map[int64]int64 // key -> the row up to which its rows are written
	settledTo      int64           // the same for all keys
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
type entry struct{ key, id int64 }

func (e entry) less(other entry) bool {
	return cmp.Or(cmp.Compare(e.key, other.key), cmp.Compare(e.id, other.id)) < 0
}

// keyOf is the number of a value. It is on disk, so it stays as it is. It has 31
// bits: SQLite has four bytes for those, and six for what is larger.
func keyOf[T string | []byte](value T) int64 {
	return int64(crc32.ChecksumIEEE([]byte(value)) & math.MaxInt32)
}

// key is what a value has in an index: on PostgreSQL the value itself.
func key[T string | []byte](d dialect, value T) any {
	if d.shared {
		return value
	}
	return keyOf(value)
}

// The triggers that take rows out of an index know the value alone.
func init() {
	sqlitedriver.MustRegisterDeterministicScalarFunction("dockbell_key", 1, func(_ *sqlitedriver.FunctionContext, args []driver.Value) (driver.Value, error) {
		switch value := args[0].(type) {
		case nil:
			return nil, nil
		case string:
			return keyOf(value), nil
		case []byte:
			return keyOf(value), nil
		}
		return nil, fmt.Errorf("dockbell_key of a %T", args[0])
	})
}

// mostDeferred is how many rows of an index stand in memory: so many come while
// each of its pages is written once. They take 3 MB in all, and as many are read
// in 130 ms.
const mostDeferred = 40_000

// newestOf are the newest rows of a key in an index.
const newestOf = "SELECT id FROM %s WHERE key = ? AND id < ? ORDER BY id DESC LIMIT ?"

func newDeferred(name, column, table, id string) *deferred {
	return &deferred{
		name: name, column: column, table: table, id: id,
		inserts: newInserts("INSERT OR IGNORE INTO "+name, []string{"key", "id"}, 2),
		rows:    btree.NewBTreeG(entry.less), most: mostDeferred,
	}
}

// load reads what may not be in the index. Where that is much, because the
// index is new, rows were copied into the table or dockbell ended in a flood,
// it is put there instead.
func (d *deferred) load(ctx context.Context, db *sql.DB) error {
	// Rows that have no value count as well, or they would be gone through at
	// each start.
	last := fmt.Sprintf("SELECT coalesce(max(%s), 0), coalesce((SELECT upto FROM deferred WHERE name = ?), 0) FROM %s", d.id, d.table)
	if err := db.QueryRowContext(ctx, last, d.name).Scan(&d.last, &d.whole); err != nil {
		return err
	}
	d.round = d.last
	if d.last-d.whole >= 2*mostDeferred {
		return d.fill(ctx, db)
	}
	return each(db.QueryContext(ctx, d.rest(), d.whole))(func(rows rowScanner) error {
		var e entry
		err := rows.Scan(&e.key, &e.id)
		d.rows.Set(e)
		return err
	})
}

// rest gives the rows of the index for what comes after an id.
func (d *deferred) rest() string {
	return fmt.Sprintf("SELECT dockbell_key(%s), %s FROM %s WHERE %s > ? AND %s IS NOT NULL", d.column, d.id, d.table, d.id, d.column)
}

// fill puts all rows there are into the index.
func (d *deferred) fill(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO "+d.name+" "+d.rest()+" ORDER BY 1, 2", d.whole); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, isWhole, d.name, d.last); err != nil {
		return err
	}
	d.whole = d.last
	return tx.Commit()
}

// isWhole says up to which row an index is whole.
const isWhole = "INSERT OR REPLACE INTO deferred VALUES (?, ?)"

// of gives the newest rows of a key that may not be in the index, up to n of
// those before an id. They may be of a transaction that goes on.
func (d *deferred) of(key, before int64, n int) (ids []int64) {
	d.rows.Descend(entry{key, before - 1}, func(e entry) bool {
		if e.key != key {
			return false
		}
		ids = append(ids, e.id)
		return len(ids) < n
	})
	return ids
}

// has reports whether there is a row of a key that may not be in the index.
func (d *deferred) has(key int64) bool { return len(d.of(key, math.MaxInt64, 1)) > 0 }

// add takes a row of the present transaction.
func (d *deferred) add(key, id int64) {
	if d == nil {
		return
	}
	d.rows.Set(entry{key, id})
	d.added = append(d.added, entry{key, id})
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

// settle writes what is not in the index of a key, before that is asked for.
func (w *writer) settle(d *deferred, key int64) error {
	if d == nil {
		return nil
	}
	var rows []entry
	d.rows.Ascend(entry{key, max(d.settled[key], d.settledTo) + 1}, func(e entry) bool {
		if e.key != key {
			return false
		}
		rows = append(rows, e)
		return true
	})
	if len(rows) == 0 {
		return nil
	}
	if d.settled == nil {
		d.settled = map[int64]int64{}
	}
	d.settled[key] = rows[len(rows)-1].id
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
func (d *deferred) isSettled(e entry) bool { return e.id <= max(d.settled[e.key], d.settledTo) }

// index writes rows into an index.
func (w *writer) index(d *deferred, rows []entry) error {
	d.written = append(d.written, rows...)
	values := make([]any, 0, 2*len(rows))
	for _, e := range rows {
		values = append(values, e.key, e.id)
	}
	return w.insertAll(d.inserts, values)
}
