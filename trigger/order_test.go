package trigger

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestBackwards(t *testing.T) {
	early := time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)
	late := early.Add(time.Minute)
	var never time.Time
	const lower, before = "is a lower version than", "it was pushed at"
	tests := []struct {
		name     string
		from, to Release
		order    Order
		want     string // "" or a part of the reason
	}{
		{"higher version", Release{"v1.2.3", early}, Release{"v1.2.4", late}, OrderDefault, ""},
		{"higher version pushed earlier", Release{"v1.2.3", late}, Release{"v1.10.0", early}, OrderDefault, ""},
		{"lower version pushed later", Release{"v1.10.0", early}, Release{"v1.9.9", late}, OrderDefault, lower},
		{"with and without v", Release{"v2.0.0", early}, Release{"1.9.9", late}, OrderDefault, lower},
		{"pre-release after its release", Release{"1.0.0", early}, Release{"1.0.0-rc.1", late}, OrderDefault, lower},
		{"release after its pre-release", Release{"1.0.0-rc.1", late}, Release{"1.0.0", early}, OrderDefault, ""},
		{"pre-releases by number", Release{"1.0.0-rc.10", early}, Release{"1.0.0-rc.9", late}, OrderDefault, lower},
		{"equal version later", Release{"v1.0.0", early}, Release{"1.0.0", late}, OrderDefault, ""},
		{"equal version earlier", Release{"v1.0.0", late}, Release{"1.0.0", early}, OrderDefault, before},
		{"same tag moved", Release{"latest", early}, Release{"latest", late}, OrderDefault, ""},
		{"same tag late delivery", Release{"latest", late}, Release{"latest", early}, OrderDefault, before},
		{"same moment", Release{"latest", early}, Release{"main", early}, OrderDefault, ""},
		{"digits are no version", Release{"1234567", early}, Release{"1000000", late}, OrderDefault, ""},
		{"digits by time", Release{"1000000", late}, Release{"1234567", early}, OrderDefault, before},
		{"two numbers are no version", Release{"2.1", early}, Release{"2.0", late}, OrderDefault, ""},
		{"hash against version", Release{"v1.0.0", late}, Release{"0a1b2c3", early}, OrderDefault, before},
		{"no time of the new", Release{"latest", late}, Release{"latest", never}, OrderDefault, ""},
		{"no time of the old", Release{"latest", never}, Release{"latest", early}, OrderDefault, ""},
		{"versions need no time", Release{"2.0.0", never}, Release{"1.0.0", never}, OrderDefault, lower},
		{"untagged", Release{"", late}, Release{"", early}, OrderDefault, before},

		{"semver lower", Release{"2.0.0", early}, Release{"1.0.0", late}, OrderSemver, lower},
		{"semver equal earlier", Release{"1.0.0", late}, Release{"1.0.0", early}, OrderSemver, ""},
		{"semver does not compare others", Release{"latest", late}, Release{"latest", early}, OrderSemver, ""},
		{"semver against a hash", Release{"v1.0.0", late}, Release{"0a1b2c3", early}, OrderSemver, ""},
		{"time ignores versions", Release{"2.0.0", early}, Release{"1.0.0", late}, OrderTime, ""},
		{"time earlier", Release{"1.0.0", late}, Release{"2.0.0", early}, OrderTime, before},
		{"minor goes up", Release{"0.4.1", early}, Release{"0.5.0", late}, OrderMinor, ""},
		{"minor goes no further", Release{"1.4.1", early}, Release{"2.0.0", late}, OrderMinor, "is of another major version than"},
		{"minor goes no lower", Release{"1.4.1", early}, Release{"1.4.0", late}, OrderMinor, lower},
		{"minor does not compare others", Release{"latest", late}, Release{"latest", early}, OrderMinor, ""},
		{"patch goes up", Release{"1.4.1", early}, Release{"1.4.2", late}, OrderPatch, ""},
		{"patch goes no further", Release{"1.4.1", early}, Release{"1.5.0", late}, OrderPatch, "is of another minor version than"},
		{"patch keeps the major version", Release{"1.4.1", early}, Release{"2.4.2", late}, OrderPatch, "is of another major version than"},
		{"any", Release{"2.0.0", late}, Release{"1.0.0", early}, OrderAny, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Backwards(tt.from, tt.to, tt.order)
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("Backwards(%v, %v, %q) = %q, want %q", tt.from, tt.to, tt.order, got, tt.want)
			}
		})
	}
}

