package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dockbell/dockbell/trigger"
)

// rowScanner is a row of a result.
type rowScanner interface{ Scan(into ...any) error }

const eventFields = "e.source, e.sender_id, e.action, e.registry, e.repository, e.tag, e.digest, e.media_type, e.actor, e.occurred_at, e.received_at"

const runFields = `r.id, r.event_id, r.rule, r.idx, r.kind, r.target, r.spec, r.lane, r.mode, r.ordered, r.ordering, r.attempts, r.timeout, r.after, r.followed,
	r.state, r.reason, r.attempt, r.not_before, r.created_at, r.started_at, r.finished_at,
	r.deadline, r.first_backoff, r.most_backoff, r.hold_failed, r.approvals, r.approved, r.approvers, r.approve_by, r.tells, r.first_at, r.begun, r.parent, r.step, r.pending, ` + eventFields + `
	`

const selectRuns = "SELECT " + runFields + "FROM runs r JOIN events e ON e.id = r.event_id"

// runColumns are where runFields go.
func runColumns(r *trigger.Run) []any {
	return slices.Concat([]any{&r.ID, &r.EventID, &r.Rule, &r.Index, &r.Kind, &r.Target, (*[]byte)(&r.Spec), &r.Lane, &r.Mode, &r.Ordered, &r.Order, &r.Attempts, &r.Timeout, &r.After, &r.Followed,
		&r.State, &r.Reason, &r.Attempt, (*nanoTime)(&r.NotBefore), (*nanoTime)(&r.CreatedAt), (*nanoTime)(&r.StartedAt), (*nanoTime)(&r.FinishedAt),
		&r.Deadline, &r.FirstBackoff, &r.MostBackoff, &r.HoldFailed, &r.Approvals, &r.Approved, (*nameList)(&r.Approvers), (*nanoTime)(&r.ApproveBy), &r.Tells, (*nanoTime)(&r.FirstAt), &r.Begun, &r.Parent, &r.When, &r.Pending}, eventColumns(&r.Event))
}

func eventColumns(e *trigger.Event) []any {
	return []any{&e.Source, &e.ID, &e.Action, &e.Registry, &e.Repository, &e.Tag, &e.Digest, &e.MediaType, &e.Actor, (*nanoTime)(&e.OccurredAt), (*nanoTime)(&e.ReceivedAt)}
}

// addTo reads a row of selectRuns and adds it to runs.
func addTo(runs *[]trigger.Run) func(rowScanner) error {
	var r trigger.Run
	into := runColumns(&r)
	return func(rows rowScanner) error {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		*runs = append(*runs, r)
		return nil
	}
}

// nanoTime reads a stored time.
type nanoTime time.Time

func (t *nanoTime) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("a time is stored as %T", v)
	}
	*t = nanoTime(timeOf(n))
	return nil
}

// nameList reads a stored list of names.
type nameList []string

func (l *nameList) Scan(v any) error {
	var text []byte
	switch v := v.(type) {
	case string:
		text = []byte(v)
	case []byte:
		text = v
	default:
		return fmt.Errorf("a list is stored as %T", v)
	}
	*l = nil
	if len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, l)
}

// query reads beside the writer.
func (s *Store) query(ctx context.Context, query string, args ...any) (rows *sql.Rows, err error) {
	err = s.again(ctx, func() error {
		rows, err = s.read.QueryContext(ctx, s.bind(query), s.values(args)...)
		return err
	})
	return rows, err
}

