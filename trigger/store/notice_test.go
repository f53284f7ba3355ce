package store

import (
	"fmt"
	"testing"

	"github.com/dockbell/dockbell/trigger"
)

// People are told of each outcome once, and not of how that went.
func TestNotices(t *testing.T) { onEach(t, testNotices) }

func testNotices(t *testing.T, b *bench) {
	if err := b.TellOf(t.Context(), []string{"failed", "superseded", "approval", "expired"}); err != nil {
		t.Fatal(err)
	}
	b.accept(b.push("v1"), planned("a", trigger.Latest))
	b.accept(b.push("v2"), planned("a", trigger.Latest, b.needs(1)))
	b.accept(b.push("v3"), planned("b", trigger.Latest))
	b.accept(b.push("v4"), planned("c", trigger.Latest))
	runs := b.claim(3, 4)
	b.finish(runs[0], trigger.Failed)
	b.finish(runs[1], trigger.Succeeded)
	notices, err := b.Notices(t.Context(), 10)
	var got []string
	for _, n := range notices {
		got = append(got, fmt.Sprintf("%d %s %s: %s", n.Run.ID, n.Run.State, n.Run.Event.Tag, n.Run.Reason))
	}
	want := "[1 superseded v1: superseded by run 2 2 waiting v2: waits for 1 approvals 3 failed v3: said failed]"
	if err != nil || fmt.Sprint(got) != want {
		t.Fatalf("notices %s, %v\nwant %s", got, err, want)
	}
	b.hold("tell", "") // holds are for deploys
	tell := planned("tell", trigger.Queue, func(r *trigger.Run) { r.Tells, r.NotBefore = 3, b.now })
	for range 2 {
		if err := b.Tell(t.Context(), notices[2:], []trigger.Run{tell}); err != nil {
			t.Fatal(err)
		}
	}
	r := b.claim(5)[0]
	if r.Tells != 3 || r.Event.Tag != "v3" {
		t.Errorf("%+v", r)
	}
	b.finish(r, trigger.Failed)
	if notices, err := b.Notices(t.Context(), 10); err != nil || len(notices) != 2 {
		t.Errorf("left: %+v, %v", notices, err)
	}
	b.reopen()
	if notices, err := b.Notices(t.Context(), 1); err != nil || len(notices) != 1 || notices[0].Run.ID != 1 {
		t.Errorf("after opening again: %+v, %v", notices, err)
	}
}

// A notice says what stood in the place before: what has succeeded there last.
func TestNoticeSaysWhatWasThere(t *testing.T) { onEach(t, testNoticeSaysWhatWasThere) }

func testNoticeSaysWhatWasThere(t *testing.T, b *bench) {
	if err := b.TellOf(t.Context(), []string{"succeeded", "failed"}); err != nil {
		t.Fatal(err)
	}
	id := int64(0)
	run := func(lane, tag string, state trigger.State) {
		id++
		b.accept(b.push(tag), planned(lane, trigger.Latest))
		b.finish(b.claim(id)[0], state)
	}
	run("a", "v1", trigger.Succeeded)
	run("b", "v2", trigger.Succeeded)
	run("a", "v3", trigger.Failed)
	run("a", "v4", trigger.Succeeded)
	run("a", "v5", trigger.Succeeded)
	notices, err := b.Notices(t.Context(), 10)
	var got []string
	for _, n := range notices {
		got = append(got, fmt.Sprintf("%s after %q", n.Run.Event.Tag, n.From.Tag))
	}
	if want := `[v1 after "" v2 after "" v3 after "v1" v4 after "v1" v5 after "v4"]`; err != nil || fmt.Sprint(got) != want {
		t.Errorf("%s, %v\nwant %s", got, err, want)
	}
	if from := notices[4].From; from != notices[3].Run.Event.Image {
		t.Errorf("from %+v", from)
	}
}

// Several outcomes are told together by whoever is first; another replica that
// has read one of them tells nobody of any.
func TestTellTogether(t *testing.T) { onEach(t, testTellTogether) }

