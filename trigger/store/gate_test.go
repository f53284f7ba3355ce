package store

import (
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// The age of an image is counted from when dockbell first saw its content,
// whoever sent that and under which tag.
func TestMinAge(t *testing.T) { onEach(t, testMinAge) }

func testMinAge(t *testing.T, b *bench) {
	s := b.Store
	first := b.now
	accept := func(tag, digest string, after time.Duration, want time.Time) {
		t.Helper()
		b.now = first.Add(after)
		e := trigger.Event{Image: trigger.Image{Registry: "r.example", Repository: "shop/web", Tag: tag, Digest: digest}, Source: "hub", Action: trigger.Push, ReceivedAt: b.now}
		r := planned("lane"+tag+digest, trigger.Latest)
		r.MinAge, r.CreatedAt, r.NotBefore = 24*time.Hour, b.now, b.now
		receipt, err := s.Accept(t.Context(), trigger.Delivery{Source: "hub"}, []trigger.Planned{{Event: e, Runs: []trigger.Run{r}}})
		if err != nil {
			t.Fatal(err)
		}
		got, _, _, err := s.Run(t.Context(), receipt.Events[0].Runs[0].ID)
		if err != nil || !got.NotBefore.Equal(want) {
			t.Errorf("%s %s: not before %s, %v, want %s", tag, digest, got.NotBefore, err, want)
		}
		if waits := want.After(b.now); waits != (got.Reason == "too young until "+want.Format(time.RFC3339)) {
			t.Errorf("%s %s: reason %q", tag, digest, got.Reason)
		}
	}
	accept("v1", "sha256:a", 0, first.Add(24*time.Hour))
	accept("latest", "sha256:a", 2*time.Hour, first.Add(24*time.Hour))
	accept("v2", "sha256:b", 3*time.Hour, first.Add(27*time.Hour))
	accept("stable", "sha256:a", 30*time.Hour, first.Add(30*time.Hour))
	accept("v3", "", 40*time.Hour, first.Add(64*time.Hour))
}
