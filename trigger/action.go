package trigger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Action is one effect with all its parameters known.
type Action interface {
	// Target names what Do changes, for people and for the lane: two actions
	// of a declarative kind with one Target exclude each other.
	Target() string

	// Do tries once. The queue owns every repeat: Do says by its error
	// whether a repeat is safe ([Retry]), whether there was nothing to do
	// ([Skip]), and otherwise that it failed for good. It returns soon after
	// ctx ends. What is worth keeping with the run goes to log, never a
	// secret.
	Do(ctx context.Context, run Run, log io.Writer) error
}

// Finder is an action that changes nothing itself. It finds what there is to
// be changed, and each becomes a run with an outcome of its own. Its Do is not
// called.
type Finder interface {
	Action

	// Find tries once, like Do. What it finds has its parameters in a form that
	// the Builder of its kind takes.
	Find(ctx context.Context, run Run, log io.Writer) ([]Found, error)
}

// Found is one thing to be changed.
type Found struct {
	Target string
	Spec   json.RawMessage
}

// Builder makes an action from its parameters: strict decoding and checks, no
// I/O. decode fills a struct with yaml tags and refuses unknown keys. Faults
// in one field are reported as [FieldError], several at once by errors.Join.
type Builder func(decode func(any) error) (Action, error)

// Kind is a row in the table of action kinds.
type Kind struct {
	Build Builder

	// Declarative kinds set a target to a state: doing it twice changes
	// nothing, only the newest matters, and an older one must not follow a
	// newer. Their lane is the target and its mode is Latest. The others are
	// calls: each happens, in order, on a lane of the rule's action, and is
	// not repeated when it is not known whether it happened, messages apart.
	Declarative bool

	// Fixed are the keys of the specification in which there are no templates,
	// each with what to do instead.
	Fixed map[string]string

	Attempts int           // default of `attempts`
	Timeout  time.Duration // default of `timeout`

	// Message are the parameters that make the message of a kind which writes
	// to people, as templates over an outcome: a notification has them where it
	// gives none of its own. Nil for kinds that call machines. A message that
	// was cut off is sent again: twice does less harm than never.
	Message map[string]string
}

// OnlyWaits is for an action that from now on does nothing but wait for what it
// has begun, and bounds that itself. It gives the context to go on with, which
// the time limit of a try does not end; the context before has ended. What has
// begun is put on disk as the run's Begun: a run that is cut off now, or says
// that it may be tried again, passes no gate any more when it is taken up, and
// must go on with that. The queue lets another run begin meanwhile. Whoever
// comes to wait for something else calls it again, with the first context.
func OnlyWaits(ctx context.Context, begun string) context.Context {
	if begin, ok := ctx.Value(waiting{}).(func(string) context.Context); ok {
		return begin(begun)
	}
	return ctx
}

// WithOnlyWaits makes a context in which begin is what [OnlyWaits] does.
func WithOnlyWaits(ctx context.Context, begin func(begun string) context.Context) context.Context {
	return context.WithValue(ctx, waiting{}, begin)
}

// waiting is the key of begin.
type waiting struct{}

// AwaitsAnswer is for an action that has asked somebody who is slow to answer
// and has nothing to do meanwhile. The queue lets other runs begin, as far as
// not too many wait so. Nothing else changes for the run: its time limit goes
// on, and what it asked may have happened.
func AwaitsAnswer(ctx context.Context) {
	if awaits, ok := ctx.Value(answering{}).(func()); ok {
		awaits()
	}
}

// WithAwaitsAnswer makes a context in which awaits is what [AwaitsAnswer] does.
func WithAwaitsAnswer(ctx context.Context, awaits func()) context.Context {
	return context.WithValue(ctx, answering{}, awaits)
}

// answering is the key of awaits.
type answering struct{}

// FieldError says which field of a specification is wrong. Field is a key, or
// a path of keys with dots.
type FieldError struct {
	Field string
	Err   error
}

// Field reports that a field is wrong.
func Field(field, format string, args ...any) error {
	return &FieldError{Field: field, Err: fmt.Errorf(format, args...)}
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *FieldError) Unwrap() error { return e.Err }

// RetryError marks a failure after which the action may be tried again: it is
// sure to have had no effect, or to be harmless when repeated.
type RetryError struct {
	Err   error
	After time.Duration // not before; 0 leaves it to the queue's back-off
}

// Retry marks err as worth repeating.
func Retry(err error) error { return &RetryError{Err: err} }

func (e *RetryError) Error() string { return e.Err.Error() }
func (e *RetryError) Unwrap() error { return e.Err }

// SkipError says that there was nothing to do, and why.
type SkipError struct{ Reason string }

// Skip ends a run as skipped.
func Skip(format string, args ...any) error {
	return &SkipError{Reason: fmt.Sprintf(format, args...)}
}

func (e *SkipError) Error() string { return e.Reason }

// HoldError ends a run that failed and must not be deployed again before a
// person has released its digest.
type HoldError struct {
	Err    error
	Undone bool // what it changed was put back
}

func (e *HoldError) Error() string { return e.Err.Error() }
func (e *HoldError) Unwrap() error { return e.Err }

// UncertainError marks a failure after which nobody knows whether the action
// had its effect.
type UncertainError struct{ Err error }

// Uncertain marks err as that of an action that may have happened.
func Uncertain(err error) error { return &UncertainError{Err: err} }

func (e *UncertainError) Error() string { return e.Err.Error() }
func (e *UncertainError) Unwrap() error { return e.Err }

// Retryable reports whether err says that a repeat is safe, and how long to
// wait before it at the least.
func Retryable(err error) (after time.Duration, ok bool) {
	var r *RetryError
	if errors.As(err, &r) {
		return r.After, true
	}
	return 0, false
}

// ErrNotFound is a run that is not there.
var ErrNotFound = errors.New("not found")

// RefusedError is why something cannot be done about a run as it stands.
type RefusedError struct{ why string }

func (e *RefusedError) Error() string { return e.why }

// Refuse makes a RefusedError.
func Refuse(format string, args ...any) error { return &RefusedError{fmt.Sprintf(format, args...)} }