// queryRow reads one row beside the writer; ok is false when there is none.
func (s *Store) queryRow(ctx context.Context, query string, args []any, into ...any) (ok bool, err error) {
	err = s.again(ctx, func() error {
		return s.read.QueryRowContext(ctx, s.bind(query), s.values(args)...).Scan(into...)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// again reads once more where a server may have been restarted since its
// connection was used last.
func (s *Store) again(ctx context.Context, read func() error) (err error) {
	var said *pgconn.PgError // by the server, which was there
	for range 1 + readers {  // as many connections may be stale
		err = read()
		if err == nil || !s.shared || ctx.Err() != nil || errors.Is(err, sql.ErrNoRows) || errors.As(err, &said) {
			return advised(err)
		}
	}
	return err
}

// Runs lists runs, newest first.
func (s *Store) Runs(ctx context.Context, f trigger.RunFilter) ([]trigger.Run, error) {
	repository := f.Repository
	if isLive(f.State) || outcome(f.State) != "" || f.Event > 0 {
		repository = "" // those are found by an index of their own
	}
	return listed(ctx, s, s.indexes.runs, repository, f.Before, f.Limit, func(ids []int64) ([]trigger.Run, error) {
		query, args := s.runsQuery(f, ids)
		runs := make([]trigger.Run, 0, min(f.Limit, mostListed))
		err := each(s.query(ctx, query, args...))(addTo(&runs))
		return runs, err
	})
}

// runsQuery lists runs, out of those whose ids are given where they are.
func (s *Store) runsQuery(f trigger.RunFilter, ids []int64) (query string, args []any) {
	var w where
	from, id := "", "r.id"
	ill := outcome(f.State)
	if ids != nil {
		w.add(true, s.among(id)+" AND e.repository = ?", s.list(ids), f.Repository) // an id may have gone to another one since
		f.Repository = ""
	}
	if isLive(f.State) {
		from, id = " JOIN "+string(f.State)+" live ON live.run_id = r.id", "live.run_id"
	}
	ofRepository := "o.repository = ?"
	if f.Repository != "" || f.Event > 0 || ill != "" {
		from += " JOIN origins o ON o.run_id = r.id"
		switch {
		case !isLive(f.State):
			id = "o.run_id"
		case !s.shared:
			ofRepository = "(o.repository = ?) IS TRUE" // SQLite would begin there, although it has no index
		}
	}
	w.add(f.Before > 0, id+" < ?", f.Before)
	w.add(f.State == trigger.Succeeded, "r.state = 'succeeded'")
	w.add(ill != "", "o.outcome = ? AND o.outcome <> ''", ill) // the second is what the index asks for
	w.add(f.Rule != "", "r.rule = ?", f.Rule)
	w.add(f.Repository != "", ofRepository, f.Repository)
	w.add(f.Event > 0, "o.event_id = ?", f.Event)
	return selectRuns + from + w.clause() + newestFirst(id, f.Limit), w.args
}

// newestFirst ends a list. Were the limit a parameter, PostgreSQL would plan the list
// anew each time.
func newestFirst(id string, limit int) string {
	return fmt.Sprintf(" ORDER BY %s DESC LIMIT %d", id, limit)
}

func isLive(s trigger.State) bool { return s == trigger.Waiting || s == trigger.Running }

// mostListed is how many rows a list goes through at once where it is restricted
// further than by an index.
const mostListed = 500

// listed gives what a list finds, newest first, by itself or, where it is
// restricted to a value that has an index, among the rows of its key.
func listed[T any](ctx context.Context, s *Store, d *deferred, value string, before int64, limit int, list func(ids []int64) ([]T, error)) ([]T, error) {
	if d == nil || value == "" {
		return list(nil)
	}
	if before <= 0 {
		before = math.MaxInt64
	}
	found := []T{}
	for n := limit; ; n = mostListed {
		ids, err := s.having(ctx, d, keyOf(value), before, n)
		if err != nil || len(ids) == 0 {
			return found, err
		}
		more, err := list(ids)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
		if len(found) >= limit {
			return found[:limit], nil
		}
		before = ids[len(ids)-1]
	}
}

// having gives the newest rows of a key, up to n of those before an id.
func (s *Store) having(ctx context.Context, d *deferred, key, before int64, n int) ([]int64, error) {
	ids := d.of(key, before, n) // first: rows go from memory to the index
	err := each(s.query(ctx, fmt.Sprintf(newestOf, d.name), key, before, n))(func(rows rowScanner) error {
		var id int64
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
	slices.Sort(ids)
	ids = slices.Compact(ids)
	slices.Reverse(ids)
	return ids[:min(len(ids), n)], err
}

// Run gives one run with its tries; ok is false when there is none.
func (s *Store) Run(ctx context.Context, id int64) (r trigger.Run, attempts []trigger.Attempt, ok bool, err error) {
	if ok, err = s.queryRow(ctx, selectRuns+" WHERE r.id = ?", []any{id}, runColumns(&r)...); !ok {
		return r, nil, false, err
	}
	err = each(s.query(ctx, "SELECT n, started_at, finished_at, state, reason, log FROM attempts WHERE run_id = ? ORDER BY n", id))(func(rows rowScanner) error {
		var a trigger.Attempt
		err := rows.Scan(&a.N, (*nanoTime)(&a.StartedAt), (*nanoTime)(&a.FinishedAt), &a.State, &a.Reason, &a.Log)
		attempts = append(attempts, a)
		return err
	})
	return r, attempts, err == nil, err
}

// Notes gives what was decided about a run, oldest first.
func (s *Store) Notes(ctx context.Context, run int64) (notes []trigger.Note, err error) {
	err = each(s.query(ctx, "SELECT at, note FROM notes WHERE run_id = ? ORDER BY id", run))(func(rows rowScanner) error {
		var n trigger.Note
		err := rows.Scan((*nanoTime)(&n.At), &n.Text)
		notes = append(notes, n)
		return err
	})
	return notes, err
}

// Event gives a recorded event; ok is false when it is not kept (any more).
func (s *Store) Event(ctx context.Context, id int64) (e trigger.EventRecord, ok bool, err error) {
	if ok, err = s.queryRow(ctx, selectEvents+" WHERE e.id = ?", []any{id}, recordColumns(&e)...); !ok {
		return e, false, err
	}
	one := []trigger.EventRecord{e}
	err = s.addRuns(ctx, one)
	return one[0], err == nil, err
}

const selectEvents = "SELECT e.id, e.delivery_id, e.reason, " + eventFields + " FROM events e"

// recordColumns are where a row of selectEvents goes.
func recordColumns(e *trigger.EventRecord) []any {
	return slices.Concat([]any{&e.ID, &e.Delivery, &e.Reason}, eventColumns(&e.Event))
}

// Events lists events, newest first, with the ids of their runs.
func (s *Store) Events(ctx context.Context, f trigger.EventFilter) ([]trigger.EventRecord, error) {
	events, err := listed(ctx, s, s.indexes.events, f.Repository, f.Before, f.Limit, func(ids []int64) ([]trigger.EventRecord, error) {
		query, args := s.eventsQuery(f, ids)
		events := make([]trigger.EventRecord, 0, min(f.Limit, mostListed))
		var e trigger.EventRecord
		into := recordColumns(&e)
		err := each(s.query(ctx, query, args...))(func(rows rowScanner) error {
			err := rows.Scan(into...)
			events = append(events, e)
			return err
		})
		return events, err
	})
	if err != nil {
		return nil, err
	}
	return events, s.addRuns(ctx, events)
}

// addRuns gives events the ids of their runs.
func (s *Store) addRuns(ctx context.Context, events []trigger.EventRecord) error {
	at, ids := map[int64]*trigger.EventRecord{}, make([]int64, len(events))
	for i := range events {
		ids[i] = events[i].ID
		at[ids[i]] = &events[i]
	}
	return each(s.query(ctx, "SELECT event_id, run_id FROM origins WHERE "+s.among("event_id")+" ORDER BY run_id", s.list(ids)))(func(rows rowScanner) error {
		var event, id int64
		err := rows.Scan(&event, &id)
		at[event].Runs = append(at[event].Runs, id)
		return err
	})
}

// eventsQuery lists events, out of those whose ids are given where they are.
func (s *Store) eventsQuery(f trigger.EventFilter, ids []int64) (query string, args []any) {
	var w where
	w.add(ids != nil, s.among("e.id"), s.list(ids))
	w.add(f.Before > 0, "e.id < ?", f.Before)
	w.add(f.Repository != "", "e.repository = ?", f.Repository)
	return selectEvents + w.clause() + newestFirst("e.id", f.Limit), w.args
}

// Outcomes gives the states of an event's runs, without those that wait for
// the others.
func (s *Store) Outcomes(ctx context.Context, event int64) (states []trigger.State, err error) {
	err = each(s.query(ctx, "SELECT r.state"+ofEvent+" AND NOT r.after AND r.tells = 0 ORDER BY r.id", event))(func(rows rowScanner) error {
		var state trigger.State
		err := rows.Scan(&state)
		states = append(states, state)
		return err
	})
	return states, err
}

const countLive = "SELECT (SELECT count(*) FROM waiting), (SELECT count(*) FROM running)"

// Live counts the runs that have not ended.
func (s *Store) Live(ctx context.Context) (waiting, running int, err error) {
	_, err = s.queryRow(ctx, countLive, nil, &waiting, &running)
	return waiting, running, err
}

// where collects the conditions of a query.
type where struct {
	conditions []string
	args       []any
}

func (w *where) add(when bool, condition string, args ...any) {
	if when {
		w.conditions = append(w.conditions, condition)
		w.args = append(w.args, args...)
	}
}

func (w *where) clause() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}
