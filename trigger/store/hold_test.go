package store

import (
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

func (b *bench) hold(lane, digest string) int64 {
	b.Helper()
	id, err := b.Hold(b.Context(), trigger.Hold{Lane: lane, Digest: digest, Reason: "it crashes", By: "anna", At: b.now})
	if err != nil {
		b.Fatal(err)
	}
	return id
}

func (b *bench) release(id int64) {
	b.Helper()
	if err := b.Release(b.Context(), id, "bob", b.now); err != nil {
		b.Fatal(err)
	}
}

// A digest that is held is skipped, whoever sends it and wherever it waits,
// until it is released.
func TestHoldDigest(t *testing.T) { onEach(t, testHoldDigest) }

func testHoldDigest(t *testing.T, b *bench) {
	b.accept(b.push("v0"), planned("a", trigger.Latest))
	running := b.claim(1)[0]
	bad := b.push("v1")
	b.accept(bad, planned("a", trigger.Latest), planned("b", trigger.Parallel, rule("other")))
	id := b.hold("", "sha256:v1")
	b.want("running skipped skipped")
	b.reason(2, "the digest is held by anna since 2026-03-01T12:00:02Z (hold 1): it crashes")
	b.accept(b.again(bad), planned("c", trigger.Queue))
	other := bad
	other.Source, other.Tag = "mirror", "stable"
	b.accept(b.again(other), planned("a", trigger.Latest))
	b.want("running skipped skipped skipped skipped")
	b.accept(b.push("v2"), planned("a", trigger.Latest))
	b.finish(running, trigger.Succeeded)
	b.finish(b.claim(6)[0], trigger.Succeeded)

	b.reopen()
	b.release(id)
	made(b, b.accept(bad, planned("b", trigger.Parallel, rule("other"))), 7) // the very same event
	interventions{t, b, b.Store}.refused(b.Release(t.Context(), id, "carl", b.now), "hold 1 was released by bob at")
	if holds, err := b.Holds(t.Context(), false); err != nil || len(holds) != 0 {
		t.Errorf("%+v, %v", holds, err)
	}
	if holds, err := b.Holds(t.Context(), true); err != nil || len(holds) != 1 || holds[0].ReleasedBy != "bob" || holds[0].Digest != "sha256:v1" {
		t.Errorf("%+v, %v", holds, err)
	}
}

// The runs of a lane that is held wait, and the newest of them runs when it is
// released.
func TestHoldLane(t *testing.T) { onEach(t, testHoldLane) }

func testHoldLane(t *testing.T, b *bench) {
	b.accept(b.push("v1"), planned("a", trigger.Latest), planned("p", trigger.Parallel, rule("other")))
	first, second := b.hold("a", ""), b.hold("a", "")
	parallel := b.hold("p", "")
	b.claim()
	b.accept(b.push("v2"), planned("a", trigger.Latest), planned("p", trigger.Parallel, rule("other")))
	b.accept(b.push("v3"), planned("other", trigger.Latest))
	b.finish(b.claim(5)[0], trigger.Succeeded)
	b.want("superseded waiting waiting waiting succeeded")
	b.reopen()
	b.release(first)
	b.claim() // the second holds it still
	b.release(second)
	b.claim(3)
	b.release(parallel)
	b.claim(2, 4)
}

// What runs when its lane is held is not stopped, but not tried again either.
func TestHoldWhileItRuns(t *testing.T) { onEach(t, testHoldWhileItRuns) }

func testHoldWhileItRuns(t *testing.T, b *bench) {
	b.accept(b.push("v1"), planned("a", trigger.Queue))
	b.accept(b.push("v2"), planned("d", trigger.Queue))
	runs := b.claim(1, 2)
	lane, digest := b.hold("a", ""), b.hold("d", "sha256:v2")
	b.finish(runs[0], trigger.Waiting)
	b.finish(runs[1], trigger.Waiting)
	b.want("waiting skipped")
	b.claim()
	b.release(lane)
	b.claim(1)
	b.release(digest)
	b.accept(b.push("v2"), planned("e", trigger.Queue))
	b.claim(3)
}

// A failure that asks for it holds the digest in its lane.
func TestHoldAfterFailure(t *testing.T) { onEach(t, testHoldAfterFailure) }

func testHoldAfterFailure(t *testing.T, b *bench) {
	bad := b.push("v1")
	b.accept(bad, planned("prod", trigger.Latest))
	r := b.claim(1)[0]
	if _, err := b.Finish(t.Context(), r, trigger.Result{State: trigger.RolledBack, Reason: "no pod became ready", Hold: "no pod became ready", At: b.now}); err != nil {
		t.Fatal(err)
	}
	b.accept(b.again(bad), planned("prod", trigger.Latest))
	b.accept(b.again(bad), planned("test", trigger.Latest))
	b.want("rolled-back skipped waiting")
	holds, err := b.Holds(t.Context(), false)
	if err != nil || len(holds) != 1 || holds[0].Run != 1 || holds[0].Lane != "prod" || holds[0].By != "dockbell" {
		t.Fatalf("%+v, %v", holds, err)
	}
	if err := b.Retry(t.Context(), 1, "", b.now); err == nil || !strings.Contains(err.Error(), "release it first") {
		t.Error(err)
	}
	b.release(holds[0].ID)
	if err := b.Retry(t.Context(), 1, "", b.now); err != nil {
		t.Error(err)
	}
	b.claim(1, 3)
}

// A push that was deployed and then undone by hand is not deployed again by
// those who tell of it once more.
func TestRollbackByHandStays(t *testing.T) { onEach(t, testRollbackByHandStays) }

func testRollbackByHandStays(t *testing.T, b *bench) {
	e := b.push("v1")
	b.accept(e, planned("a", trigger.Latest, ordered))
	b.finish(b.claim(1)[0], trigger.Succeeded)
	for _, source := range []string{"hub", "mirror"} {
		b.now = b.now.Add(time.Hour)
		again := b.again(e)
		again.Source = source
		made(b, b.accept(again, planned("a", trigger.Latest, ordered)), 0)
	}
}
