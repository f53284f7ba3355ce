package trigger

import (
	"encoding/json"
	"time"
)

// State is where a run stands. The first two are the live ones, all others
// are outcomes: once reached they never change.
type State string

const (
	Waiting    State = "waiting" // on disk, not started: the lane is busy, a retry is due later, …
	Running    State = "running"
	Succeeded  State = "succeeded"
	Failed     State = "failed"     // tried as often as allowed, or not worth repeating
	Superseded State = "superseded" // a newer run of the lane took its place before it started
	Skipped    State = "skipped"    // there was nothing to do, or it would have gone backwards
	Unknown    State = "unknown"    // dockbell stopped while it ran; the effect may or may not have happened
)

// Ended reports whether the state is an outcome.
func (s State) Ended() bool { return s != Waiting && s != Running }

// Mode is how the runs of one lane follow each other.
type Mode string

const (
	Latest   Mode = "latest"   // one at a time; a newer run supersedes those that wait
	Queue    Mode = "queue"    // one at a time, each of them, in order
	Parallel Mode = "parallel" // all at once
)

// Order is what makes one run newer than another of the same lane.
type Order string

const (
	OrderDefault Order = ""       // by version when both tags are versions, else by time
	OrderSemver  Order = "semver" // by version; tags that are no versions are not compared
	OrderTime    Order = "time"   // by the time of the push
	OrderAny     Order = "any"    // not compared: what comes last wins
)

// Run is one action of one rule for one event, with its final parameters: what
// is stored, shown and approved is exactly what is done.
type Run struct {
	ID      int64 `json:"id,string"`
	EventID int64 `json:"event,string"`

	Event  Event           `json:"-"`
	Rule   string          `json:"rule"`
	Index  int             `json:"index"` // which action of the rule, from 0
	Kind   string          `json:"kind"`
	Target string          `json:"target"` // what the action changes, for people
	Spec   json.RawMessage `json:"spec"`   // parameters with all templates rendered

	Lane     string        `json:"lane"`
	Mode     Mode          `json:"mode"`
	Ordered  bool          `json:"ordered"` // older than what its lane holds means skipped
	Order    Order         `json:"order,omitzero"`
	Attempts int           `json:"attempts"`          // most tries; 0: as long as it is worth repeating
	Timeout  time.Duration `json:"timeout,omitzero"`  // of one try
	After    bool          `json:"after,omitzero"`    // starts when the other runs of its event have ended
	Followed bool          `json:"followed,omitzero"` // its event has a run that waits for it

	// MinAge is how long the image must have been known when the run starts.
	// It is counted from when the run is accepted, into NotBefore.
	MinAge time.Duration `json:"-"`

	State      State     `json:"state"`
	Reason     string    `json:"reason,omitzero"` // why it is in this state: an error, what superseded it
	Attempt    int       `json:"attempt"`         // tries begun so far
	NotBefore  time.Time `json:"notBefore,omitzero"`
	CreatedAt  time.Time `json:"createdAt"`
	StartedAt  time.Time `json:"startedAt,omitzero"` // of the last try
	FinishedAt time.Time `json:"finishedAt,omitzero"`
}

// Attempt is one try of a run, as it was written back.
type Attempt struct {
	N          int       `json:"n"`
	StartedAt  time.Time `json:"startedAt"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	State      State     `json:"state"` // Waiting when it is to be tried again
	Reason     string    `json:"reason,omitzero"`
	Log        string    `json:"log,omitzero"` // what the action wrote: output, from and to
}
