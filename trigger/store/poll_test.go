package store

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dockbell/dockbell/trigger"
)

func TestPolled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := openAt(t, path)
	check := func(source, repository string, wantSeen bool, want map[string]string) {
		t.Helper()
		got, seen, err := s.Polled(t.Context(), source, repository)
		if err != nil || seen != wantSeen {
			t.Errorf("%s %s: seen %v, %v", source, repository, seen, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", source, repository, diff)
		}
	}
	save := func(source, repository string, set map[string]string, gone ...string) {
		t.Helper()
		if err := s.SavePolled(t.Context(), source, repository, set, gone); err != nil {
			t.Fatal(err)
		}
	}
	check("mirror", "r/a", false, map[string]string{})
	save("mirror", "r/a", nil)
	check("mirror", "r/a", true, map[string]string{})
	save("mirror", "r/a", map[string]string{"v1": "d1", "v2": ""})
	save("other", "r/a", map[string]string{"v1": "d9"})
	save("mirror", "r/b", map[string]string{"v1": "d8"})
	save("mirror", "r/a", map[string]string{"v2": "d2", "v3": "d3"}, "v1", "never there")
	check("mirror", "r/a", true, map[string]string{"v2": "d2", "v3": "d3"})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, path)
	defer s.Close()
	check("mirror", "r/a", true, map[string]string{"v2": "d2", "v3": "d3"})
	check("mirror", "r/b", true, map[string]string{"v1": "d8"})
	check("other", "r/a", true, map[string]string{"v1": "d9"})
}

// A push that a sender tells and a poller finds makes one run, whoever is
// first; pushes that differ make one each.
func TestTwins(t *testing.T) {
	const a, b = "sha256:a", "sha256:b"
	type seen struct {
		poll   bool
		tag    string
		digest string
		after  time.Duration // since the one before
		gone   bool          // deleted, not pushed
		fails  bool          // its run does
		new    bool
	}
	for name, story := range map[string][]seen{
		"sender first":                {{tag: "v1", digest: a, new: true}, {poll: true, tag: "v1", digest: a}},
		"poller first":                {{poll: true, tag: "v1", digest: a, new: true}, {tag: "v1", digest: a}},
		"another tag in between":      {{tag: "v1", digest: a, new: true}, {tag: "v2", digest: b, new: true}, {poll: true, tag: "v1", digest: a}, {poll: true, tag: "v2", digest: b}},
		"poller alone":                {{poll: true, tag: "v1", digest: a, new: true}, {poll: true, tag: "v1", digest: b, new: true}, {poll: true, tag: "v1", digest: a, new: true}},
		"sender moves on":             {{poll: true, tag: "v1", digest: a, new: true}, {tag: "v1", digest: a}, {tag: "v1", digest: b, new: true}, {poll: true, tag: "v1", digest: b}},
		"two tags of one content":     {{tag: "v1", digest: a, new: true}, {poll: true, tag: "v1", digest: a}, {poll: true, tag: "latest", digest: a, new: true}},
		"no digest, sender first":     {{tag: "v1", new: true}, {poll: true, tag: "v1", digest: a}, {poll: true, tag: "v1", digest: b, new: true}},
		"no digest, each time":        {{tag: "v1", new: true}, {poll: true, tag: "v1", digest: a}, {tag: "v1", after: time.Minute, new: true}, {poll: true, tag: "v1", digest: b}},
		"no digest, poller first":     {{poll: true, tag: "v1", digest: a, new: true}, {tag: "v1", after: time.Minute}, {tag: "v1", after: time.Minute, new: true}},
		"told before the last look":   {{tag: "v1", new: true}, {poll: true, tag: "other", digest: b, new: true}, {poll: true, tag: "v1", digest: a, new: true}},
		"sent again after a failure":  {{poll: true, tag: "v1", digest: a, fails: true, new: true}, {tag: "v1", digest: a, new: true}},
		"told a second time":          {{poll: true, tag: "v1", digest: a, new: true}, {tag: "v1", digest: a}, {tag: "v2", digest: b, new: true}, {tag: "v1", digest: a, new: true}},
		"deleted in between":          {{poll: true, tag: "v1", digest: a, new: true}, {poll: true, tag: "v1", digest: a, gone: true, new: true}, {poll: true, tag: "v2", digest: b, new: true}, {poll: true, tag: "v1", digest: a, new: true}, {poll: true, tag: "v1", digest: a, gone: true, new: true}},
		"said again after a kill":     {{poll: true, tag: "v1", digest: a, new: true}, {poll: true, tag: "v2", digest: b, new: true}, {poll: true, tag: "v1", digest: a}, {poll: true, tag: "v2", digest: b}},
		"no digest, much later":       {{poll: true, tag: "v1", digest: a, new: true}, {tag: "v1", after: time.Hour, new: true}},
		"no digest, in another place": {{tag: "v1", new: true}, {poll: true, tag: "v2", digest: a, new: true}},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, b *bench) {
				s := b.Store
				looked := b.now
				for i, step := range story {
					b.now = b.now.Add(step.after + time.Second)
					e := trigger.Event{
						Image:  trigger.Image{Registry: "r.example", Repository: "shop/web", Tag: step.tag, Digest: step.digest},
						Source: "hub", ID: fmt.Sprint("delivery ", i), Action: trigger.Push, ReceivedAt: b.now, Observed: step.poll,
					}
					if step.poll {
						e.Source, e.ID, e.Since, looked = "mirror", "", looked, b.now
					}
					r := planned("lane", trigger.Queue)
					r.Rule = "web"
					if step.gone {
						e.Action, r.Rule = trigger.Delete, "gone"
					}
					receipt, err := s.Accept(t.Context(), trigger.Delivery{Source: e.Source}, []trigger.Planned{{Event: e, Runs: []trigger.Run{r}}})
					if err != nil {
						t.Fatal(err)
					}
					if got := receipt.Events[0].Runs[0]; got.New != step.new {
						t.Errorf("step %d: %+v", i, got)
					}
					if step.fails {
						for _, r := range b.claim(1) {
							b.finish(r, trigger.Failed)
						}
					}
				}
			})
		})
	}
}