func testTellTogether(t *testing.T, b *bench) {
	if err := b.TellOf(t.Context(), []string{"failed"}); err != nil {
		t.Fatal(err)
	}
	for id := range int64(4) {
		b.accept(b.push(fmt.Sprint("v", id)), planned("a", trigger.Latest))
		b.finish(b.claim(id + 1)[0], trigger.Failed)
	}
	notices, err := b.Notices(t.Context(), 10)
	if err != nil || len(notices) != 4 {
		t.Fatalf("%+v, %v", notices, err)
	}
	summary := planned("tell", trigger.Queue, func(r *trigger.Run) { r.Tells, r.NotBefore = 2, b.now })
	late := planned("tell", trigger.Queue, func(r *trigger.Run) { r.Tells, r.NotBefore = 3, b.now })
	for _, tell := range []struct {
		of   []trigger.Notice
		runs []trigger.Run
		left int
	}{{notices[1:3], []trigger.Run{summary}, 2}, {notices[2:], []trigger.Run{late}, 2}, {notices[3:], nil, 1}} {
		if err := b.Tell(t.Context(), tell.of, tell.runs); err != nil {
			t.Fatal(err)
		}
		if left, err := b.Notices(t.Context(), 10); err != nil || len(left) != tell.left {
			t.Errorf("left: %+v, %v", left, err)
		}
	}
	if r := b.claim(5)[0]; r.Tells != 2 || r.Event.Tag != "v1" {
		t.Errorf("%+v", r)
	}
}

// A rehearsal says what would be, and leaves nothing.
func TestRehearse(t *testing.T) { onEach(t, testRehearse) }

func testRehearse(t *testing.T, b *bench) {
	e := b.push("v1")
	b.accept(e, planned("a", trigger.Latest))
	plan := func(e trigger.Event, force bool) []trigger.Planned {
		r, other := planned("a", trigger.Latest), planned("b", trigger.Latest, rule("other"))
		r.CreatedAt, r.NotBefore, other.CreatedAt, other.NotBefore = b.now, b.now, b.now, b.now
		return []trigger.Planned{{Event: e, Runs: []trigger.Run{r, other}, Force: force}}
	}
	for _, tt := range []struct {
		name  string
		event trigger.Event
		force bool
		first string
	}{
		{"the same event", e, false, "run 1 already stands for this push"},
		{"the same push", b.again(e), false, "run 1 already stands for this push"},
		{"forced", e, true, ""},
		{"another push", b.push("v2"), false, ""},
	} {
		rec, err := b.Rehearse(t.Context(), trigger.Delivery{Source: "hub"}, plan(tt.event, tt.force))
		if err != nil {
			t.Fatal(err)
		}
		runs := rec.Events[0].Runs
		if runs[0].New != (tt.first == "") || runs[0].Reason != tt.first || !runs[1].New {
			t.Errorf("%s: %+v", tt.name, runs)
		}
	}
	b.want("waiting")
	if events, err := b.Events(t.Context(), trigger.EventFilter{Limit: 10}); err != nil || len(events) != 1 {
		t.Errorf("%+v, %v", events, err)
	}
	rec, err := b.Accept(t.Context(), trigger.Delivery{Source: "hub", Header: map[string][]string{"A": {"b"}}, Body: []byte("body")}, plan(e, true))
	if err != nil || !rec.Events[0].Runs[0].New {
		t.Fatalf("forced: %+v, %v", rec, err)
	}
	b.want("superseded waiting waiting")
	d, ok, err := b.Delivery(t.Context(), rec.Delivery)
	if err != nil || !ok || string(d.Body) != "body" || d.Header["A"][0] != "b" || d.Source != "hub" {
		t.Errorf("%+v, %t, %v", d, ok, err)
	}
	record, ok, err := b.Event(t.Context(), rec.Events[0].ID)
	if err != nil || !ok || record.Tag != "v1" || len(record.Runs) != 2 || record.Delivery != rec.Delivery {
		t.Errorf("%+v, %t, %v", record, ok, err)
	}
	if _, ok, err := b.Delivery(t.Context(), 99); ok || err != nil {
		t.Errorf("a delivery that is not there: %t, %v", ok, err)
	}
	if _, ok, err := b.Event(t.Context(), 99); ok || err != nil {
		t.Errorf("an event that is not there: %t, %v", ok, err)
	}
}
