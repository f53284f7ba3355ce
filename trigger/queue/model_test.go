package queue

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/store"
)

// Whatever is pushed, whatever actions do, however windows close, the store
// fails and the queue is stopped: a run begins only when it may, and in the end
// each has the outcome that its last try calls for, and was told of once.
func TestModel(t *testing.T) {
	dir := t.TempDir()
	empty := emptyStore(t, dir)
	n := 0
	check(t, 15, func(rt *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n, ".db"))
		if err := os.WriteFile(path, empty, 0o600); err != nil {
			rt.Fatal(err)
		}
		rapid.SyncTest(rt, func(rt *rapid.T) {
			w := newWorld(t, path)
			w.begin(rt, time.Minute)
			defer w.end(rt)
			rt.Repeat(map[string]func(*rapid.T){
				"push": w.push, "push another": w.push, "push a third": w.push, "let time pass": w.pass, "close a window": w.closeWindow,
				"break the store": w.breakStore, "mend the store": w.mendStore, "release what is held": w.releaseAll, "restart": w.restart,
				"": w.right,
			})
			w.drain(rt)
		})
	})
}

// check tries a property as often as -rapid.checks says, or else n times; with
// DOCKBELL_SOAK=1 fifty times that.
func check(t *testing.T, n int, property func(*rapid.T)) {
	t.Helper()
	checks, given := flag.Lookup("rapid.checks"), false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == checks.Name })
	if os.Getenv("DOCKBELL_SOAK") == "1" {
		n *= 50
	}
	if before := checks.Value.String(); !given {
		if err := checks.Value.Set(strconv.Itoa(n)); err != nil {
			t.Fatal(err)
		}
		defer checks.Value.Set(before)
	}
	rapid.Check(t, property)
}

