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
	Failed     State = "failed"      // tried as often as allowed, or not worth repeating
	Superseded State = "superseded"  // a newer run of the lane took its place before it started
	Skipped    State = "skipped"     // there was nothing to do, it would have gone backwards, or its digest is held
	Rejected   State = "rejected"    // a person said no
	Expired    State = "expired"     // nobody approved it in time
	RolledBack State = "rolled-back" // it failed and was undone
	Unknown    State = "unknown"     // dockbell stopped while it ran; the effect may or may not have happened
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
	OrderMinor   Order = "minor"  // the same, and never out of the major version
	OrderPatch   Order = "patch"  // the same, and never out of the minor version
	OrderTime    Order = "time"   // by the time of the push
	OrderAny     Order = "any"    // not compared: what comes last wins
)

// When is under which condition a step of a sequence starts, once all steps
// before it have ended. Those whose condition was not met do not count.
type When string

const (
	NoStep        When = ""          // the run is in no sequence
	WhenSucceeded When = "succeeded" // all before it have succeeded
	WhenFailed    When = "failed"    // one has failed, was rolled back, or its end is not known
	Always        When = "always"
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

	// Deadline is how long after its first try began another one may begin; 0:
	// any time. FirstBackoff and MostBackoff bound the wait between two tries;
	// 0 leaves them to the queue.
	Deadline     time.Duration `json:"deadline,omitzero"`
	FirstBackoff time.Duration `json:"firstBackoff,omitzero"`
	MostBackoff  time.Duration `json:"mostBackoff,omitzero"`

	// HoldFailed holds the digest in the lane when the run fails for good.
	HoldFailed bool `json:"holdFailed,omitzero"`

	// Approvals is how many people must say yes before the run starts, 0 for
	// none; Approvers who they may be, nil for anybody. Without them it expires
	// at ApproveBy.
	Approvals int       `json:"approvals,omitzero"`
	Approvers []string  `json:"approvers,omitempty"`
	ApproveBy time.Time `json:"approveBy,omitzero"`
	Approved  int       `json:"approved,omitzero"` // how many have said yes

	// Tells is the run whose outcome this one is the notification of, 0 for
	// every other run.
	Tells int64 `json:"tells,omitzero,string"`

	// When makes the run a step: one of the runs that a rule has made of an
	// event and that follow each other, by their Index. Pending says that it
	// waits for those before it.
	When    When `json:"when,omitzero"`
	Pending bool `json:"pending,omitzero"`

	// Parent is the run that found what this one changes, 0 for every other
	// run. Finds says that this run is one that finds: what it stands for is
	// for those that it makes to say.
	Parent int64 `json:"parent,omitzero,string"`
	Finds  bool  `json:"-"`

	// MinAge is how long the image must have been known when the run starts.
	// It is counted from when the run is accepted, into NotBefore.
	MinAge time.Duration `json:"-"`

	State      State     `json:"state"`
	Reason     string    `json:"reason,omitzero"` // why it is in this state: an error, what superseded it
	Attempt    int       `json:"attempt"`         // tries begun so far
	NotBefore  time.Time `json:"notBefore,omitzero"`
	CreatedAt  time.Time `json:"createdAt"`
	FirstAt    time.Time `json:"firstAt,omitzero"`   // of the first try
	StartedAt  time.Time `json:"startedAt,omitzero"` // of the last try
	FinishedAt time.Time `json:"finishedAt,omitzero"`

	// Begun is what the action has begun and waits for, in words of its own;
	// "" when there is nothing. Whoever takes the run up again goes on waiting
	// for that.
	Begun string `json:"begun,omitzero"`
}

// LaneOf is the lane of what a declarative kind of action changes.
func LaneOf(kind, target string) string { return kind + "/" + target }

// Child makes the run that changes something that this one has found.
func (r Run) Child(found Found, now time.Time) Run {
	return Run{
		EventID: r.EventID, Event: r.Event, Rule: r.Rule, Index: r.Index, Kind: r.Kind, Target: found.Target, Spec: found.Spec, Parent: r.ID, When: r.When,
		Lane: LaneOf(r.Kind, found.Target), Mode: r.Mode, Ordered: r.Ordered, Order: r.Order, Attempts: r.Attempts, Timeout: r.Timeout, Followed: r.Followed,
		Deadline: r.Deadline, FirstBackoff: r.FirstBackoff, MostBackoff: r.MostBackoff, HoldFailed: r.HoldFailed,
		CreatedAt: now, NotBefore: now,
	}
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

// Awaits reports whether people have yet to approve the run.
func (r Run) Awaits() bool { return r.State == Waiting && r.Approved < r.Approvals }

// Note is a decision about a run, or what became of it: why it waits, who
// approved it, that it was put back.
type Note struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Vote is what a person says to a run that needs approval.
type Vote struct {
	By     string // who
	Yes    bool   // no rejects the run
	Digest string // what is approved; "" where the person was shown none
	Reason string
}

// Hold keeps something from being deployed until it is released. With a Digest
// runs for that are skipped, in one lane or, when that is "", in all; without
// one the runs of the lane wait.
type Hold struct {
	ID         int64     `json:"id,string"`
	Lane       string    `json:"lane,omitzero"`
	Digest     string    `json:"digest,omitzero"`
	Reason     string    `json:"reason"`
	By         string    `json:"by"`
	Run        int64     `json:"run,omitzero,string"` // that failed; 0 when a person holds
	At         time.Time `json:"at"`
	ReleasedAt time.Time `json:"releasedAt,omitzero"`
	ReleasedBy string    `json:"releasedBy,omitzero"`
}

// Notice is an outcome that people may want to be told of.
type Notice struct {
	ID   int64
	Run  Run   // with the state and reason it had
	From Image // of the last run before it in its lane that succeeded; zero when there is none
}
