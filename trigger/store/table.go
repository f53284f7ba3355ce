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

	insert  string // adds a row
	unnest  string // adds many on PostgreSQL, where each parameter is a column of them
	several string // adds as many as severalRows at once on SQLite

	severalRows int
}

var (
	deliveryTable = newTable("deliveries", "id", "source", "received_at", "header", "body")
	eventTable    = newTable("events", "id", "delivery_id", "source", "sender_id", "action", "registry", "repository", "tag", "digest", "media_type", "actor",
		"occurred_at", "received_at", "reason", "observed")
	runTable = newTable("runs", "id", "event_id", "rule", "idx", "kind", "target", "spec", "lane", "mode", "ordered", "ordering", "attempts", "timeout", "after", "followed",
		"state", "reason", "attempt", "not_before", "created_at", "started_at", "finished_at",
		"deadline", "first_backoff", "most_backoff", "hold_failed", "approvals", "approved", "approvers", "approve_by", "tells", "first_at",
		"begun", "parent", "step", "pending")
	originTable  = newTable("origins", "run_id", "event_id", "repository", "dedupe", "lane", "outcome")
	waitingTable = newTable("waiting", "run_id", "lane", "due_at", "head", "awaits")
	attemptTable = newTable("attempts", "run_id", "n", "started_at", "finished_at", "state", "reason", "log")
)

func newTable(name string, columns ...string) *table {
	t := &table{name: name, columns: columns, insert: insertInto(name, columns), unnest: insertColumns(name, columns)}
	t.several, t.severalRows = several(t.insert)
	return t
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

func insertInto(table string, columns []string) string {
	return "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES (?" + strings.Repeat(", ?", len(columns)-1) + ")"
}

// mostParameters is how many parameters a statement may have that adds several
// rows: for each of them the driver of SQLite goes through all.
const mostParameters = 40

// several gives the statement that adds several rows, and how many.
func several(insert string) (statement string, rows int) {
	_, row, _ := strings.Cut(insert, "VALUES ")
	rows = max(1, mostParameters/strings.Count(row, "?"))
	return insert + strings.Repeat(", "+row, rows-1), rows
}

func insertColumns(table string, columns []string) string {
	arrays := make([]string, len(columns))
	for i, c := range columns {
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
	return "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") SELECT * FROM unnest(" + strings.Join(arrays, ", ") + ")"
}

// What the columns hold; the others hold whole numbers.
var (
	truths = []string{"ordered", "after", "followed", "hold_failed", "observed", "yes", "pending", "head", "awaits"}
	binary = []string{"body", "log", "dedupe"}
	texts  = []string{
		"source", "header", "sender_id", "action", "registry", "repository", "tag", "digest", "media_type", "actor", "reason",
		"rule", "kind", "target", "spec", "lane", "mode", "ordering", "state", "approvers", "begun", "step", "outcome",
	}
)
