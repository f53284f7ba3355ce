package trigger

import "time"

// What an event says happened to an image.
const (
	Push   = "push"
	Delete = "delete"
)

// Event is one thing that happened in a registry, normalised: a sender's
// parser makes it, rules decide about it.
type Event struct {
	Image

	ID         string    `json:"id,omitzero"` // the sender's own id of this event; "" when it sends none
	Source     string    `json:"source"`      // the configured name of the source
	Action     string    `json:"action"`      // Push or Delete
	MediaType  string    `json:"mediaType,omitzero"`
	Actor      string    `json:"actor,omitzero"`
	OccurredAt time.Time `json:"occurredAt,omitzero"` // zero when the sender does not tell
	ReceivedAt time.Time `json:"receivedAt,omitzero"`

	// Observed marks what was found by looking into a registry. Its sender may
	// have told the same push, or may tell it yet.
	Observed bool `json:"observed,omitzero"`

	// Since is when an observed event had not happened yet: when the poller
	// looked before. Zero when that is not known.
	Since time.Time `json:"since,omitzero"`

	// Ignored says why this can start nothing: a pull, a blob, a signature.
	// Such an event is counted and shown, never matched against rules.
	Ignored string `json:"ignored,omitzero"`

	// Callback is where the sender asks to be told the outcome; "" for none.
	Callback string `json:"callback,omitzero"`
}

// Time is when the push happened as far as dockbell can tell: what the sender
// says, else when it arrived. What arrived has happened: a sender whose clock
// is ahead is not believed.
func (e Event) Time() time.Time {
	if e.OccurredAt.IsZero() || e.OccurredAt.After(e.ReceivedAt) && !e.ReceivedAt.IsZero() {
		return e.ReceivedAt
	}
	return e.OccurredAt
}

// Delivery is one HTTP request as it came, kept so that it can be explained
// and replayed. Headers hold no secrets.
type Delivery struct {
	Source     string
	ReceivedAt time.Time
	Header     map[string][]string
	Body       []byte
	Events     []Event // what the parser understood, ignored ones included
}