// emptyStore is the file of a store that has just been made: to copy it is
// faster than to make each.
func emptyStore(t *testing.T, dir string) []byte {
	path := filepath.Join(dir, "empty.db")
	s, err := store.Open(t.Context(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// told are the outcomes that people are told of.
var told = []string{"failed", "rolled-back", "unknown", "superseded"}

// lanes are where pushes go, each with how its runs follow each other.
var lanes = []struct {
	name    string
	mode    trigger.Mode
	ordered bool
}{
	{"newest", trigger.Latest, true},
	{"each in turn", trigger.Queue, false},
	{"each in order", trigger.Queue, true},
	{"all at once", trigger.Parallel, false},
}

// script is what the actions of a run do, try by try; then they succeed.
type script struct {
	Tries []string      `json:"tries"`
	Takes time.Duration `json:"takes"` // nothing shortens that
}

// world is a queue, with what it must heed and what it has done so far.
type world struct {
	*rig
	accepted []int64
	pushes   int
	broken   bool        // the store fails
	stops    []time.Time // of the queue

	mu     sync.Mutex
	up     bool
	wrong  string // the first thing that was
	begun  map[int64][]begin
	busy   map[string]int64         // by lane
	landed map[string]trigger.Event // what ordered lanes hold
	opens  map[string]time.Time     // lanes whose window is closed until then
}

func newWorld(t *testing.T, path string) *world {
	w := &world{begun: map[int64][]begin{}, busy: map[string]int64{}, landed: map[string]trigger.Event{}, opens: map[string]time.Time{}}
	w.rig = &rig{T: t, path: path, do: w.try, gate: w.window, tell: w.notify}
	return w
}

// begin opens the store and starts the queue.
func (w *world) begin(t *rapid.T, grace time.Duration) {
	s, err := store.Open(t.Context(), "sqlite:"+w.path)
	if err != nil {
		t.Fatal(err)
	}
	w.store = &faulty{Store: s}
	if err := s.TellOf(t.Context(), told); err != nil {
		t.Fatal(err)
	}
	w.fail()
	w.set(func() { w.up = true })
	w.start(grace)
}

// end stops the queue and closes the store, as the end of the program does.
func (w *world) end(t *rapid.T) {
	w.stop()
	<-w.stopped
	w.set(func() { w.up = false })
	w.stops = append(w.stops, time.Now())
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// errDisk is what a store says that fails.
var errDisk = errors.New("disk full")

// fail makes the store fail, or work again.
func (w *world) fail() {
	var err *error
	if w.broken {
		err = &errDisk
	}
	w.store.claim.Store(err)
	w.store.finish.Store(err)
}

// window is the gate of the queue.
func (w *world) window(r trigger.Run, now time.Time) (time.Time, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if opens := w.opens[r.Lane]; now.Before(opens) {
		return opens, "outside its window"
	}
	return time.Time{}, ""
}

// notify tells one person of each outcome. Some cannot be told at once, or not
// at all.
func (w *world) notify(told []trigger.Notice, now time.Time) (runs []trigger.Run) {
	for _, n := range told {
		runs = append(runs, w.message(n.Run, now))
	}
	return runs
}

func (w *world) message(r trigger.Run, now time.Time) trigger.Run {
	if r.Tells != 0 {
		w.set(func() { w.wrong = fmt.Sprintf("run %d tells of %d, and is to be told of", r.ID, r.Tells) })
	}
	s := script{Tries: [][]string{{"ok"}, {"retry", "retry"}, {"fail"}}[r.ID%3]}
	return trigger.Run{
		Rule: "notify", Kind: "call", Lane: "notify", Mode: trigger.Queue, Tells: r.ID, Spec: s.spec(), Attempts: 3, Timeout: timeout, CreatedAt: now, NotBefore: now,
	}
}

func (s script) spec() json.RawMessage {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // words and a number
	}
	return text
}

// timeout is that of each try.
const timeout = 10 * time.Second

// try is what all actions do.
func (w *world) try(ctx context.Context, r trigger.Run, log io.Writer) error {
	var s script
	if err := json.Unmarshal(r.Spec, &s); err != nil {
		return err
	}
	b := begin{run: r, what: "ok", at: time.Now(), stops: len(w.stops)}
	switch {
	case r.Begun != "":
		b.what = "waits"
	case r.Attempt <= len(s.Tries):
		b.what = s.Tries[r.Attempt-1]
	}
	w.set(func() {
		if why := w.refuses(b); why != "" && w.wrong == "" {
			w.wrong = fmt.Sprintf("try %d of run %d begins %s", r.Attempt, r.ID, why)
		}
		w.begun[r.ID] = append(w.begun[r.ID], b)
		if r.Mode != trigger.Parallel {
			w.busy[r.Lane] = r.ID
		}
	})
	defer w.set(func() { delete(w.busy, r.Lane) })
	time.Sleep(s.Takes)
	err := b.do(ctx)
	if err == nil && r.Ordered {
		w.set(func() { w.landed[r.Lane] = r.Event })
	}
	return err
}

// begin is a try that has begun.
type begin struct {
	run   trigger.Run
	what  string
	at    time.Time
	stops int // how often the queue had been stopped
}

// whats are what a try may do.
var whats = []string{"ok", "retry", "fail", "uncertain", "hang", "skip", "hold", "undone", "panic", "stubborn", "waits"}

func (b begin) do(ctx context.Context) error {
	switch b.what {
	case "retry":
		return trigger.Retry(errors.New("503"))
	case "fail":
		return errors.New("400")
	case "uncertain":
		return trigger.Uncertain(errors.New("no answer"))
	case "hang":
		<-ctx.Done()
		return ctx.Err()
	case "skip":
		return trigger.Skip("it runs already")
	case "hold", "undone":
		return &trigger.HoldError{Err: errors.New("crash loop"), Undone: b.what == "undone"}
	case "panic":
		panic("ouch")
	case "stubborn":
		<-ctx.Done()
	case "waits":
		select {
		case <-trigger.OnlyWaits(ctx, "a rollout").Done():
			return ctx.Err()
		case <-time.After(2 * timeout):
		}
	}
	return nil
}

// refuses says why a try may not begin, or "".
func (w *world) refuses(b begin) string {
	r, before := b.run, w.begun[b.run.ID]
	switch other := w.busy[r.Lane]; {
	case !w.up:
		return "while the queue is stopped"
	case other != 0 && r.Mode != trigger.Parallel:
		return fmt.Sprintf("while run %d of its lane is in the middle", other)
	case b.at.Before(w.opens[r.Lane]) && r.Begun == "":
		return "while its window is closed"
	}
	if holds, ok := w.landed[r.Lane]; ok && r.Ordered && holds.Digest != r.Event.Digest {
		if why := trigger.Backwards(release(holds), release(r.Event), r.Order); why != "" {
			return "a step back: " + why
		}
	}
	if len(before) == 0 {
		return ""
	}
	last := before[len(before)-1]
	stopped := b.stops > last.stops // what came of the last try may be lost
	switch {
	case r.Attempt <= last.run.Attempt:
		return fmt.Sprintf("after try %d", last.run.Attempt)
	case r.Begun != "":
		return "" // it only goes on waiting
	case last.what != "retry" && !(r.Kind == "set" && (last.what == "uncertain" || stopped)):
		return fmt.Sprintf("again, after it did %q", last.what)
	case r.Attempts > 0 && len(before) >= r.Attempts+b.stops-before[0].stops:
		return fmt.Sprintf("although %d are allowed", r.Attempts)
	case r.Deadline > 0 && b.at.Sub(before[0].at) > r.Deadline:
		return fmt.Sprintf("%s after the first one, and %s is its deadline", b.at.Sub(before[0].at), r.Deadline)
	}
	return ""
}

func release(e trigger.Event) trigger.Release { return trigger.Release{Tag: e.Tag, At: e.Time()} }

// right fails when something was wrong.
func (w *world) right(t *rapid.T) {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wrong != "" {
		t.Fatal(w.wrong)
	}
}

// push is a push with one run.
type push struct {
	event trigger.Event
	run   trigger.Run
}

// GoString is how a push is printed when a check fails.
func (p push) GoString() string {
	e, r := p.event, p.run
	text := fmt.Sprintf("%s of %s: %s %s in lane %q", e.Digest, e.OccurredAt.Format(time.TimeOnly), r.Kind, r.Spec, r.Lane)
	if r.Attempts > 0 {
		text += fmt.Sprintf(", %d attempts", r.Attempts)
	}
	if r.Deadline > 0 {
		text += fmt.Sprintf(", deadline %s", r.Deadline)
	}
	if r.HoldFailed {
		text += ", held when it fails"
	}
	return text
}

func drawPush(t *rapid.T) push {
	lane, now := rapid.SampledFrom(lanes).Draw(t, "lane"), time.Now()
	s := script{
		Tries: rapid.SliceOfN(rapid.SampledFrom(whats), 0, 3).Draw(t, "tries"),
		Takes: rapid.SampledFrom([]time.Duration{0, 0, time.Second, 4 * time.Second}).Draw(t, "takes"),
	}
	late := rapid.SampledFrom([]time.Duration{0, 0, 0, 10 * time.Second}).Draw(t, "late by")
	return push{
		event: trigger.Event{
			Image:  trigger.Image{Repository: "shop/web", Tag: "main", Digest: rapid.SampledFrom([]string{"sha256:a", "sha256:b", "sha256:c"}).Draw(t, "digest")},
			Source: "hub", Action: trigger.Push, OccurredAt: now.Add(-late), ReceivedAt: now,
		},
		run: trigger.Run{
			Rule: "rule", Kind: rapid.SampledFrom([]string{"set", "call"}).Draw(t, "kind"), Lane: lane.name, Mode: lane.mode, Ordered: lane.ordered,
			Order: trigger.OrderTime, Spec: s.spec(), Timeout: timeout, CreatedAt: now, NotBefore: now,
			Attempts:   rapid.SampledFrom([]int{0, 2, 1}).Draw(t, "attempts"),
			Deadline:   rapid.SampledFrom([]time.Duration{0, 0, 5 * time.Second}).Draw(t, "deadline"),
			HoldFailed: rapid.SampledFrom([]bool{false, false, true}).Draw(t, "hold when failed"),
		},
	}
}

func (w *world) push(t *rapid.T) {
	p := rapid.Custom(drawPush).Draw(t, "push")
	w.pushes++
	p.event.ID = fmt.Sprint(w.pushes)
	d := trigger.Delivery{Source: "hub", ReceivedAt: p.event.ReceivedAt}
	got, err := w.store.Accept(t.Context(), d, []trigger.Planned{{Event: p.event, Runs: []trigger.Run{p.run}}})
	if err != nil {
		t.Fatal(err)
	}
	if a := got.Events[0].Runs[0]; a.New {
		w.accepted = append(w.accepted, a.ID)
		t.Logf("is run %d", a.ID)
	}
}

func (w *world) pass(t *rapid.T) {
	time.Sleep(rapid.SampledFrom([]time.Duration{time.Second, 3 * time.Second, 20 * time.Second}).Draw(t, "passes"))
}

func (w *world) breakStore(*rapid.T) {
	w.broken = true
	w.fail()
}

func (w *world) mendStore(*rapid.T) {
	w.broken = false
	w.fail()
}

func (w *world) closeWindow(t *rapid.T) {
	lane := rapid.SampledFrom(lanes).Draw(t, "of").name
	until := time.Now().Add(rapid.SampledFrom([]time.Duration{2 * time.Second, 30 * time.Second}).Draw(t, "for"))
	w.set(func() { w.opens[lane] = until })
}

// restart stops the queue, with time to come to an end or without, and starts
// it again later.
func (w *world) restart(t *rapid.T) {
	w.end(t)
	time.Sleep(rapid.SampledFrom([]time.Duration{0, 10 * time.Second}).Draw(t, "later"))
	w.begin(t, rapid.SampledFrom([]time.Duration{time.Minute, time.Second, 0}).Draw(t, "grace of the next"))
}

// releaseAll lets go of all that is held.
func (w *world) releaseAll(t *rapid.T) {
	holds, err := w.store.Holds(t.Context(), false)
	for _, h := range holds {
		if err == nil {
			err = w.store.Release(t.Context(), h.ID, "ann", time.Now())
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// drain lets everything come to its end, and looks at what came of it.
func (w *world) drain(t *rapid.T) {
	w.mendStore(t)
	for range 100 {
		time.Sleep(tellEvery)
		w.right(t)
		waiting, running, err := w.store.Live(t.Context())
		notices, err2 := w.store.Notices(t.Context(), 1)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if waiting+running+len(notices) == 0 {
			w.outcomes(t)
			return
		}
	}
	runs, err := w.store.Runs(t.Context(), trigger.RunFilter{Limit: 1000})
	for _, r := range runs {
		if !r.State.Ended() {
			t.Logf("run %d is %s (%s), not before %s", r.ID, r.State, r.Reason, r.NotBefore)
		}
	}
	t.Fatal("runs do not end", err)
}

// outcomes compares what is on disk with what the tries did.
func (w *world) outcomes(t *rapid.T) {
	runs, err := w.store.Runs(t.Context(), trigger.RunFilter{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	tells, ids := map[int64]int{}, map[int64]bool{}
	for _, r := range runs {
		tells[r.Tells]++
		ids[r.ID] = true
	}
	for _, id := range w.accepted {
		if !ids[id] {
			t.Fatalf("run %d is lost", id)
		}
	}
	for _, r := range runs {
		want := 0
		if r.Tells == 0 && slices.Contains(told, string(r.State)) {
			want = 1
		}
		if tells[r.ID] != want {
			t.Fatalf("%d notifications of run %d, which is %s, want %d", tells[r.ID], r.ID, r.State, want)
		}
		_, tries, _, err := w.store.Run(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		w.compare(t, r, tries)
	}
}

// compare holds the tries of a run against what they did.
func (w *world) compare(t *rapid.T, r trigger.Run, tries []trigger.Attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	recorded := map[int]trigger.Attempt{}
	for _, a := range tries {
		recorded[a.N] = a
	}
	for _, b := range w.begun[r.ID] {
		a, ok := recorded[b.run.Attempt]
		stopped := slices.ContainsFunc(w.stops, func(at time.Time) bool { return !at.Before(b.at) && !at.After(a.FinishedAt) })
		if wants := b.wants(stopped); !ok || !slices.Contains(wants, a.State) {
			t.Fatalf("try %d of run %d (%s) did %q and is recorded as %s (%s), want %s", b.run.Attempt, r.ID, r.Kind, b.what, a.State, a.Reason, wants)
		}
	}
	if n := len(tries); n > 0 && tries[n-1].State != trigger.Waiting && tries[n-1].State != r.State {
		t.Fatalf("run %d is %s, and its last try %s", r.ID, r.State, tries[n-1].State)
	}
}

// wants gives what a try may be recorded as; stopped is that the queue was
// stopped before that.
func (b begin) wants(stopped bool) (all []trigger.State) {
	again := func() {
		if b.run.Attempts == 0 || b.run.Attempt < b.run.Attempts {
			all = append(all, trigger.Waiting)
		}
		if b.run.Attempts > 0 && b.run.Attempt >= b.run.Attempts || b.run.Deadline > 0 {
			all = append(all, trigger.Failed)
		}
	}
	switch b.what {
	case "ok", "stubborn", "waits":
		all = append(all, trigger.Succeeded)
	case "fail", "hold", "panic", "hang":
		all = append(all, trigger.Failed)
	case "undone":
		all = append(all, trigger.RolledBack)
	case "skip":
		all = append(all, trigger.Skipped)
	case "retry":
		again()
	case "uncertain":
		if b.run.Kind == "set" {
			again()
		} else {
			all = append(all, trigger.Unknown)
		}
	}
	if stopped && (b.run.Kind == "set" || b.what == "waits") {
		all = append(all, trigger.Waiting)
	}
	if stopped && b.run.Kind != "set" { // also of one that waits, where that could not be kept
		all = append(all, trigger.Unknown)
	}
	return all
}
