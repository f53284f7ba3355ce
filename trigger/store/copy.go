package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// Copied says how many rows of a table were copied.
type Copied struct {
	Table string
	Rows  int
}

// copies are the tables that make up a store, with their columns. Who uses it
// is not a part of it.
var copies = []struct {
	table   string
	columns []string
	order   string
}{
	{deliveryTable.name, deliveryTable.columns, "id"},
	{eventTable.name, eventTable.columns, "id"},
	{runTable.name, runTable.columns, "id"},
	{originTable.name, originTable.columns, "run_id"},
	{waitingTable.name, waitingTable.columns, "run_id"},
	{"running", []string{"run_id", "lane", "owner"}, "run_id"},
	{attemptTable.name, attemptTable.columns, "run_id, n"},
	{"votes", []string{"run_id", "voter", "yes", "at"}, "run_id, voter"},
	{"notes", []string{"id", "run_id", "at", "note"}, "id"},
	{"holds", []string{"id", "lane", "digest", "reason", "held_by", "run_id", "at", "released_at", "released_by"}, "id"},
	{"notices", []string{"id", "run_id", "state", "reason"}, "id"},
	{"polled", []string{"source", "repository", "tag", "digest"}, "source, repository, tag"},
}

// Copy puts all of a store into another one, which must be empty and is made
// when there is none, on the same kind of database or another. It does so as a
// whole or not at all. No dockbell may use either of them. said is told of
// each table that is done.
func Copy(ctx context.Context, from, to string, said func(Copied)) error {
	src, err := Open(ctx, from) // no dockbell has its file, and it is of today's version
	if err != nil {
		return err
	}
	err = src.alone(ctx)
	if err == nil {
		err = src.copyTo(ctx, to, said)
	}
	return errors.Join(err, src.Close())
}

func (s *Store) copyTo(ctx context.Context, location string, said func(Copied)) error {
	into, err := Open(ctx, location)
	if err != nil {
		return err
	}
	err = into.alone(ctx)
	if err == nil {
		err = copyAll(ctx, s, into, said)
	}
	return errors.Join(err, into.Close())
}

// alone is an error when another dockbell uses the store.
func (s *Store) alone(ctx context.Context) error {
	others := func() (beats map[int64]int64, names []string, err error) {
		beats = map[int64]int64{}
		err = each(s.query(ctx, "SELECT id, name, beat FROM replicas ORDER BY name"))(func(rows rowScanner) error {
			var id, beat int64
			var name string
			err := rows.Scan(&id, &name, &beat)
			if id != s.writer.me {
				beats[id], names = beat, append(names, name)
			}
			return err
		})
		return beats, names, err
	}
	before, _, err := others()
	if err != nil || len(before) == 0 {
		return err
	}
	select {
	case <-time.After(s.replica.lasts): // those that live show it
	case <-ctx.Done():
		return ctx.Err()
	}
	after, names, err := others()
	for id, beat := range after {
		if was, ok := before[id]; err == nil && (!ok || was != beat) {
			return fmt.Errorf("dockbell serves from it (%s): stop it first", strings.Join(slices.Compact(names), ", "))
		}
	}
	return err
}

func copyAll(ctx context.Context, from, to *Store, said func(Copied)) error {
	src, err := from.read.BeginTx(ctx, &sql.TxOptions{Isolation: from.snapshot(), ReadOnly: true})
	if err != nil {
		return err
	}
	defer src.Rollback()
	return to.writer.do(ctx, func(w *writer) error {
		for _, c := range copies {
			if some, err := w.row("SELECT 1 FROM "+c.table+" LIMIT 1", nil, new(int)); err != nil {
				return err
			} else if some {
				return fmt.Errorf("the store to copy to is not empty: it has %s", c.table)
			}
		}
		w.unhurried()
		for _, c := range copies {
			n, err := w.copyTable(ctx, src, c.table, c.columns, c.order)
			if err != nil {
				return fmt.Errorf("%s: %w", c.table, err)
			}
			said(Copied{c.table, n})
		}
		return nil
	})
}

// unhurried lets the present transaction take as long as it needs.
func (w *writer) unhurried() {
	w.cancel()
	w.ctx, w.cancel = context.WithCancel(context.WithoutCancel(w.ctx))
}

func (w *writer) copyTable(ctx context.Context, src *sql.Tx, table string, columns []string, order string) (n int, err error) {
	rows, err := src.QueryContext(ctx, "SELECT "+strings.Join(columns, ", ")+" FROM "+table+" ORDER BY "+order)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	if !w.numbered {
		insert := newInserts("INSERT INTO "+table, columns, len(columns)).one
		for ; rows.Next(); n++ {
			values, err := scanRow(rows, columns)
			if err != nil {
				return n, err
			}
			if err := w.exec(insert, values...); err != nil {
				return n, err
			}
		}
		return n, rows.Err()
	}
	err = w.conn.Raw(func(c any) error {
		copied, err := c.(*stdlib.Conn).Conn().CopyFrom(w.ctx, pgx.Identifier{table}, columns, pgx.CopyFromFunc(func() ([]any, error) {
			if !rows.Next() {
				return nil, rows.Err()
			}
			values, err := scanRow(rows, columns)
			return w.values(values), err
		}))
		n = int(copied)
		return err
	})
	if err == nil && columns[0] == "id" {
		_, err = w.row("SELECT setval(?::text::regclass, (SELECT coalesce(max(id), 0) + 1 FROM "+table+"), FALSE)", []any{table + "_id"}, new(int64))
	}
	return n, err
}

// scanRow reads a row so that either database takes it.
func scanRow(rows *sql.Rows, columns []string) ([]any, error) {
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i, c := range columns {
		switch {
		case slices.Contains(truths, c):
			into[i] = new(bool)
		case slices.Contains(binary, c):
			into[i] = new([]byte)
		default:
			into[i] = &values[i]
		}
	}
	if err := rows.Scan(into...); err != nil {
		return nil, err
	}
	for i := range columns {
		switch v := into[i].(type) {
		case *bool:
			values[i] = *v
		case *[]byte:
			if *v != nil {
				values[i] = *v
			} else if columns[i] != "dedupe" {
				values[i] = []byte{} // some drivers give nil for what is empty
			}
		}
	}
	return values, nil
}
