package trigger

import (
	"strings"
	"time"
)

// Planned is an event with the runs that the rules made of it.
type Planned struct {
	Event  Event
	Runs   []Run  // those with After set come last
	Reason string // why there is no run; "" when there is one

	// Force makes runs although they were made for this push before.
	Force bool
}

// Receipt says what was put on disk for a delivery.
type Receipt struct {
	Delivery int64
	Events   []ReceiptEvent // one for each planned event, in order
}

// ReceiptEvent is an event as it was accepted.
type ReceiptEvent struct {
	ID   int64
	Runs []Admitted // one for each planned run, in order
}

// Admitted is what became of a planned run.
type Admitted struct {
	ID     int64  // of the new run, or of the one that already stands for it
	New    bool   // a run was made; it may already have ended as skipped
	Reason string // why there is no new run, or why it ended at once
}

// Key tells redeliveries of one event from other events: "" when the sender
// gives nothing to tell them by, neither an id nor a time.
func (e Event) Key() string {
	id := e.ID
	if id == "" {
		if e.OccurredAt.IsZero() {
			return ""
		}
		id = e.OccurredAt.UTC().Format(time.RFC3339Nano)
	}
	return strings.Join([]string{e.Source, id, e.Action, e.Registry, e.Repository, e.Tag, e.Digest}, "\x00")
}

// Result is how one try of a run ended, for the store to write back.
type Result struct {
	State     State // an outcome, or Waiting for another try
	Reason    string
	Log       string
	NotBefore time.Time // of the next try
	At        time.Time // when the try ended
	Postponed bool      // there was no try: its gate was closed
	Hold      string    // why the digest is held in the lane from now on; "" when it is not
	Runs      []Run     // that are made with it, of what was found
}

// CutOff is the result of a run that was stopped in the middle.
func (r Run) CutOff(repeatable bool, now time.Time) Result {
	switch {
	case r.Begun != "":
		return Result{State: Waiting, At: now, NotBefore: now, Reason: "dockbell stopped, or lost its store, while this waited; it goes on waiting"}
	case repeatable:
		return Result{State: Waiting, At: now, NotBefore: now, Reason: "dockbell stopped, or lost its store, while this ran"}
	}
	return Result{State: Unknown, At: now, Reason: "dockbell stopped, or lost its store, while this ran; whether it had its effect is not known, so it is not repeated"}
}

// EventRecord is a recorded event with what became of it.
type EventRecord struct {
	ID       int64   `json:"id,string"`
	Delivery int64   `json:"delivery,string"`
	Runs     []int64 `json:"-"`
	Reason   string  `json:"reason,omitzero"` // why it made no run
	Event
}

// RunFilter selects runs, newest first. Zero fields do not restrict.
type RunFilter struct {
	Before     int64 // runs with a lower id: where the page before ended
	Limit      int
	State      State
	Rule       string
	Repository string
	Event      int64
}

// EventFilter selects events, newest first. Zero fields do not restrict.
type EventFilter struct {
	Before     int64
	Limit      int
	Repository string
}

// Keep says for how long history is kept. What is unfinished always is.
type Keep struct {
	Deliveries time.Duration // requests as they came, with their bodies
	Successes  time.Duration // runs that succeeded, were skipped or superseded, and events
	Failures   time.Duration // runs that failed or whose end is not known
}

// Pruned counts what was forgotten.
type Pruned struct{ Deliveries, Events, Runs int }
