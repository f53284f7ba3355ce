package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// needs makes a run wait for people until a day has passed.
func (b *bench) needs(n int, by ...string) func(*trigger.Run) {
	return func(r *trigger.Run) {
		r.Approvals, r.Approvers, r.ApproveBy = n, by, b.now.Add(24*time.Hour)
		r.Reason = fmt.Sprintf("waits for %d approvals", n)
	}
}

func yes(by, tag string) trigger.Vote {
	return trigger.Vote{By: by, Yes: true, Digest: "sha256:" + tag}
}

func (b *bench) vote(id int64, v trigger.Vote) {
	b.Helper()
	if err := b.Vote(b.Context(), id, v, b.now); err != nil {
		b.Fatal(err)
	}
}

func TestApprove(t *testing.T) { onEach(t, testApprove) }

func testApprove(t *testing.T, b *bench) {
	i := interventions{t, b, b.Store}
	b.accept(b.push("v1"), planned("a", trigger.Latest, b.needs(2, "anna", "bob", "carl")))
	b.claim()
	for _, tt := range []struct {
		vote trigger.Vote
		want string
	}{
		{yes("mallory", "v1"), "mallory may not decide about run 1; its rule names anna, bob, carl"},
		{yes("anna", "v0"), "run 1 is for sha256:v1, not for sha256:v0"},
		{trigger.Vote{By: "anna", Yes: true}, "run 1 is for sha256:v1, not for no known digest"},
	} {
		i.refused(b.Vote(t.Context(), 1, tt.vote, b.now), tt.want)
	}
	b.vote(1, yes("anna", "v1"))
	i.refused(b.Vote(t.Context(), 1, yes("anna", "v1"), b.now), "anna has approved run 1 already")
	b.claim()
	b.reopen() // approvals are kept
	b.vote(1, yes("bob", "v1"))
	r := b.claim(1)[0]
	if r.Approved != 2 || r.Approvals != 2 || len(r.Approvers) != 3 {
		t.Errorf("%+v", r)
	}
	i.s = b.Store
	i.refused(b.Vote(t.Context(), 1, yes("carl", "v1"), b.now), "run 1 is running")
	b.finish(r, trigger.Failed)
	if err := b.Retry(t.Context(), 1, "tried again by anna", b.now); err != nil {
		t.Fatal(err)
	}
	b.claim(1) // it was approved

	notes, err := b.Notes(t.Context(), 1)
	var texts []string
	for _, n := range notes {
		texts = append(texts, n.Text)
	}
	if want := "[waits for 2 approvals approved by anna (1 of 2) approved by bob (2 of 2) tried again by anna]"; err != nil || fmt.Sprint(texts) != want {
		t.Errorf("notes %s, %v, want %s", texts, err, want)
	}
}

// What is approved is one push: the next one needs approvals of its own.
func TestApproveNotTheNext(t *testing.T) { onEach(t, testApproveNotTheNext) }

func testApproveNotTheNext(t *testing.T, b *bench) {
	b.accept(b.push("v1"), planned("a", trigger.Latest, b.needs(2)))
	b.vote(1, yes("anna", "v1"))
	b.accept(b.push("v2"), planned("a", trigger.Latest, b.needs(2)))
	b.want("superseded waiting")
	interventions{t, b, b.Store}.refused(b.Vote(t.Context(), 1, yes("bob", "v1"), b.now), "run 1 is superseded")
	b.vote(2, yes("anna", "v2"))
	b.claim()
	b.vote(2, yes("bob", "v2"))
	b.claim(2)
}

func TestReject(t *testing.T) { onEach(t, testReject) }

func testReject(t *testing.T, b *bench) {
	b.accept(b.push("v1"), planned("a", trigger.Queue, b.needs(1)), planned("", "", follower))
	b.accept(b.push("v2"), planned("a", trigger.Queue, b.needs(1)))
	b.accept(b.push("v3"), planned("b", trigger.Queue))
	b.vote(1, trigger.Vote{By: "anna", Digest: "sha256:v1", Reason: "not on a friday"})
	b.want("rejected waiting waiting waiting")
	b.reason(1, "rejected by anna: not on a friday")
	b.claim(2, 4) // the follower, and nothing of the lane
	b.vote(3, yes("anna", "v2"))
	b.claim(3)
	interventions{t, b, b.Store}.refused(b.Vote(t.Context(), 4, yes("anna", "v3"), b.now), "run 4 needs no approval")
}

// Without approvals a run expires, and its lane goes on.
func TestExpire(t *testing.T) { onEach(t, testExpire) }

func testExpire(t *testing.T, b *bench) {
	b.accept(b.push("v1"), planned("a", trigger.Queue, b.needs(2)))
	b.accept(b.push("v2"), planned("a", trigger.Queue))
	b.vote(1, yes("anna", "v1"))
	_, next, err := b.Claim(t.Context(), b.now, upTo(10))
	if want := b.now.Add(24*time.Hour - time.Second); err != nil || !next.Equal(want) {
		t.Errorf("next at %s, %v, want %s", next, err, want)
	}
	b.now = b.now.Add(25 * time.Hour)
	interventions{t, b, b.Store}.refused(b.Vote(t.Context(), 1, yes("bob", "v1"), b.now), "run 1 was to be approved by")
	if _, next, err := b.Claim(t.Context(), b.now, upTo(10)); err != nil || next.After(b.now) {
		t.Errorf("it is to be ended at %s, %v", next, err)
	}
	b.claim(2)
	b.want("expired running")
	r, tries, _, err := b.Run(t.Context(), 1)
	if err != nil || r.Attempt != 0 || len(tries) != 0 || !r.FirstAt.IsZero() || r.Reason != "1 of 2 approvals by 2026-03-02T12:00:01Z" {
		t.Errorf("%+v, %+v, %v", r, tries, err)
	}
}

// A window that opens later is waited for, too.
func TestApproveBeforeItsTime(t *testing.T) { onEach(t, testApproveBeforeItsTime) }

func testApproveBeforeItsTime(t *testing.T, b *bench) {
	opens := b.now.Add(2 * time.Hour)
	b.accept(b.push("v1"), planned("a", trigger.Latest, b.needs(1), func(r *trigger.Run) { r.NotBefore = opens }))
	b.vote(1, yes("anna", "v1"))
	b.claim()
	b.now = opens
	b.claim(1)
}