func TestEventKey(t *testing.T) {
	at := time.Date(2026, 1, 1, 10, 0, 0, 5, time.UTC)
	base := Event{Image: Image{"r.example", "shop/web", "v1", "sha256:x"}, ID: "42", Source: "hub", Action: Push, OccurredAt: at, ReceivedAt: at}
	change := func(f func(*Event)) Event {
		e := base
		f(&e)
		return e
	}
	timed := change(func(e *Event) { e.ID = "" })
	tests := []struct {
		name string
		a, b Event
		same bool
	}{
		{"itself", base, base, true},
		{"received again", base, change(func(e *Event) { e.ReceivedAt = at.Add(time.Hour) }), true},
		{"the id decides, not the time", base, change(func(e *Event) { e.OccurredAt = at.Add(time.Hour) }), true},
		{"other actor", base, change(func(e *Event) { e.Actor = "bob" }), true},
		{"other id", base, change(func(e *Event) { e.ID = "43" }), false},
		{"other source", base, change(func(e *Event) { e.Source = "quay" }), false},
		{"other action", base, change(func(e *Event) { e.Action = Delete }), false},
		{"other registry", base, change(func(e *Event) { e.Registry = "" }), false},
		{"other repository", base, change(func(e *Event) { e.Repository = "shop/api" }), false},
		{"other tag", base, change(func(e *Event) { e.Tag = "v2" }), false},
		{"other digest", base, change(func(e *Event) { e.Digest = "" }), false},
		{"same time", timed, timed, true},
		{"same time elsewhere", timed, change(func(e *Event) { e.ID, e.OccurredAt = "", at.In(time.FixedZone("", 3600)) }), true},
		{"other time", timed, change(func(e *Event) { e.ID, e.OccurredAt = "", at.Add(1) }), false},
		{"time against id", timed, base, false},
	}
	for _, tt := range tests {
		if got := tt.a.Key() == tt.b.Key(); got != tt.same {
			t.Errorf("%s: same is %t, want %t:\n%q\n%q", tt.name, got, tt.same, tt.a.Key(), tt.b.Key())
		}
	}
	if key := change(func(e *Event) { e.ID, e.OccurredAt = "", time.Time{} }).Key(); key != "" {
		t.Errorf("an event without id and time has the key %q", key)
	}
}

func TestEventTime(t *testing.T) {
	sent, got := time.Unix(100, 0), time.Unix(200, 0)
	if at := (Event{OccurredAt: sent, ReceivedAt: got}).Time(); at != sent {
		t.Errorf("with the sender's time: %s", at)
	}
	if at := (Event{ReceivedAt: got}).Time(); at != got {
		t.Errorf("without: %s", at)
	}
}

func TestStateEnded(t *testing.T) {
	for _, s := range []State{Waiting, Running} {
		if s.Ended() {
			t.Errorf("%s has ended", s)
		}
	}
	for _, s := range []State{Succeeded, Failed, Superseded, Skipped, Unknown} {
		if !s.Ended() {
			t.Errorf("%s has not ended", s)
		}
	}
}

func TestRetryable(t *testing.T) {
	cause := errors.New("503")
	wrapped := fmt.Errorf("jenkins: %w", &RetryError{Err: cause, After: time.Minute})
	if after, ok := Retryable(wrapped); !ok || after != time.Minute || !errors.Is(wrapped, cause) {
		t.Errorf("wrapped: %s, %t", after, ok)
	}
	if after, ok := Retryable(Retry(cause)); !ok || after != 0 {
		t.Errorf("Retry: %s, %t", after, ok)
	}
	for _, err := range []error{nil, cause, Skip("nothing to do")} {
		if _, ok := Retryable(err); ok {
			t.Errorf("%v may be repeated", err)
		}
	}
}
