package store

import (
	"context"
	"database/sql"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/dockbell/dockbell/trigger"
)

// question is what an operation is going to ask, so that it can be asked for
// many at once.
type question struct {
	deliveries, events, runs int      // how many it may add
	keys                     [][]byte // which redeliveries there are
	lanes                    []string // what stands in them
	tags                     []repoTag
	tries                    []int64 // in which state these runs are
}

type repoTag struct{ repository, tag string }

func (q question) empty() bool { return q.deliveries == 0 && len(q.tries) == 0 }

// rows is how many rows may be added to the tables that get some.
func (q question) rows() map[*table]int {
	rows := map[*table]int{}
	for t, n := range map[*table]int{deliveryTable: q.deliveries, eventTable: q.events, runTable: q.runs} {
		if n > 0 {
			rows[t] = n
		}
	}
	return rows
}

// ahead lets the operations of a transaction share their statements, of which
// each is a round trip to PostgreSQL: their questions are asked before they are
// carried out, and what they do is kept back until the end, or until something
// is asked that it might change. SQLite is asked ahead for what is new alone, and
// new rows alone are kept back.
type ahead struct {
	ids  map[*table][]int64 // that new rows get
	keys map[string]duplicate
	runs map[int64]progress

	looked map[repoTag]bool // a poller has found this tag

	pending  bool             // something is kept back
	kept     map[*table][]any // values of their rows, which follow each other
	ended    []ending
	promoted []string
	claimed  int // how many of the claims were sent
}

// duplicate is the run that an event made before; id 0 when there is none.
type duplicate struct {
	id    int64
	state trigger.State
}

// progress is how far a run is.
type progress struct {
	state   trigger.State
	started int64
	owner   int64
}

// ending is the end of a run.
type ending struct {
	id     int64
	from   trigger.State // waiting or running
	state  trigger.State
	reason string
	at     int64
}

func (a *ahead) drop() { *a = ahead{} }

// inOrder puts the operations that say what they ask before the others, which
// come when all of those are written, and gives all questions.
func inOrder(ops []*op) (all question) {
	slices.SortStableFunc(ops, func(a, b *op) int {
		switch {
		case a.asks.empty() == b.asks.empty():
			return 0
		case b.asks.empty():
			return -1
		}
		return 1
	})
	for _, o := range ops {
		all.deliveries += o.asks.deliveries
		all.events += o.asks.events
		all.runs += o.asks.runs
		all.keys = append(all.keys, o.asks.keys...)
		all.lanes = append(all.lanes, o.asks.lanes...)
		all.tags = append(all.tags, o.asks.tags...)
		all.tries = append(all.tries, o.asks.tries...)
	}
	return all
}

// The questions of many operations, asked at once.
const (
	askKeys  = "SELECT o.dedupe, r.id, r.state FROM origins o JOIN runs r ON r.id = o.run_id WHERE o.dedupe = ANY ($1)"
	askTries = "SELECT r.id, r.state, r.started_at, coalesce(x.owner, 0) FROM runs r LEFT JOIN running x ON x.run_id = r.id WHERE r.id = ANY ($1)"
	askLanes = `SELECT l.lane, coalesce((SELECT TRUE FROM waiting WHERE lane = l.lane LIMIT 1), (SELECT TRUE FROM running WHERE lane = l.lane), FALSE),
			s.id, s.rule, s.idx, s.registry, s.repository, s.tag, s.digest, s.occurred_at, s.received_at
		FROM unnest($1::text[]) AS l (lane) LEFT JOIN LATERAL (
			SELECT r.id, r.rule, r.idx, e.registry, e.repository, e.tag, e.digest, e.occurred_at, e.received_at
			FROM origins o JOIN runs r ON r.id = o.run_id JOIN events e ON e.id = o.event_id
			WHERE o.lane = l.lane AND ` + areStanding + ` ORDER BY o.run_id DESC LIMIT 1
		) s ON TRUE`
	askTags = `SELECT t.repository, t.tag FROM unnest($1::text[], $2::text[]) AS t (repository, tag)
		WHERE EXISTS (SELECT 1 FROM events e WHERE e.repository = t.repository AND e.tag = t.tag AND e.observed)`
)

