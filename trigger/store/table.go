package store

import (
	"fmt"
	"slices"
	"strings"
)

// table is one that grows with every push.
type table struct {
	name    string
	columns []string // in the order in which their values are given

	inserts
	unnest string // adds many on PostgreSQL, where each parameter is a column of them

	plain *table // for rows that have nothing in the last columns; may be nil
}

// inserts are the statements that add rows.
type inserts struct {
	one     string
	several string // as many as together, for SQLite
	width   int    // parameters of a row

	together int
}

var (
	deliveryTable = newTable("deliveries", "id", "source", "received_at", "header", "body", "packed")
	eventTable    = newTable("events", "id", "delivery_id", "source", "sender_id", "action", "registry", "repository", "tag", "digest", "media_type", "actor",
		"occurred_at", "received_at", "reason", "observed")
	runTable = newTable("runs", "id", "event_id", "rule", "idx", "kind", "target", "spec", "lane", "mode", "ordered", "ordering", "attempts", "timeout",
		"state", "not_before", "created_at").
		seldom("after", "followed", "reason", "attempt", "started_at", "finished_at",
			"deadline", "first_backoff", "most_backoff", "hold_failed", "approvals", "approved", "approvers", "approve_by", "tells", "first_at",
			"begun", "parent", "step", "pending")
	originTable  = newTable("origins", "run_id", "event_id", "repository", "dedupe", "lane", "outcome")
	waitingTable = newTable("waiting", "run_id", "lane", "due_at", "head", "awaits")
	attemptTable = newTable("attempts", "run_id", "n", "started_at", "finished_at", "state", "reason", "log")
)

func newTable(name string, columns ...string) *table {
	return tableOf(name, columns, len(columns))
}

// tableOf is a table of which the first columns alone are given, and nothing is
// in the others.
func tableOf(name string, columns []string, given int) *table {
	return &table{name: name, columns: columns, inserts: newInserts("INSERT INTO "+name, columns, given), unnest: insertColumns(name, columns, given)}
}

// seldom adds columns in which there mostly is nothing.
func (t *table) seldom(columns ...string) *table {
	all := slices.Concat(t.columns, columns)
	whole := newTable(t.name, all...)
	whole.plain = tableOf(t.name, all, len(t.columns))
	return whole
}

// sequence is what gives the ids of rows on PostgreSQL.
func (t *table) sequence() string { return t.name + "_id" }

// nextID gives the id of a new row. On SQLite that is the one after the newest,
// which is never deleted.
func (d dialect) nextID(t *table) string {
	if d.shared {
		return "SELECT nextval('" + t.sequence() + "')"
	}
	return "SELECT coalesce(max(id), 0) + 1 FROM " + t.name
}

// mostParameters is how many parameters a statement may have that adds several
// rows. With more, few transactions have enough rows for one.
const mostParameters = 240

func newInserts(into string, columns []string, given int) inserts {
	i := inserts{width: given, together: max(1, mostParameters/given)}
	row := "(?" + strings.Repeat(", ?", given-1) + nothingIn(columns[given:]) + ")"
	i.one = into + " (" + strings.Join(columns, ", ") + ") VALUES " + row
	// Whatever fails is rolled back with its transaction. SQLite, when told that
	// the statement need not be, does not first copy the pages that it changes.
	several := strings.Replace(i.one, "INSERT INTO", "INSERT OR FAIL INTO", 1)
	i.several = several + strings.Repeat(", "+row, i.together-1)
	return i
}

// insertAll adds rows, whose values follow each other.
func (w *writer) insertAll(i inserts, values []any) error {
	for len(values) > 0 {
		n, insert := i.width, i.one
		if many := i.width * i.together; len(values) >= many {
			n, insert = many, i.several
		}
		if err := w.exec(insert, values[:n]...); err != nil {
			return err
		}
		values = values[n:]
	}
	return nil
}

// nothingIn goes on with a list of values.
func nothingIn(columns []string) (values string) {
	for _, c := range columns {
		switch {
		case slices.Contains(truths, c):
			values += ", FALSE"
		case slices.Contains(texts, c):
			values += ", ''"
		default:
			values += ", 0"
		}
	}
	return values
}

// isSomething reports whether a value is not what nothingIn writes.
func isSomething(value any) bool {
	return value != false && value != "" && value != 0 && value != int64(0)
}

func insertColumns(table string, columns []string, given int) string {
	arrays := make([]string, given)
	for i, c := range columns[:given] {
		kind := "bigint"
		switch {
		case slices.Contains(truths, c):
			kind = "boolean"
		case slices.Contains(binary, c):
			kind = "bytea"
		case slices.Contains(texts, c):
			kind = "text"
		}
		arrays[i] = fmt.Sprintf("$%d::%s[]", i+1, kind)
	}
	return "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") SELECT *" + nothingIn(columns[given:]) + " FROM unnest(" + strings.Join(arrays, ", ") + ")"
}

// What the columns hold; the others hold whole numbers.
var (
	truths = []string{"ordered", "after", "followed", "hold_failed", "observed", "yes", "pending", "head", "awaits", "packed"}
	binary = []string{"body", "log", "dedupe"}
	texts  = []string{
		"source", "header", "sender_id", "action", "registry", "repository", "tag", "digest", "media_type", "actor", "reason",
		"rule", "kind", "target", "spec", "lane", "mode", "ordering", "state", "approvers", "begun", "step", "outcome",
	}
)
