package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// TestStore holds a store to its contract, on each database.
func TestStore(t *testing.T) {
	tests := []struct {
		name string
		test func(*testing.T, *bench)
	}{
		{"accept is durable", testDurable},
		{"everything is kept", testFields},
		{"bodies", testBodies},
		{"receipt", testReceipt},
		{"redelivery", testRedelivery},
		{"same push", testSamePush},
		{"redelivery after a failure", testRedeliveryAfterFailure},
		{"events without digest", testNoDigest},
		{"redelivery to another rule", testOtherRule},
		{"redelivery in one transaction", testRedeliveryAtOnce},
		{"reason of refused events", testEventReason},
		{"queue", testQueueMode},
		{"latest", testLatestMode},
		{"parallel", testParallelMode},
		{"modes in one lane", testMixedModes},
		{"one push, several runs of one lane", testOnePushOneLane},
		{"retry", testRetry},
		{"retry in latest", testRetryLatest},
		{"older releases", testOrder},
		{"lane of several repositories", testOtherRepository},
		{"failed from the start", testFailedTemplate},
		{"followers", testFollowers},
		{"followers of what was refused", testFollowersOfNothing},
		{"recover", testRecover},
		{"finish twice", testFencing},
		{"due later", testDue},
		{"who becomes ready meanwhile", testReady},
		{"times beyond the range", testFarTimes},
		{"lists", testLists},
		{"live and outcomes", testLive},
		{"wake", testWake},
		{"concurrent", testConcurrent},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { onEach(t, tt.test) })
	}
}

// databases are those that a store may be on. open opens the store at a place,
// which is a new one for each test, and creates it when there is none.
var databases = []struct {
	name string
	open func(t testing.TB, place string) *Store
}{
	{"SQLite", openSQLite},
	{"PostgreSQL", openPostgres},
}

// onEach runs a test of what every store does.
func onEach(t *testing.T, test func(*testing.T, *bench)) {
	for _, d := range databases {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			b := &bench{TB: t, place: t.TempDir(), open: d.open, now: begin}
			b.reopen()
			t.Cleanup(func() { b.Store.Close() })
			test(t, b)
		})
	}
}

// begin is when the tests begin.
var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// bench is a store under test with a clock and short words for what tests do.
type bench struct {
	testing.TB
	*Store
	open   func(t testing.TB, place string) *Store
	place  string
	now    time.Time
	events int
}