// ask adds all questions to what is sent.
func (w *writer) ask(b *pgx.Batch, q question) {
	if q.empty() {
		return
	}
	w.ids, w.keys, w.runs, w.looked = map[*table][]int64{}, map[string]duplicate{}, map[int64]progress{}, map[repoTag]bool{}
	for t, n := range q.rows() {
		b.Queue("SELECT nextval($1::text::regclass) FROM generate_series(1, $2)", t.sequence(), n).Query(func(rows pgx.Rows) error {
			ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			w.ids[t] = ids
			return err
		})
	}
	if len(q.keys) > 0 {
		for _, k := range q.keys {
			w.keys[string(k)] = duplicate{}
		}
		b.Queue(askKeys, q.keys).Query(func(rows pgx.Rows) error {
			var key []byte
			var d duplicate
			_, err := pgx.ForEachRow(rows, []any{&key, &d.id, &d.state}, func() error { w.keys[string(key)] = d; return nil })
			return err
		})
	}
	if len(q.lanes) > 0 {
		w.queueLanes(b, q.lanes)
	}
	if len(q.tags) > 0 {
		w.queueTags(b, q.tags)
	}
	if len(q.tries) > 0 {
		b.Queue(askTries, q.tries).Query(func(rows pgx.Rows) error {
			var id int64
			var p progress
			_, err := pgx.ForEachRow(rows, []any{&id, &p.state, &p.started, &p.owner}, func() error { w.runs[id] = p; return nil })
			return err
		})
	}
	b.Queue(selectHolds + " WHERE released_at = 0 ORDER BY id").Query(func(rows pgx.Rows) error {
		var h trigger.Hold
		_, err := pgx.ForEachRow(rows, holdColumns(&h), func() error { w.holds = append(w.holds, h); return nil })
		w.held = err == nil
		return err
	})
}

func (w *writer) queueLanes(b *pgx.Batch, lanes []string) {
	slices.Sort(lanes)
	lanes = slices.Compact(lanes)
	b.Queue(askLanes, lanes).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			var lane string
			var busy bool
			var id, index, occurred, received sql.NullInt64
			var rule, registry, repository, tag, digest sql.NullString
			if err := rows.Scan(&lane, &busy, &id, &rule, &index, &registry, &repository, &tag, &digest, &occurred, &received); err != nil {
				return err
			}
			v := &laneView{busy: &busy}
			if id.Valid {
				v.stand = &standing{id: id.Int64, rule: rule.String, index: int(index.Int64), registry: registry.String, repository: repository.String, digest: digest.String}
				v.stand.release = releaseOf(tag.String, occurred.Int64, received.Int64)
			}
			w.see(lane, v)
		}
		return rows.Err()
	})
}

func (w *writer) queueTags(b *pgx.Batch, tags []repoTag) {
	repositories, names := make([]string, len(tags)), make([]string, len(tags))
	for i, t := range tags {
		w.looked[t] = false
		repositories[i], names[i] = t.repository, t.tag
	}
	b.Queue(askTags, repositories, names).Query(func(rows pgx.Rows) error {
		var t repoTag
		_, err := pgx.ForEachRow(rows, []any{&t.repository, &t.tag}, func() error { w.looked[t] = true; return nil })
		return err
	})
}

// raw gives the driver's own connection, in the present transaction.
func (w *writer) raw(do func(ctx context.Context, c *pgx.Conn) error) error {
	return w.conn.Raw(func(c any) error { return do(w.ctx, c.(*stdlib.Conn).Conn()) })
}

func releaseOf(tag string, occurred, received int64) trigger.Release {
	return trigger.Release{Tag: tag, At: trigger.Event{OccurredAt: timeOf(occurred), ReceivedAt: timeOf(received)}.Time()}
}
