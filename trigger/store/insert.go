package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dockbell/dockbell/trigger"
)

// The columns of the tables that grow with every push, in the order in which
// their values are given.
var (
	deliveryColumns  = []string{"id", "source", "received_at", "header", "body"}
	eventColumnNames = []string{
		"id", "delivery_id", "source", "sender_id", "action", "registry", "repository", "tag", "digest", "media_type", "actor",
		"occurred_at", "received_at", "reason", "observed",
	}
	runColumnNames = []string{
		"id", "event_id", "rule", "idx", "kind", "target", "spec", "lane", "mode", "ordered", "ordering", "attempts", "timeout", "after", "followed",
		"state", "reason", "attempt", "not_before", "created_at", "started_at", "finished_at",
		"deadline", "first_backoff", "most_backoff", "hold_failed", "approvals", "approved", "approvers", "approve_by", "tells", "first_at",
		"begun", "parent", "step", "pending",
	}
	originColumns  = []string{"run_id", "event_id", "repository", "dedupe", "lane", "outcome"}
	waitingColumns = []string{"run_id", "lane", "due_at", "head", "awaits"}
	attemptColumns = []string{"run_id", "n", "started_at", "finished_at", "state", "reason", "log"}
)

var (
	insertDelivery = insertInto("deliveries", deliveryColumns)
	insertEvent    = insertInto("events", eventColumnNames)
	insertRun      = insertInto("runs", runColumnNames)
	insertOrigin   = insertInto("origins", originColumns)
	insertWaiting  = insertInto("waiting", waitingColumns)
	insertAttempt  = insertInto("attempts", attemptColumns)
)

// The same for many rows: each parameter is a column of them.
var (
	insertDeliveries = insertColumns("deliveries", deliveryColumns)
	insertEvents     = insertColumns("events", eventColumnNames)
	insertRuns       = insertColumns("runs", runColumnNames)
	insertOrigins    = insertColumns("origins", originColumns)
	insertAllWaiting = insertColumns("waiting", waitingColumns)
	insertAttempts   = insertColumns("attempts", attemptColumns)
)

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

func insertInto(table string, columns []string) string {
	return "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES (?" + strings.Repeat(", ?", len(columns)-1) + ")"
}

// insert adds a row whose id comes first and is not known yet.
func (w *writer) insert(query, sequence string, values []any) (id int64, err error) {
	if w.numbered {
		if b := (&pgx.Batch{}); len(w.ids) > 0 {
			if w.giveBack(b); b.Len() > 0 {
				if err := w.send(b); err != nil {
					return 0, err
				}
			}
		}
		if _, err := w.row("SELECT nextval(?::text::regclass)", []any{sequence}, &id); err != nil {
			return 0, err
		}
		values[0] = id
		return id, w.exec(query, values...)
	}
	s, err := w.stmt(query)
	if err != nil {
		return 0, err
	}
	r, err := s.ExecContext(w.ctx, values...)
	if err != nil {
		return 0, err
	}
	return r.LastInsertId()
}

func (w *writer) insertDelivery(d trigger.Delivery) (int64, error) {
	header, err := json.Marshal(d.Header)
	if err != nil {
		return 0, err
	}
	body := d.Body
	if body == nil {
		body = []byte{} // nil is NULL to the driver; a poll has no body
	}
	values := []any{nil, d.Source, nanos(d.ReceivedAt), string(header), body}
	if id, ok := w.keep(&w.deliveries, "deliveries_id", values); ok {
		return id, nil
	}
	return w.insert(insertDelivery, "deliveries_id", values)
}

func (w *writer) insertEvent(delivery int64, e trigger.Event, reason string) (int64, error) {
	if e.Observed {
		w.observes = new(true)
		w.looked = nil // what was asked before this one
	}
	values := []any{
		nil, delivery, e.Source, e.ID, e.Action, e.Registry, e.Repository, e.Tag, e.Digest, e.MediaType, e.Actor,
		nanos(e.OccurredAt), nanos(e.ReceivedAt), reason, e.Observed,
	}
	if id, ok := w.keep(&w.events, "events_id", values); ok {
		return id, nil
	}
	return w.insert(insertEvent, "events_id", values)
}

// insertRun adds a run.
func (w *writer) insertRun(r trigger.Run, key []byte, claimable bool) (int64, error) {
	approvers := ""
	if len(r.Approvers) > 0 {
		text, err := json.Marshal(r.Approvers)
		if err != nil {
			return 0, err
		}
		approvers = string(text)
	}
	var dedupe any
	if key != nil {
		dedupe = key
	}
	values := []any{
		nil, r.EventID, r.Rule, r.Index, r.Kind, r.Target, string(r.Spec), r.Lane, string(r.Mode), r.Ordered, string(r.Order), r.Attempts, int64(r.Timeout), r.After, r.Followed,
		string(r.State), r.Reason, 0, nanos(r.NotBefore), nanos(r.CreatedAt), int64(0), nanos(r.FinishedAt),
		int64(r.Deadline), int64(r.FirstBackoff), int64(r.MostBackoff), r.HoldFailed, r.Approvals, 0, approvers, nanos(r.ApproveBy), r.Tells, int64(0),
		"", r.Parent, string(r.When), r.Pending,
	}
	id, ok := w.keep(&w.added, "runs_id", values)
	if !ok {
		var err error
		if id, err = w.insert(insertRun, "runs_id", values); err != nil {
			return 0, err
		}
	}
	origin := []any{id, r.EventID, r.Event.Repository, dedupe, r.Lane, outcome(r.State)}
	if _, ok := w.keep(&w.origins, "", origin); !ok {
		if err := w.exec(insertOrigin, origin...); err != nil {
			return 0, err
		}
	}
	if _, asked := w.keys[string(key)]; asked {
		w.keys[string(key)] = duplicate{id, r.State}
	}
	if r.State != trigger.Waiting {
		return id, nil
	}
	r.ID = id
	return id, w.insertWaiting(r, claimable)
}

// insertWaiting makes a run one of those that wait.
func (w *writer) insertWaiting(r trigger.Run, head bool) error {
	w.due = w.due || head
	values := []any{r.ID, turnIn(r), dueAt(r), head, r.Awaits()}
	if _, ok := w.keep(&w.waits, "", values); ok {
		return nil
	}
	return w.exec(insertWaiting, values...)
}

// dueAt is when a run may start once it is its turn, or ends where it awaits
// people.
func dueAt(r trigger.Run) int64 {
	if r.Awaits() {
		return nanos(r.ApproveBy)
	}
	return nanos(r.NotBefore)
}

// turnIn is the lane in which a run that waits takes its turn, NULL for one that
// takes none or has yet to come to that.
func turnIn(r trigger.Run) any {
	if !takesTurns(r) || r.Pending || r.Lane == "" {
		return nil
	}
	return r.Lane
}

// note keeps a decision about a run.
func (w *writer) note(run int64, at time.Time, text string) error {
	return w.exec("INSERT INTO notes (run_id, at, note) VALUES (?, ?, ?)", run, nanos(at), text)
}

// approvalNotice is what people are told of a run that waits for them.
const approvalNotice = "approval"

// notice keeps an outcome for those who are to be told of it. Nobody is told
// how telling went.
func (w *writer) notice(r trigger.Run, outcome, reason string) error {
	if r.Tells != 0 || !w.tells[outcome] {
		return nil
	}
	w.noticed = true
	return w.exec("INSERT INTO notices (run_id, state, reason) VALUES (?, ?, ?)", r.ID, outcome, reason)
}
