package source

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// byteOrderMark is what some tools on Windows begin a file with.
var byteOrderMark = []byte("\ufeff")

// readJSON decodes a whole body. Keys that v does not name are skipped:
// senders add some at any time.
func readJSON(body []byte, v any) error {
	body = bytes.TrimPrefix(body, byteOrderMark)
	if len(bytes.TrimSpace(body)) == 0 {
		return errors.New("the body is empty")
	}
	return readable(json.Unmarshal(body, v))
}

// readable words an error of encoding/json for people who know the payload
// but not this program.
func readable(err error) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &kind) && kind.Field == "":
		return fmt.Errorf("it is of type %s", printable(kind.Value))
	case errors.As(err, &kind):
		return fmt.Errorf("%s is of type %s", printable(kind.Field), printable(kind.Value))
	case errors.As(err, &syntax):
		return fmt.Errorf("not JSON: %s at byte %d", printable(syntax.Error()), syntax.Offset)
	}
	return err
}

// each is one element of a batch. What is wrong in it stays with it: senders
// put unrelated events into one request, and one must not drop the others.
type each[T any] struct {
	value T
	err   error
}

func (e *each[T]) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '{' {
		e.err = errNoObject
		return nil
	}
	e.err = readable(json.Unmarshal(b, &e.value))
	return nil
}

var errNoObject = errors.New("not an object")

// singly makes the elements of a batch of what was read of it at once, where
// null is nil.
func singly[T any](all []*T) []each[T] {
	if all == nil {
		return nil
	}
	elements := make([]each[T], len(all))
	for i, value := range all {
		if value == nil {
			elements[i].err = errNoObject
			continue
		}
		elements[i].value = *value
	}
	return elements
}

// batch parses the elements one by one. Those that cannot be understood become
// ignored events; when none can, the body is not what the sender sends, and
// the first error is returned.
func batch[T any](elements []each[T], parse func(T) (trigger.Event, error)) ([]trigger.Event, error) {
	events := make([]trigger.Event, len(elements))
	var first error
	bad := 0
	for i, element := range elements {
		err := element.err
		if err == nil {
			events[i], err = parse(element.value)
		}
		if err != nil {
			if bad++; first == nil {
				first = fmt.Errorf("event %d: %w", i, err)
			}
			events[i] = trigger.Event{Ignored: "unreadable: " + err.Error()}
		}
	}
	if bad > 0 && bad == len(events) {
		return nil, first
	}
	return events, nil
}

// named gives the event its image. Parts that are no name make it an ignored
// event without an image; so does a name that says neither tag nor digest.
func named(e trigger.Event, registry, repository, tag, digest string) trigger.Event {
	img, err := trigger.NewImage(registry, repository, tag, digest)
	e.Image = img
	switch {
	case e.Ignored != "":
	case err != nil:
		e.Ignored = err.Error()
	case img.Tag == "" && img.Digest == "":
		e.Ignored = "neither tag nor digest"
	}
	return e
}

// host is the first of the candidates that can be a registry; "" when none
// can. It is often what a client wrote, and no reason to lose a push: the
// configuration may name the registry.
func host(candidates ...string) string {
	for _, c := range candidates {
		if host, ok := trigger.RegistryHost(c); ok {
			return host
		}
	}
	return ""
}

// readText reads a string of a body that has been decoded; ok is false when it is
// something else. Most strings stand there as they are, and decoding costs more
// than all that is done with them afterwards.
func readText(raw []byte) (s string, ok bool) {
	if n := len(raw); n > 1 && raw[0] == '"' && raw[n-1] == '"' && bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw) {
		return string(raw[1 : n-1]), true
	}
	err := json.Unmarshal(raw, &s)
	return s, err == nil
}

// moment reads a time in any of the forms that senders use: RFC 3339, the
// same without a zone and "2006-01-02 15:04:05" in the zone given, and seconds
// since 1970 as a number or a string of one. What it cannot read, and what
// cannot be the time of a push, is the zero time: not told.
func moment(raw json.RawMessage, zone *time.Location) time.Time {
	var t time.Time
	if len(raw) > 1 && raw[0] == '"' {
		s, ok := readText(raw)
		if !ok {
			return t
		}
		for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02T15:04:05"} {
			if t, err := time.ParseInLocation(layout, s, zone); err == nil {
				return plausible(t)
			}
		}
		raw = json.RawMessage(s)
	}
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || math.IsNaN(seconds) || math.Abs(seconds) > 1e11 {
		return t
	}
	whole, fraction := math.Modf(seconds)
	return plausible(time.Unix(int64(whole), int64(fraction*1e6)*1000))
}

// plausible keeps times out that no registry can have seen, and that would not
// survive JSON or being counted in nanoseconds.
func plausible(t time.Time) time.Time {
	if t = t.UTC(); t.Year() < 1971 || t.Year() > 2200 {
		return time.Time{}
	}
	return t
}
