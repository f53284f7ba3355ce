package store

import (
	"context"
	"database/sql"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/dockbell/dockbell/trigger"
)

// keep holds back a row of a table.
func (w *writer) keep(t *table, values ...any) {
	if p := t.plain; p != nil && !slices.ContainsFunc(values[p.width:], isSomething) {
		t, values = p, values[:p.width]
	}
	if w.kept == nil {
		w.kept = map[*table][]any{}
	}
	w.kept[t] = append(w.kept[t], w.values(values)...)
	w.pending = true
}

// growing are the tables in the order in which rows are added to them: each can
// rely on what it needs.
var growing = []*table{deliveryTable, eventTable, runTable.plain, runTable, originTable, waitingTable, attemptTable}

// flush writes what was kept back.
func (w *writer) flush() error {
	if !w.pending {
		return nil
	}
	if !w.shared {
		return w.writeKept()
	}
	b := &pgx.Batch{}
	w.queueKept(b)
	return w.send(b)
}

// writeKept writes what was kept back to SQLite.
func (w *writer) writeKept() error {
	w.pending = false
	for _, t := range growing {
		values := w.kept[t]
		delete(w.kept, t)
		if err := w.insertAll(t.inserts, values); err != nil {
			return err
		}
	}
	return nil
}

// send sends statements in one go.
func (w *writer) send(b *pgx.Batch) error {
	return w.raw(func(ctx context.Context, c *pgx.Conn) error { return c.SendBatch(ctx, b).Close() })
}

// queueKept adds what was kept back to what is sent to PostgreSQL, in an order
// in which each can rely on what it needs: runs before their ends, and both
// before the next of a lane.
func (w *writer) queueKept(b *pgx.Batch) {
	w.pending = false
	for _, t := range growing {
		w.queueRows(b, t)
	}
	w.queueEnds(b)
	if len(w.promoted) > 0 {
		b.Queue(promoteHeads, w.promoted)
		w.promoted = nil
	}
	w.queueClaims(b)
}

const promoteHeads = `UPDATE waiting SET head = TRUE FROM (
		SELECT lane, (SELECT run_id FROM waiting WHERE lane = l.lane ORDER BY lane, run_id LIMIT 1) AS id FROM unnest($1::text[]) AS l (lane)
	) AS first WHERE run_id = first.id AND NOT EXISTS (SELECT 1 FROM running WHERE running.lane = first.lane)`

// fewRows is up to how many rows cost less one by one.
const fewRows = 4

// queueRows adds rows to a table.
func (w *writer) queueRows(b *pgx.Batch, t *table) {
	rows := slices.Collect(slices.Chunk(w.kept[t], t.width))
	delete(w.kept, t)
	if len(rows) <= fewRows {
		for _, row := range rows {
			b.Queue(w.bind(t.one), row...)
		}
		return
	}
	columns := make([]any, t.width)
	for i := range columns {
		column := make([]any, len(rows))
		for j, row := range rows {
			column[j] = row[i]
		}
		columns[i] = column
	}
	b.Queue(t.unnest, columns...)
}

const endRuns = `UPDATE runs SET state = u.state, reason = u.reason, finished_at = u.at
	FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[]) AS u (id, state, reason, at) WHERE runs.id = u.id`

func (w *writer) queueEnds(b *pgx.Batch) {
	n := len(w.ended)
	if n == 0 {
		return
	}
	ids, states, reasons, at := make([]int64, n), make([]string, n), make([]string, n), make([]int64, n)
	from, outcomes := map[trigger.State][]int64{}, map[string][]int64{}
	for i, e := range w.ended {
		ids[i], states[i], reasons[i], at[i] = e.id, string(e.state), storable(e.reason), e.at
		from[e.from] = append(from[e.from], e.id)
		if o := outcome(e.state); o != "" {
			outcomes[o] = append(outcomes[o], e.id)
		}
	}
	for state, table := range map[trigger.State]string{trigger.Waiting: "waiting", trigger.Running: "running"} {
		if from[state] != nil {
			b.Queue("DELETE FROM "+table+" WHERE run_id = ANY ($1)", from[state])
		}
	}
	b.Queue(endRuns, ids, states, reasons, at)
	for o, ids := range outcomes {
		b.Queue("UPDATE origins SET outcome = $1 WHERE run_id = ANY ($2)", o, ids)
	}
	w.ended = nil
}

// giveBack lets the next transaction use the ids that this one did not need.
func (w *writer) giveBack(b *pgx.Batch) {
	for t, left := range w.ids {
		if len(left) > 0 {
			b.Queue("SELECT setval($1::text::regclass, $2, FALSE)", t.sequence(), left[0])
		}
	}
	w.ids = nil
}

const takeAtOnce = `WITH
		taken AS (DELETE FROM waiting WHERE run_id IN (` + areDue + `) RETURNING run_id, lane),
		started AS (INSERT INTO running SELECT run_id, lane, ?3::bigint FROM taken)
	UPDATE runs r ` + markRunning + " FROM taken t, events e WHERE r.id = t.run_id AND e.id = r.event_id RETURNING " + runFields

// queueClaims adds the claims to what is sent.
func (w *writer) queueClaims(b *pgx.Batch) {
	left := w.claims[w.claimed:]
	w.claimed = len(w.claims)
	for _, c := range left {
		c.n = c.ready()
		b.Queue(w.bind(takeAtOnce), c.now.UnixNano(), c.n, w.me).Query(func(rows pgx.Rows) error {
			var r trigger.Run
			_, err := pgx.ForEachRow(rows, runColumns(&r), func() error { c.runs = append(c.runs, r); return nil })
			return err
		})
		b.Queue(w.bind(nextDue), c.now.UnixNano()).Query(func(rows pgx.Rows) error {
			var due, late sql.NullInt64
			_, err := pgx.ForEachRow(rows, []any{&due, &late}, func() error { c.see(due, late); return nil })
			return err
		})
	}
}