func (b *bench) reopen() {
	b.Helper()
	if b.Store != nil {
		if err := b.Store.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.Store = b.open(b.TB, b.place)
}

// push is a new event, a second after the last one.
func (b *bench) push(tag string, change ...func(*trigger.Event)) trigger.Event {
	b.now = b.now.Add(time.Second)
	b.events++
	e := trigger.Event{
		Image: trigger.Image{Registry: "r.example", Repository: "shop/web", Tag: tag, Digest: "sha256:" + tag},
		ID:    fmt.Sprint("e", b.events), Source: "hub", Action: trigger.Push, OccurredAt: b.now, ReceivedAt: b.now,
	}
	for _, f := range change {
		f(&e)
	}
	return e
}

// again is the same push with another id: how six hooks for one push look.
func (b *bench) again(e trigger.Event) trigger.Event {
	b.events++
	e.ID = fmt.Sprint("e", b.events)
	return e
}

func planned(lane string, mode trigger.Mode, change ...func(*trigger.Run)) trigger.Run {
	r := trigger.Run{Rule: "rule", Kind: "call", Target: lane, Spec: json.RawMessage(`{}`), Lane: lane, Mode: mode}
	for _, f := range change {
		f(&r)
	}
	return r
}

func ordered(r *trigger.Run) { r.Ordered = true }
func follower(r *trigger.Run) {
	r.After, r.Rule, r.Mode, r.Lane = true, "callback", trigger.Parallel, "callback"
}
func rule(name string) func(*trigger.Run) {
	return func(r *trigger.Run) { r.Rule = name }
}

// accept accepts one event with its runs.
func (b *bench) accept(e trigger.Event, runs ...trigger.Run) trigger.ReceiptEvent {
	b.Helper()
	for i := range runs {
		runs[i].CreatedAt = b.now
		if runs[i].NotBefore.IsZero() {
			runs[i].NotBefore = b.now
		}
	}
	rec, err := b.Accept(b.Context(), trigger.Delivery{Source: e.Source, ReceivedAt: b.now}, []trigger.Planned{{Event: e, Runs: runs}})
	if err != nil {
		b.Fatal(err)
	}
	return rec.Events[0]
}

// claim claims what is due, and says which.
func (b *bench) claim(want ...int64) []trigger.Run {
	b.Helper()
	runs, _, err := b.Claim(b.Context(), b.now, upTo(1000))
	if err != nil {
		b.Fatal(err)
	}
	if got := ids(runs); !slices.Equal(got, want) {
		b.Fatalf("claimed %d, want %d", got, want)
	}
	slices.SortFunc(runs, func(x, y trigger.Run) int { return int(x.ID - y.ID) })
	return runs
}

// upTo is that so many are ready for a run.
func upTo(n int) func() int { return func() int { return n } }

func ids(runs []trigger.Run) (got []int64) {
	for _, r := range runs {
		got = append(got, r.ID)
	}
	slices.Sort(got)
	return got
}

func (b *bench) finish(r trigger.Run, s trigger.State) trigger.State {
	b.Helper()
	got, err := b.Finish(b.Context(), r, trigger.Result{State: s, Reason: "said " + string(s), At: b.now, NotBefore: b.now})
	if err != nil {
		b.Fatal(err)
	}
	return got
}

// all gives every run, oldest first.
func (b *bench) all() []trigger.Run {
	b.Helper()
	runs, err := b.Runs(b.Context(), trigger.RunFilter{Limit: 1 << 20})
	if err != nil {
		b.Fatal(err)
	}
	slices.Reverse(runs)
	return runs
}

// want compares the states of all runs, oldest first.
func (b *bench) want(states string) {
	b.Helper()
	var got []string
	for _, r := range b.all() {
		got = append(got, string(r.State))
	}
	if s := strings.Join(got, " "); s != states {
		b.Fatalf("runs are %q, want %q", s, states)
	}
}

// reason compares why a run is in its state.
func (b *bench) reason(id int64, want string) {
	b.Helper()
	r, _, ok, err := b.Run(b.Context(), id)
	if err != nil || !ok {
		b.Fatal(ok, err)
	}
	if r.Reason != want {
		b.Errorf("run %d: reason %q, want %q", id, r.Reason, want)
	}
}

// made checks what became of the planned runs: their ids where they are new,
// 0 where they are not.
func made(b *bench, got trigger.ReceiptEvent, want ...int64) {
	b.Helper()
	var new []int64
	for _, a := range got.Runs {
		if a.New {
			new = append(new, a.ID)
		} else {
			new = append(new, 0)
		}
	}
	if !slices.Equal(new, want) {
		b.Fatalf("made %d, want %d: %+v", new, want, got.Runs)
	}
}

func testDurable(t *testing.T, b *bench) {
	b.accept(b.push("v1"), planned("a", trigger.Queue))
	b.accept(b.push("v2"), planned("a", trigger.Queue))
	r := b.claim(1)[0]
	b.finish(r, trigger.Succeeded)
	before := b.all()
	b.reopen()
	if after := b.all(); !reflect.DeepEqual(before, after) {
		t.Errorf("after opening again:\n%+v\nbefore:\n%+v", after, before)
	}
	b.claim(2)
	if err := b.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func testFields(t *testing.T, b *bench) {
	e := b.push("v1")
	e.MediaType, e.Actor = "application/vnd.oci.image.index.v1+json", "ann"
	run := trigger.Run{
		Event: e, Rule: "web", Index: 3, Kind: "http", Target: "https://x", Spec: json.RawMessage(`{"url":"https://x"}`),
		Lane: "rule/web/3", Mode: trigger.Latest, Ordered: true, Order: trigger.OrderSemver, Attempts: 7, Timeout: time.Minute,
		Deadline: time.Hour, FirstBackoff: time.Second, MostBackoff: time.Minute, HoldFailed: true,
		CreatedAt: b.now, NotBefore: b.now.Add(-time.Second),
	}
	d := trigger.Delivery{Source: "hub", ReceivedAt: b.now, Header: map[string][]string{"X": {"1"}}, Body: []byte("{}")}
	rec, err := b.Accept(t.Context(), d, []trigger.Planned{{Event: e, Runs: []trigger.Run{run}}})
	if err != nil {
		t.Fatal(err)
	}
	want := run
	want.ID, want.EventID, want.State = rec.Events[0].Runs[0].ID, rec.Events[0].ID, trigger.Waiting
	if got := b.all()[0]; !reflect.DeepEqual(got, want) {
		t.Errorf("waiting:\n%+v\nwant\n%+v", got, want)
	}

	want.State, want.Attempt, want.StartedAt, want.FirstAt = trigger.Running, 1, b.now, b.now
	r := b.claim(1)[0]
	if !reflect.DeepEqual(r, want) {
		t.Errorf("claimed:\n%+v\nwant\n%+v", r, want)
	}
	ended := b.now.Add(5 * time.Second)
	if _, err := b.Finish(t.Context(), r, trigger.Result{State: trigger.Failed, Reason: "no", Log: "log\x00\xff…", At: ended}); err != nil {
		t.Fatal(err)
	}
	want.State, want.Reason, want.FinishedAt = trigger.Failed, "no", ended
	got, tries, ok, err := b.Run(t.Context(), 1)
	if err != nil || !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("ended: %t %v\n%+v\nwant\n%+v", ok, err, got, want)
	}
	wantTries := []trigger.Attempt{{N: 1, StartedAt: b.now, FinishedAt: ended, State: trigger.Failed, Reason: "no", Log: "log\x00\xff…"}}
	if !reflect.DeepEqual(tries, wantTries) {
		t.Errorf("tries %+v, want %+v", tries, wantTries)
	}

	events, err := b.Events(t.Context(), trigger.EventFilter{Limit: 9})
	wantEvents := []trigger.EventRecord{{ID: rec.Events[0].ID, Delivery: rec.Delivery, Runs: []int64{1}, Event: e}}
	if err != nil || !reflect.DeepEqual(events, wantEvents) {
		t.Errorf("events %+v, %v\nwant %+v", events, err, wantEvents)
	}
	if _, _, ok, err := b.Run(t.Context(), 99); ok || err != nil {
		t.Errorf("a run that does not exist: %t, %v", ok, err)
	}
}

// A body comes back as it came, whether or not it takes less room packed.
func testBodies(t *testing.T, b *bench) {
	random := make([]byte, 2000)
	rand.NewChaCha8([32]byte{}).Read(random)
	for _, body := range [][]byte{nil, []byte("a"), random, bytes.Repeat([]byte(`{"digest":"sha256:0000"}`), 100)} {
		got, err := b.Accept(t.Context(), trigger.Delivery{Source: "hub", Body: body}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if d, ok, err := b.Delivery(t.Context(), got.Delivery); err != nil || !ok || !bytes.Equal(d.Body, body) {
			t.Errorf("%d bytes came back as %d, %v", len(body), len(d.Body), err)
		}
	}
	var packed int
	if err := b.read.QueryRow("SELECT count(*) FROM deliveries WHERE packed").Scan(&packed); err != nil || packed != 1 {
		t.Errorf("%d are packed, %v", packed, err)
	}
}

func testReceipt(t *testing.T, b *bench) {
	first, second := b.push("v1"), b.push("v2")
	rec, err := b.Accept(t.Context(), trigger.Delivery{Source: "hub"}, []trigger.Planned{
		{Event: first, Runs: []trigger.Run{planned("a", trigger.Queue), planned("b", trigger.Queue, rule("other"))}},
		{Event: b.push("v3"), Reason: "no rule"},
		{Event: second, Runs: []trigger.Run{planned("a", trigger.Queue)}},
	})
	want := trigger.Receipt{Delivery: 1, Events: []trigger.ReceiptEvent{
		{ID: 1, Runs: []trigger.Admitted{{ID: 1, New: true}, {ID: 2, New: true}}},
		{ID: 2, Runs: []trigger.Admitted{}},
		{ID: 3, Runs: []trigger.Admitted{{ID: 3, New: true}}},
	}}
	if err != nil || !reflect.DeepEqual(rec, want) {
		t.Fatalf("receipt %+v, %v\nwant %+v", rec, err, want)
	}
	if rec, err := b.Accept(t.Context(), trigger.Delivery{}, nil); err != nil || rec.Delivery != 2 || len(rec.Events) != 0 {
		t.Errorf("an empty delivery: %+v, %v", rec, err)
	}
	got, _, _, err := b.Run(t.Context(), 3)
	if err != nil || got.EventID != 3 || got.Event.Tag != "v2" {
		t.Errorf("run 3 is %+v, %v", got, err)
	}
}

func testRedelivery(t *testing.T, b *bench) {
	e := b.push("v1", func(e *trigger.Event) { e.Digest = "" })
	made(b, b.accept(e, planned("a", trigger.Queue), planned("b", trigger.Parallel, rule("other"))), 1, 2)
	e.ReceivedAt = e.ReceivedAt.Add(time.Minute)
	for _, state := range []trigger.State{trigger.Waiting, trigger.Running, trigger.Succeeded} {
		got := b.accept(e, planned("a", trigger.Queue), planned("b", trigger.Parallel, rule("other")))
		made(b, got, 0, 0)
		if got.Runs[0] != (trigger.Admitted{ID: 1, Reason: "run 1 already stands for this push"}) {
			t.Errorf("while %s: %+v", state, got.Runs[0])
		}
		switch state {
		case trigger.Waiting:
			b.claim(1, 2)
		case trigger.Running:
			for _, r := range b.all() {
				b.finish(r, trigger.Succeeded)
			}
		}
	}
	// Twice in one delivery.
	e = b.push("v2")
	p := trigger.Planned{Event: e, Runs: []trigger.Run{planned("a", trigger.Parallel)}}
	rec, err := b.Accept(t.Context(), trigger.Delivery{}, []trigger.Planned{p, p})
	if err != nil || !rec.Events[0].Runs[0].New || rec.Events[1].Runs[0].New {
		t.Errorf("twice in one delivery: %+v, %v", rec, err)
	}
	b.want("succeeded succeeded waiting")
}

func testSamePush(t *testing.T, b *bench) {
	e := b.push("v1")
	made(b, b.accept(e, planned("a", trigger.Queue)), 1)
	made(b, b.accept(b.again(e), planned("a", trigger.Queue)), 0)
	made(b, b.accept(b.again(e), planned("b", trigger.Queue)), 2) // another lane
	b.finish(b.claim(1, 2)[0], trigger.Succeeded)
	made(b, b.accept(b.again(e), planned("a", trigger.Queue)), 0)

	moved := b.push("v1", func(e *trigger.Event) { e.Digest = "sha256:moved" })
	made(b, b.accept(moved, planned("a", trigger.Queue)), 3)
	back := b.push("v1") // the tag is moved back
	made(b, b.accept(back, planned("a", trigger.Queue)), 4)
	made(b, b.accept(b.again(back), planned("a", trigger.Queue)), 0)
	retagged := b.push("v2", func(e *trigger.Event) { e.Digest = "sha256:v1" })
	made(b, b.accept(retagged, planned("a", trigger.Queue)), 5)
	unknown := b.push("v2", func(e *trigger.Event) { e.Digest = "" })
	made(b, b.accept(unknown, planned("a", trigger.Queue)), 6)
	made(b, b.accept(b.again(unknown), planned("a", trigger.Queue)), 7) // nothing tells them to be one push

	// Many hooks, two rules and two actions of one lane.
	runs := func() []trigger.Run {
		return []trigger.Run{
			planned("c", trigger.Queue), planned("c", trigger.Queue, func(r *trigger.Run) { r.Index = 1 }), planned("c", trigger.Queue, rule("other")),
		}
	}
	e = b.push("v3")
	made(b, b.accept(e, runs()...), 8, 9, 10)
	for range 5 {
		made(b, b.accept(b.again(e), runs()...), 0, 0, 0)
	}
}

func testRedeliveryAfterFailure(t *testing.T, b *bench) {
	e := b.push("v1")
	for id := range int64(3) {
		made(b, b.accept(e, planned("a", trigger.Queue)), id+1)
		b.finish(b.claim(id + 1)[0], trigger.Failed)
	}
	made(b, b.accept(b.again(e), planned("a", trigger.Queue)), 4)
	b.finish(b.claim(4)[0], trigger.Unknown)
	made(b, b.accept(e, planned("a", trigger.Queue)), 0) // it may have had its effect
	b.want("failed failed failed unknown")
}

func testNoDigest(t *testing.T, b *bench) {
	e := b.push("v1", func(e *trigger.Event) { e.Digest, e.ID = "", "" })
	var total int
	for range 6 {
		if b.accept(e, planned("a", trigger.Queue)).Runs[0].New {
			total++
		}
		e.ReceivedAt = e.ReceivedAt.Add(time.Second)
	}
	if total != 1 {
		t.Errorf("six hooks with one time made %d runs", total)
	}
	later := b.push("v1", func(e *trigger.Event) { e.Digest, e.ID = "", "" })
	made(b, b.accept(later, planned("a", trigger.Queue)), 2)
	nothing := b.push("v1", func(e *trigger.Event) { e.Digest, e.ID, e.OccurredAt = "", "", time.Time{} })
	made(b, b.accept(nothing, planned("a", trigger.Queue)), 3)
	made(b, b.accept(nothing, planned("a", trigger.Queue)), 4) // rather twice than not at all
}

// What was sent again makes a run once the first one does not count any more,
// also when all of that happens in one transaction.
func testRedeliveryAtOnce(t *testing.T, b *bench) {
	e := b.push("v1", func(e *trigger.Event) { e.Digest = "" })
	plan := []trigger.Planned{{Event: e, Runs: []trigger.Run{planned("a", trigger.Queue)}}}
	delivery, err := deliveryRow(trigger.Delivery{Source: "hub"})
	if err != nil {
		t.Fatal(err)
	}
	q := questionsOf(append(plan, plan...))
	q.deliveries = 2
	err = b.writer.doAsking(t.Context(), q, func(w *writer) error {
		first, err := w.accept(delivery, plan)
		if err != nil {
			return err
		}
		if err := w.isNew(first.Events[0].Runs[0].ID); err != nil {
			return err
		}
		second, err := w.accept(delivery, plan)
		if err == nil && !second.Events[0].Runs[0].New {
			t.Errorf("no new run: %+v", second.Events[0].Runs)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func testOtherRule(t *testing.T, b *bench) {
	e := b.push("v1")
	made(b, b.accept(e, planned("a", trigger.Queue)), 1)
	made(b, b.accept(e, planned("a", trigger.Queue), planned("a", trigger.Queue, rule("new"))), 0, 2)
	made(b, b.accept(b.again(e), planned("a", trigger.Queue), planned("a", trigger.Queue, rule("new"))), 0, 0)
	made(b, b.accept(e, planned("a", trigger.Queue, func(r *trigger.Run) { r.Index = 1 })), 3)
}

func testEventReason(t *testing.T, b *bench) {
	e := b.push("v1")
	b.accept(e, planned("a", trigger.Queue), planned("", "", follower))                     // event 1
	b.accept(e, planned("a", trigger.Queue), planned("", "", follower))                     // 2: all refused
	b.accept(e, planned("a", trigger.Queue), planned("b", trigger.Queue, rule("new")))      // 3: one refused
	b.accept(b.push("v0", func(e *trigger.Event) { e.OccurredAt = b.now.Add(-time.Hour) }), // 4: recorded as skipped
		planned("a", trigger.Queue, ordered))
	if _, err := b.Accept(t.Context(), trigger.Delivery{}, []trigger.Planned{{Event: b.push("x"), Reason: "rule web: tag"}}); err != nil { // 5
		t.Fatal(err)
	}
	events, err := b.Events(t.Context(), trigger.EventFilter{Limit: 9})
	if err != nil {
		t.Fatal(err)
	}
	want := map[int64]string{2: "run 1 already stands for this push", 5: "rule web: tag"}
	for _, e := range events {
		if e.Reason != want[e.ID] {
			t.Errorf("event %d: reason %q, want %q", e.ID, e.Reason, want[e.ID])
		}
	}
}

func testQueueMode(t *testing.T, b *bench) {
	for i := range 4 {
		b.accept(b.push(fmt.Sprint("v", i)), planned("a", trigger.Queue))
		b.accept(b.push(fmt.Sprint("v", i)), planned("b", trigger.Queue))
	}
	runs := b.claim(1, 2)
	b.claim()
	for _, next := range []int64{3, 5, 7} {
		b.finish(runs[0], trigger.Failed) // a failure lets the next one go on
		runs = append(b.claim(next), runs[1:]...)
		b.claim()
	}
	b.want("failed running failed waiting failed waiting running waiting")
}

func testLatestMode(t *testing.T, b *bench) {
	b.accept(b.push("v1"), planned("a", trigger.Latest))
	b.accept(b.push("v2"), planned("a", trigger.Latest))
	b.want("superseded waiting")
	b.reason(1, "superseded by run 2")
	r := b.claim(2)[0]
	b.accept(b.push("v3"), planned("a", trigger.Latest))
	b.accept(b.push("v4"), planned("a", trigger.Latest, rule("other"))) // the lane counts, not the rule
	b.accept(b.push("v5"), planned("b", trigger.Latest))
	b.want("superseded running superseded waiting waiting")
	b.claim(5)
	b.finish(r, trigger.Succeeded)
	b.claim(4)
	b.want("superseded succeeded superseded running running")
	if r := b.all()[2]; !r.FinishedAt.Equal(b.now.Add(-time.Second)) {
		t.Errorf("superseded at %s", r.FinishedAt)
	}
}

func testParallelMode(t *testing.T, b *bench) {
	for i := range 3 {
		b.accept(b.push(fmt.Sprint("v", i)), planned("a", trigger.Parallel))
	}
	e := b.push("v9")
	made(b, b.accept(e, planned("a", trigger.Parallel), planned("a", trigger.Parallel, rule("other"))), 4, 5)
	made(b, b.accept(b.again(e), planned("a", trigger.Parallel), planned("a", trigger.Parallel, rule("other"))), 0, 0)
	for _, r := range b.claim(1, 2, 3, 4, 5) {
		b.finish(r, trigger.Succeeded)
	}
	b.want("succeeded succeeded succeeded succeeded succeeded")
}

// A user may name one lane in rules of different modes.
func testMixedModes(t *testing.T, b *bench) {
	b.accept(b.push("v1"), planned("a", trigger.Queue))
	b.accept(b.push("v2"), planned("a", trigger.Parallel))
	runs := b.claim(1, 2)
	b.finish(runs[1], trigger.Succeeded)
	b.accept(b.push("v3"), planned("a", trigger.Queue)) // the newest has ended, but the lane is busy
	b.claim()
	b.accept(b.push("v4"), planned("a", trigger.Latest))
	b.accept(b.push("v5"), planned("a", trigger.Latest)) // supersedes the 4th, not what must be done each
	b.want("running succeeded waiting superseded waiting")
	b.finish(runs[0], trigger.Succeeded)
	b.finish(b.claim(3)[0], trigger.Succeeded)
	b.finish(b.claim(5)[0], trigger.Succeeded)
	b.want("succeeded succeeded succeeded superseded succeeded")
}

// The runs of one push do not supersede each other.
func testOnePushOneLane(t *testing.T, b *bench) {
	two := func() []trigger.Run {
		return []trigger.Run{planned("a", trigger.Latest), planned("a", trigger.Latest, func(r *trigger.Run) { r.Index = 1 })}
	}
	first := b.push("v1")
	made(b, b.accept(first, two()...), 1, 2)
	b.want("waiting waiting")
	made(b, b.accept(b.again(first), two()...), 0, 0)
	made(b, b.accept(b.push("v2"), two()...), 3, 4)
	b.want("superseded superseded waiting waiting")
	r := b.claim(3)[0]
	b.finish(r, trigger.Waiting) // its sibling is no newer push
	b.want("superseded superseded waiting waiting")
	b.finish(b.claim(3)[0], trigger.Succeeded)
	b.finish(b.claim(4)[0], trigger.Succeeded)
}

func testRetry(t *testing.T, b *bench) {
	b.accept(b.push("v1"), planned("a", trigger.Queue))
	b.accept(b.push("v2"), planned("a", trigger.Queue))
	r := b.claim(1)[0]
	later := b.now.Add(time.Minute)
	state, err := b.Finish(t.Context(), r, trigger.Result{State: trigger.Waiting, Reason: "503", At: b.now, NotBefore: later})
	if err != nil || state != trigger.Waiting {
		t.Fatal(state, err)
	}
	b.reason(1, "503")
	b.claim() // the head of the lane waits, and so does the next
	if _, next, err := b.Claim(t.Context(), later.Add(-1), upTo(10)); err != nil || !next.Equal(later) {
		t.Errorf("next is %s, %v, want %s", next, err, later)
	}
	b.now = later
	r = b.claim(1)[0]
	if r.Attempt != 2 || r.Reason != "" || !r.StartedAt.Equal(later) {
		t.Errorf("the second try: %+v", r)
	}
	b.finish(r, trigger.Succeeded)
	b.claim(2)
	_, tries, _, err := b.Run(t.Context(), 1)
	if err != nil || len(tries) != 2 || tries[0].State != trigger.Waiting || tries[0].Reason != "503" || tries[1].N != 2 || tries[1].State != trigger.Succeeded {
		t.Errorf("tries %+v, %v", tries, err)
	}
}

func testRetryLatest(t *testing.T, b *bench) {
	b.accept(b.push("v1"), planned("a", trigger.Latest))
	r := b.claim(1)[0]
	b.accept(b.push("v2"), planned("a", trigger.Latest))
	b.accept(b.push("v3"), planned("a", trigger.Latest))
	if state := b.finish(r, trigger.Waiting); state != trigger.Superseded {
		t.Errorf("finish gives %s", state)
	}
	b.want("superseded superseded waiting")
	b.reason(1, "superseded by run 3; before that: said waiting")

	r = b.claim(3)[0]
	b.finish(r, trigger.Waiting)
	b.want("superseded superseded waiting")
	b.accept(b.push("v4"), planned("a", trigger.Latest)) // while the third waits for its next try
	b.want("superseded superseded superseded waiting")
	b.claim(4)
}

func testOrder(t *testing.T, b *bench) {
	semver := func(r *trigger.Run) { r.Ordered, r.Order = true, trigger.OrderSemver }
	unordered := func(r *trigger.Run) { r.Ordered, r.Order = true, trigger.OrderAny }
	early := func(e *trigger.Event) { e.OccurredAt = e.OccurredAt.Add(-time.Hour) }

	b.accept(b.push("2.0.0"), planned("a", trigger.Latest, ordered))
	got := b.accept(b.push("1.0.0"), planned("a", trigger.Latest, ordered))
	made(b, got, 2)
	if want := "not after run 1: 1.0.0 is a lower version than 2.0.0"; got.Runs[0].Reason != want {
		t.Errorf("reason %q, want %q", got.Runs[0].Reason, want)
	}
	b.want("waiting skipped")
	if r := b.all()[1]; !r.FinishedAt.Equal(b.now) || r.Reason != got.Runs[0].Reason {
		t.Errorf("skipped: %+v", r)
	}
	b.finish(b.claim(1)[0], trigger.Succeeded)
	b.accept(b.push("latest", early), planned("a", trigger.Latest, ordered)) // 3: by time
	b.accept(b.push("1.5.0"), planned("a", trigger.Latest, ordered))         // 4: the skipped do not stand
	b.accept(b.push("latest", early), planned("a", trigger.Latest, semver))  // 5: not compared
	b.want("succeeded skipped skipped skipped waiting")
	b.finish(b.claim(5)[0], trigger.Failed)
	b.accept(b.push("1.9.0"), planned("a", trigger.Latest, ordered))   // 6: the failed do not stand either
	b.accept(b.push("1.9.0"), planned("a", trigger.Latest, unordered)) // 7
	b.accept(b.push("1.8.0"), planned("a", trigger.Latest))            // 8: no order in this lane
	b.want("succeeded skipped skipped skipped failed skipped superseded waiting")

	// The same push told with an older time is the same push, not an older one.
	e := b.push("3.0.0")
	made(b, b.accept(e, planned("b", trigger.Latest, ordered)), 9)
	e.OccurredAt = e.OccurredAt.Add(-time.Hour)
	made(b, b.accept(b.again(e), planned("b", trigger.Latest, ordered)), 0)
}

func testOtherRepository(t *testing.T, b *bench) {
	b.accept(b.push("2.0.0"), planned("a", trigger.Queue, ordered))
	b.accept(b.push("1.0.0", func(e *trigger.Event) { e.Repository = "shop/api" }), planned("a", trigger.Queue, ordered))
	b.accept(b.push("0.1.0", func(e *trigger.Event) { e.Registry = "mirror.example" }), planned("a", trigger.Queue, ordered))
	b.want("waiting waiting waiting")
	// What others have done in between does not make a step back one forward.
	b.accept(b.push("1.9.0"), planned("a", trigger.Queue, ordered))
	b.reason(4, "not after run 1: 1.9.0 is a lower version than 2.0.0")
	b.accept(b.push("2.1.0"), planned("a", trigger.Queue, ordered))
	b.want("waiting waiting waiting skipped waiting")
}

func testFailedTemplate(t *testing.T, b *bench) {
	failed := func(r *trigger.Run) {
		r.State, r.Reason, r.Spec, r.FinishedAt = trigger.Failed, "template: no such group", json.RawMessage("null"), b.now
	}
	b.accept(b.push("v1"), planned("a", trigger.Latest))
	e := b.push("v2")
	got := b.accept(e, planned("a", trigger.Latest, failed), planned("b", trigger.Queue, failed), planned("", "", follower))
	made(b, got, 2, 3, 0)
	if got.Runs[0].Reason != "template: no such group" {
		t.Errorf("admitted %+v", got.Runs[0])
	}
	b.want("waiting failed failed") // nothing superseded
	b.claim(1)
	b.reason(2, "template: no such group")
	made(b, b.accept(b.push("v3"), planned("b", trigger.Queue)), 4)
	b.claim(4) // its lane is not blocked
	made(b, b.accept(e, planned("b", trigger.Queue)), 5)
}

func testFollowers(t *testing.T, b *bench) {
	e := b.push("v1")
	made(b, b.accept(e, planned("a", trigger.Latest), planned("b", trigger.Queue, rule("other")), planned("", "", follower)), 1, 2, 3)
	runs := b.claim(1, 2)
	b.finish(runs[0], trigger.Succeeded)
	b.claim()
	b.finish(runs[1], trigger.Waiting) // to be tried again: not ended
	b.finish(b.claim(2)[0], trigger.Failed)
	f := b.claim(3)[0]
	if !f.After || f.Event.ID != e.ID {
		t.Errorf("the follower is %+v", f)
	}
	b.finish(f, trigger.Waiting)
	f = b.claim(3)[0]
	b.finish(f, trigger.Succeeded)

	// Superseded by a later event, in the lane or while to be tried again.
	b.accept(b.push("v2"), planned("a", trigger.Latest), planned("", "", follower)) // 4, 5
	b.accept(b.push("v3"), planned("a", trigger.Latest), planned("", "", follower)) // 6, 7
	runs = b.claim(5, 6)
	b.accept(b.push("v4"), planned("a", trigger.Latest)) // 8
	b.finish(runs[1], trigger.Waiting)
	b.want("succeeded failed succeeded superseded running superseded waiting waiting")
	b.claim(7, 8)

	// Followers of different events do not take turns, though they share a lane.
	made(b, b.accept(b.push("v5"), planned("c", trigger.Queue), planned("", "", follower)), 9, 10)
	made(b, b.accept(b.push("v6"), planned("d", trigger.Queue), planned("", "", follower)), 11, 12)
	for _, r := range b.claim(9, 11) {
		b.finish(r, trigger.Succeeded)
	}
	b.claim(10, 12)
}

func testFollowersOfNothing(t *testing.T, b *bench) {
	e := b.push("2.0.0")
	made(b, b.accept(e, planned("a", trigger.Queue), planned("", "", follower)), 1, 2)
	got := b.accept(e, planned("a", trigger.Queue), planned("", "", follower))
	made(b, got, 0, 0)
	if got.Runs[1].Reason != "there is no run to wait for" {
		t.Errorf("%+v", got.Runs[1])
	}
	made(b, b.accept(b.push("1.0.0"), planned("a", trigger.Queue, ordered), planned("", "", follower)), 3, 0) // only a skipped one
	// After a failure the whole is done again, with its follower.
	b.finish(b.claim(1)[0], trigger.Failed)
	b.finish(b.claim(2)[0], trigger.Succeeded)
	made(b, b.accept(e, planned("a", trigger.Queue), planned("", "", follower)), 4, 5)
	b.finish(b.claim(4)[0], trigger.Succeeded)
	b.claim(5)
}

func testRecover(t *testing.T, b *bench) {
	kind := func(name string) func(*trigger.Run) { return func(r *trigger.Run) { r.Kind = name } }
	b.accept(b.push("v1"), planned("call", trigger.Queue), planned("", "", follower)) // 1, 2
	b.accept(b.push("v2"), planned("set", trigger.Queue, kind("set")))                // 3
	b.accept(b.push("v3"), planned("newer", trigger.Latest, kind("set")))             // 4
	b.accept(b.push("v4"), planned("done", trigger.Queue), planned("", "", follower)) // 5, 6
	b.accept(b.push("v5"), planned("many", trigger.Parallel))                         // 7
	b.finish(b.claim(1, 3, 4, 5, 7)[3], trigger.Succeeded)
	b.claim(6)
	b.accept(b.push("v6"), planned("call", trigger.Queue))                // 8
	b.accept(b.push("v7"), planned("set", trigger.Queue, kind("set")))    // 9
	b.accept(b.push("v8"), planned("newer", trigger.Latest, kind("set"))) // 10
	b.reopen()
	b.want("running waiting running running succeeded running running waiting waiting waiting")

	b.now = b.now.Add(time.Minute)
	runs, err := b.Recover(t.Context(), b.now, func(kind string) bool { return kind == "set" })
	if err != nil {
		t.Fatal(err)
	}
	b.want("unknown waiting waiting superseded succeeded unknown unknown waiting waiting waiting")
	states := map[int64]trigger.State{1: trigger.Unknown, 3: trigger.Waiting, 4: trigger.Superseded, 6: trigger.Unknown, 7: trigger.Unknown}
	for _, r := range runs {
		if r.State != states[r.ID] {
			t.Errorf("run %d is given as %q, want %q", r.ID, r.State, states[r.ID])
		}
		b.reason(r.ID, r.Reason)
		delete(states, r.ID)
	}
	if len(states) > 0 {
		t.Errorf("not given: %v", states)
	}
	b.reason(3, "dockbell stopped, or lost its store, while this ran")
	b.reason(4, "superseded by run 10; before that: dockbell stopped, or lost its store, while this ran")
	again := b.claim(2, 3, 8, 10) // the lanes go on, and the follower of what is unknown
	if again[1].Attempt != 2 {
		t.Errorf("run 3 is at attempt %d", again[1].Attempt)
	}
	b.reopen()
	if runs, err := b.Recover(t.Context(), b.now, func(string) bool { return true }); err != nil || len(runs) != 4 {
		t.Errorf("a second crash: %d runs, %v", len(runs), err)
	}
	b.claim(2, 3, 8, 10)
	if runs := b.all(); runs[2].Attempt != 3 {
		t.Errorf("run 3 is at attempt %d", runs[2].Attempt)
	}
}

func testFencing(t *testing.T, b *bench) {
	b.accept(b.push("v1"), planned("a", trigger.Queue))
	b.accept(b.push("v2"), planned("a", trigger.Queue))
	first := b.claim(1)[0]
	b.finish(first, trigger.Waiting)
	if state := b.finish(first, trigger.Succeeded); state != trigger.Waiting {
		t.Errorf("a run that does not run gives %s", state)
	}
	second := b.claim(1)[0]
	if state := b.finish(first, trigger.Failed); state != trigger.Running {
		t.Errorf("an earlier try gives %s", state)
	}
	b.want("running waiting")
	b.finish(second, trigger.Succeeded)
	if state := b.finish(second, trigger.Failed); state != trigger.Succeeded {
		t.Errorf("a second result gives %s", state)
	}
	b.want("succeeded waiting")
	if _, tries, _, err := b.Run(t.Context(), 1); err != nil || len(tries) != 2 {
		t.Errorf("tries %+v, %v", tries, err)
	}
	waiting := b.all()[1]
	if state := b.finish(waiting, trigger.Succeeded); state != trigger.Waiting {
		t.Errorf("a run that was never claimed gives %s", state)
	}
	if _, err := b.Finish(t.Context(), trigger.Run{ID: 99, Attempt: 1}, trigger.Result{State: trigger.Succeeded}); err == nil {
		t.Error("a run that does not exist was finished")
	}
	b.claim(2)
}

// A claim that has to wait is for those who are ready when it is carried out.
func testReady(t *testing.T, b *bench) {
	for _, lane := range []string{"a", "b", "c"} {
		b.accept(b.push(lane), planned(lane, trigger.Queue))
	}
	var ready atomic.Int64
	var others sync.WaitGroup
	claimed := make(chan []trigger.Run, 1)
	err := b.writer.do(t.Context(), func(*writer) error {
		others.Go(func() {
			runs, _, err := b.Claim(t.Context(), b.now, func() int { return int(ready.Load()) })
			if err != nil {
				t.Error(err)
			}
			claimed <- runs
		})
		ready.Store(3) // nothing is carried out before this is
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	others.Wait()
	if got := ids(<-claimed); len(got) != 3 {
		t.Errorf("claimed %d, want all three", got)
	}
}

func testDue(t *testing.T, b *bench) {
	at := func(d time.Duration) func(*trigger.Run) {
		return func(r *trigger.Run) { r.NotBefore = b.now.Add(d) }
	}
	start := b.now
	b.accept(b.push("v1"), planned("a", trigger.Queue, at(time.Hour)))
	b.accept(b.push("v2"), planned("b", trigger.Queue, at(time.Minute)))
	b.accept(b.push("v3"), planned("b", trigger.Queue, at(0)))
	b.claim()
	runs, next, err := b.Claim(t.Context(), start, upTo(10))
	if want := b.all()[1].NotBefore; err != nil || len(runs) != 0 || !next.Equal(want) {
		t.Errorf("%d runs, next %s, %v, want none and %s", len(runs), next, err, want)
	}
	b.now = start.Add(2 * time.Hour)
	// The earliest first, and never more than asked for.
	runs, next, err = b.Claim(t.Context(), b.now, upTo(1))
	if err != nil || !slices.Equal(ids(runs), []int64{2}) || !next.Equal(b.now) {
		t.Errorf("%d, next %s, %v", ids(runs), next, err)
	}
	b.finish(runs[0], trigger.Succeeded)
	for _, r := range b.claim(1, 3) {
		b.finish(r, trigger.Succeeded)
	}
	if runs, next, err := b.Claim(t.Context(), b.now, upTo(1)); err != nil || len(runs) != 0 || !next.IsZero() {
		t.Errorf("an empty store: %d, %s, %v", len(runs), next, err)
	}
}

// A sender may claim any year, and a wait may be a very long one.
func testFarTimes(t *testing.T, b *bench) {
	far := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	b.accept(b.push("main", func(e *trigger.Event) { e.OccurredAt = far }), planned("a", trigger.Queue, ordered))
	b.accept(b.push("main2", func(e *trigger.Event) { e.OccurredAt = time.Date(3, 1, 1, 0, 0, 0, 0, time.UTC) }), planned("a", trigger.Queue, ordered))
	b.want("waiting skipped")
	if _, err := b.Finish(t.Context(), b.claim(1)[0], trigger.Result{State: trigger.Waiting, At: b.now, NotBefore: far}); err != nil {
		t.Fatal(err)
	}
	b.claim()
}

func testLists(t *testing.T, b *bench) {
	for i := range 10 {
		e := b.push(fmt.Sprint("v", i), func(e *trigger.Event) { e.Repository = []string{"shop/web", "shop/api"}[i%2] })
		b.accept(e, planned(fmt.Sprint("lane", i), trigger.Queue, rule([]string{"a", "b", "c"}[i%3])))
	}
	for i, r := range b.claim(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)[:6] {
		b.finish(r, []trigger.State{trigger.Succeeded, trigger.Failed, trigger.Unknown}[i%3])
	}
	tests := []struct {
		f    trigger.RunFilter
		want []int64
	}{
		{trigger.RunFilter{Limit: 3}, []int64{10, 9, 8}},
		{trigger.RunFilter{Limit: 3, Before: 8}, []int64{7, 6, 5}},
		{trigger.RunFilter{Limit: 3, Before: 1}, nil},
		{trigger.RunFilter{Limit: 9, Repository: "shop/api"}, []int64{10, 8, 6, 4, 2}},
		{trigger.RunFilter{Limit: 2, Repository: "shop/api", Before: 8}, []int64{6, 4}},
		{trigger.RunFilter{Limit: 9, Repository: "shop"}, nil},
		{trigger.RunFilter{Limit: 9, Rule: "b"}, []int64{8, 5, 2}},
		{trigger.RunFilter{Limit: 9, State: trigger.Succeeded}, []int64{4, 1}},
		{trigger.RunFilter{Limit: 9, State: trigger.Failed}, []int64{5, 2}},
		{trigger.RunFilter{Limit: 9, State: trigger.Unknown, Before: 6}, []int64{3}},
		{trigger.RunFilter{Limit: 2, State: trigger.Running}, []int64{10, 9}},
		{trigger.RunFilter{Limit: 9, State: trigger.Waiting}, nil},
		{trigger.RunFilter{Limit: 9, Event: 7}, []int64{7}},
		{trigger.RunFilter{Limit: 9, Rule: "a", State: trigger.Running, Repository: "shop/web", Event: 7}, []int64{7}},
		{trigger.RunFilter{Limit: 9, Rule: "a", State: trigger.Failed, Repository: "shop/web", Event: 7}, nil},
	}
	for _, tt := range tests {
		runs, err := b.Runs(t.Context(), tt.f)
		var got []int64
		for _, r := range runs {
			got = append(got, r.ID)
		}
		if err != nil || runs == nil || !slices.Equal(got, tt.want) {
			t.Errorf("%+v gives %d, %v, want %d", tt.f, got, err, tt.want)
		}
	}
	for _, tt := range []struct {
		f    trigger.EventFilter
		want []int64
	}{
		{trigger.EventFilter{Limit: 2}, []int64{10, 9}},
		{trigger.EventFilter{Limit: 2, Before: 3}, []int64{2, 1}},
		{trigger.EventFilter{Limit: 2, Repository: "shop/web"}, []int64{9, 7}},
		{trigger.EventFilter{Limit: 2, Repository: "shop/none"}, nil},
	} {
		events, err := b.Events(t.Context(), tt.f)
		var got []int64
		for _, e := range events {
			got = append(got, e.ID)
		}
		if err != nil || events == nil || !slices.Equal(got, tt.want) {
			t.Errorf("%+v gives %d, %v, want %d", tt.f, got, err, tt.want)
		}
	}
}

func testLive(t *testing.T, b *bench) {
	live := func(wantWaiting, wantRunning int) {
		t.Helper()
		waiting, running, err := b.Live(t.Context())
		if err != nil || waiting != wantWaiting || running != wantRunning {
			t.Errorf("live: %d waiting, %d running, %v, want %d and %d", waiting, running, err, wantWaiting, wantRunning)
		}
	}
	live(0, 0)
	e := b.accept(b.push("v1"), planned("a", trigger.Queue), planned("a", trigger.Queue, rule("other")), planned("", "", follower))
	live(3, 0)
	r := b.claim(1)[0]
	live(2, 1)
	b.finish(r, trigger.Failed)
	r = b.claim(2)[0]
	states, err := b.Outcomes(t.Context(), e.ID)
	if err != nil || !slices.Equal(states, []trigger.State{trigger.Failed, trigger.Running}) {
		t.Errorf("outcomes %v, %v", states, err)
	}
	b.finish(r, trigger.Succeeded)
	b.finish(b.claim(3)[0], trigger.Skipped)
	live(0, 0)
	states, err = b.Outcomes(t.Context(), e.ID)
	if err != nil || !slices.Equal(states, []trigger.State{trigger.Failed, trigger.Succeeded}) {
		t.Errorf("outcomes %v, %v", states, err)
	}
}

func testWake(t *testing.T, b *bench) {
	woken := func() bool {
		select {
		case <-b.Wake():
			return true
		default:
			return false
		}
	}
	// Replicas wake each other, and the tests of others do.
	needlessly := func() bool { return woken() && !b.shared }
	if needlessly() {
		t.Error("woken by nothing")
	}
	b.accept(b.push("v1"), planned("a", trigger.Queue), planned("", "", follower))
	if !woken() {
		t.Error("not woken by a run")
	}
	if _, err := b.Accept(t.Context(), trigger.Delivery{}, []trigger.Planned{{Event: b.push("v2")}}); err != nil || needlessly() {
		t.Error("woken by an event without runs", err)
	}
	r := b.claim(1)[0]
	b.accept(b.push("v3"), planned("a", trigger.Queue))
	if needlessly() {
		t.Error("woken by a run that is not due")
	}
	b.finish(r, trigger.Waiting)
	if !woken() {
		t.Error("not woken by a retry")
	}
	b.finish(b.claim(1)[0], trigger.Succeeded)
	if !woken() {
		t.Error("not woken by the next of the lane")
	}
}

// Many accept and many work: nothing is lost, nothing is done twice at once.
func testConcurrent(t *testing.T, b *bench) {
	const senders, each, lanes = 64, 6, 8
	var busy [lanes]atomic.Int32
	var accepted, ended, claims atomic.Int64
	var wg, sending sync.WaitGroup
	start := b.now
	for s := range senders {
		sending.Add(1)
		wg.Go(func() {
			defer sending.Done()
			for i := range each {
				e := trigger.Event{
					Image: trigger.Image{Repository: "shop/web", Tag: "v1", Digest: fmt.Sprint("sha256:", s, i)},
					ID:    fmt.Sprint(s, "/", i), Source: "hub", OccurredAt: start,
				}
				r := planned(fmt.Sprint("lane", (s+i)%lanes), trigger.Queue, func(r *trigger.Run) { r.Index = (s + i) % lanes })
				rec, err := b.Accept(t.Context(), trigger.Delivery{Body: []byte{}}, []trigger.Planned{{Event: e, Runs: []trigger.Run{r}}})
				if err != nil || !rec.Events[0].Runs[0].New {
					t.Errorf("accept: %+v, %v", rec, err)
					return
				}
				accepted.Add(1)
			}
		})
	}
	allSent := make(chan struct{})
	go func() { sending.Wait(); close(allSent) }()
	for range 8 {
		wg.Go(func() {
			for {
				sent := false
				select {
				case <-allSent:
					sent = true
				default:
				}
				runs, _, err := b.Claim(t.Context(), start.Add(time.Hour), upTo(3))
				if err != nil {
					t.Error(err)
					return
				}
				for _, r := range runs {
					claims.Add(1)
					if busy[r.Index].Add(1) != 1 {
						t.Errorf("two at once in lane %d", r.Index)
					}
					busy[r.Index].Add(-1)
					if _, err := b.Finish(t.Context(), r, trigger.Result{State: trigger.Succeeded, At: start}); err != nil {
						t.Error(err)
					}
					ended.Add(1)
				}
				if sent && ended.Load() >= accepted.Load() {
					return
				}
				if t.Failed() {
					return
				}
			}
		})
	}
	wg.Wait()
	runs := b.all()
	if len(runs) != senders*each || claims.Load() != senders*each {
		t.Errorf("%d runs and %d claims of %d", len(runs), claims.Load(), senders*each)
	}
	for _, r := range runs {
		if r.State != trigger.Succeeded || r.Attempt != 1 {
			t.Fatalf("run %d: %s after %d tries", r.ID, r.State, r.Attempt)
		}
	}
}
