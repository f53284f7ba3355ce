package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// logOf lets a poller log into a buffer.
func logOf(p *polling) *bytes.Buffer {
	var b bytes.Buffer
	p.Log = slog.New(slog.NewTextHandler(&b, nil))
	return &b
}

// broken is a scene whose registry fails at some tags.
type broken struct {
	*scene
	tags map[string]error // by tag; of any repository
	left int              // lookups until it is left alone; 0 for never
}

func (b *broken) Digest(ctx context.Context, host, repository, tag string) (string, error) {
	if b.left > 0 {
		if b.left--; b.left == 0 {
			b.left = -1
		}
	}
	if b.left < 0 {
		return "", pausedFor(time.Minute)
	}
	if err := b.tags[tag]; err != nil {
		return "", err
	}
	return b.scene.Digest(ctx, host, repository, tag)
}

// What is there at first starts nothing; what is new, moved or gone does, as far
// as the source selects it, and once.
func TestPollEvents(t *testing.T) {
	s := newScene(t, "repositories: r.example/shop/web\ntags: 'v.*|main'\nexclude: {tag: '.*-rc'}\n")
	s.push("shop/web", "v1", 1)
	s.push("shop/web", "v2", 2)
	s.push("shop/web", "main", 2)
	s.push("shop/web", "nightly", 3)
	s.want("first pass", s.pass())
	s.want("nothing happened", s.pass())
	s.push("shop/web", "v3", 4)
	s.push("shop/web", "v3-rc", 4)
	s.push("shop/web", "xv3", 4)
	s.want("new", s.pass(), "push shop/web:v3")
	s.push("shop/web", "main", 4)
	s.push("shop/web", "nightly", 4)
	s.want("moved", s.pass(), "push shop/web:main")
	s.push("shop/web", "main", 2)
	s.want("moved back", s.pass(), "push shop/web:main")
	s.remove("shop/web", "v1")
	s.remove("shop/web", "nightly")
	s.want("gone", s.pass(), "delete shop/web:v1")
	s.push("shop/web", "v1", 1)
	s.want("there again", s.pass(), "push shop/web:v1")
	s.want("nothing happened since", s.pass())
}

// What an event of a poller says, beside what the registry said.
func TestPollEvent(t *testing.T) {
	s := newScene(t, "repositories: r.example/shop/web\ninitial: fire\n")
	s.push("shop/web", "v1", 1)
	p := s.start()
	var events []trigger.Event
	p.Deliver = func(_ context.Context, source string, body []byte, all []trigger.Event) error {
		if source != "mirror" || !strings.HasPrefix(string(body), "[{") {
			t.Errorf("source %s, body %s", source, body)
		}
		events = append(events, all...)
		return nil
	}
	s.passes(p)
	if len(events) != 1 {
		t.Fatalf("%+v", events)
	}
	e := events[0]
	if e.Source != "mirror" || !e.Observed || e.Registry != "r.example" || e.Digest != fmt.Sprintf("sha256:%064x", 1) || e.Key() != "" || e.MediaType == "" {
		t.Errorf("%+v", e)
	}
}

func TestPollInitialFire(t *testing.T) {
	s := newScene(t, "repositories: ['r.example/shop/*', r.example/other/later]\ninitial: fire\n")
	for i := range pollHeads + 50 {
		s.push("shop/many", fmt.Sprintf("v%d", i), i)
	}
	s.push("shop/web", "v1", 1)
	p := s.start()
	first := s.passes(p)
	if n := len(first); n != pollHeads+1 {
		t.Errorf("%d events in the first pass", n)
	}
	second := slices.Clone(s.passes(p))
	if n := len(second); n != 50 {
		t.Errorf("%d events in the second pass", n)
	}
	s.push("other/later", "v1", 1)
	s.want("a repository that is new", s.passes(p), "push other/later:v1")
}

// A repository that is not there yet is learnt as an empty one.
func TestPollRepositoryToCome(t *testing.T) {
	s := newScene(t, "repositories: r.example/shop/web\n")
	s.want("not there", s.pass())
	s.push("shop/web", "v1", 1)
	s.want("there", s.pass(), "push shop/web:v1")
}

// One that has many tags when it comes up was hidden, for want of rights say.
func TestPollRepositoryComesToLight(t *testing.T) {
	s := newScene(t, "repositories: r.example/shop/web\n")
	s.pass()
	for i := range pollNewTags + 1 {
		s.push("shop/web", fmt.Sprint("v", i), i)
	}
	s.want("there", s.pass())
	s.push("shop/web", "v0", 99)
	s.want("a push to it", s.pass(), "push shop/web:v0")
}

// A filter that is widened or an exclusion that is dropped makes nothing old
// new.
func TestPollWidenedFilter(t *testing.T) {
	s := newScene(t, "repositories: r.example/shop/web\ntags: 'v1.*'\n")
	for _, tag := range []string{"v1", "v2", "main"} {
		s.push("shop/web", tag, 1)
	}
	s.want("first pass", s.pass())
	s.push("shop/web", "v3", 1)
	s.want("another tag", s.pass())
	wide := newScene(t, "repositories: r.example/shop/web\n")
	wide.tags, wide.memory = s.tags, s.memory
	wide.want("all tags", wide.pass())
	wide.push("shop/web", "v2", 2)
	wide.want("a tag that was not selected before", wide.pass(), "push shop/web:v2")
}

// What a second source sees is not what the first has seen.
func TestPollFromRules(t *testing.T) {
	s := newScene(t, "repositories: [from-rules, r.example/own/web]\n")
	s.push("shop/web", "v1", 1)
	s.push("own/web", "v1", 1)
	s.push("other/web", "v1", 1)
	p := s.start()
	p.Rules = func() []string { return []string{"r.example/shop/*"} }
	s.want("first pass", s.passes(p))
	for _, repository := range []string{"shop/web", "own/web", "other/web"} {
		s.push(repository, "v2", 2)
	}
	s.want("pushes", s.passes(p), "push own/web:v2", "push shop/web:v2")
	p.Rules = func() []string { return []string{"r.example/shop/*", "r.example/other/*"} }
	s.want("a rule more", s.passes(p))
	s.push("other/web", "v3", 3)
	s.want("a push for it", s.passes(p), "push other/web:v3")
}

// A registry that hides a repository, for want of rights say, has deleted
// nothing.
func TestPollHidden(t *testing.T) {
	s := newScene(t, "repositories: r.example/shop/web\n")
	s.push("shop/web", "v1", 1)
	s.push("shop/web", "v2", 2)
	p := s.start()
	log := logOf(p)
	s.passes(p)
	s.fails["shop/web"] = errAbsent
	s.want("hidden", s.passes(p))
	s.want("still hidden", s.passes(p))
	delete(s.fails, "shop/web")
	s.remove("shop/web", "v1")
	s.want("shown again", s.passes(p), "delete shop/web:v1")
	for text, want := range map[string]int{"cannot be polled": 1, "can be polled again": 1} {
		if n := strings.Count(log.String(), text); n != want {
			t.Errorf("%q %d times, want %d:\n%s", text, n, want, log)
		}
	}
}

// What is wrong is logged once as long as it is the same; a registry that is
// left alone is not logged at all, which somebody else does.
func TestPollTroubleOnce(t *testing.T) {
	s := newScene(t, "repositories: ['r.example/shop/*']\n")
	s.push("shop/web", "v1", 1)
	p := s.start()
	log := logOf(p)
	for _, step := range []struct {
		err  error
		want int
	}{
		{nil, 0}, {errors.New("denied"), 1}, {errors.New("denied"), 1}, {pausedFor(0), 1}, {errors.New("denied"), 1},
		{errors.New("teapot"), 2}, {nil, 3}, {nil, 3}, {fmt.Errorf("asking: %w", pausedFor(0)), 3}, {errors.New("denied"), 4},
	} {
		s.fails["shop/web"] = step.err
		s.passes(p)
		if n := strings.Count(log.String(), "\n"); n != step.want {
			t.Fatalf("after %v: %d lines, want %d:\n%s", step.err, n, step.want, log)
		}
	}
}

// forgetful is a store that does not keep what a poller has seen.
type forgetful struct{ *scene }

func (forgetful) SavePolled(context.Context, string, string, map[string]string, []string) error {
	return errors.New("disk full")
}

// Who is stopped between the event and what was seen says it again.
func TestPollSaysAgain(t *testing.T) {
	s := newScene(t, "repositories: r.example/shop/web\n")
	s.push("shop/web", "v1", 1)
	s.push("shop/web", "v2", 1)
	s.pass()
	s.push("shop/web", "v1", 2)
	s.remove("shop/web", "v2")
	p := s.start()
	p.Memory = forgetful{s}
	s.want("not kept", s.passes(p), "push shop/web:v1", "delete shop/web:v2")
	s.want("after a restart", s.pass(), "push shop/web:v1", "delete shop/web:v2")
	s.want("kept", s.pass())
}

// A pass that ends early keeps what it has found, and the next goes on.
func TestPollEndsEarly(t *testing.T) {
	s := newScene(t, "repositories: r.example/shop/web\n")
	s.push("shop/web", "v0", 0)
	s.pass()
	for i := 1; i <= 5; i++ {
		s.push("shop/web", fmt.Sprintf("v%d", i), i)
	}
	p := s.start()
	p.Registries = &broken{scene: s, left: 4}
	s.want("three of five", s.passes(p), "push shop/web:v1", "push shop/web:v2", "push shop/web:v3")
	p.Registries = s
	s.want("the others", s.passes(p), "push shop/web:v4", "push shop/web:v5")
}

// A first pass that ends early has learnt all the same.
func TestPollLearnsEarly(t *testing.T) {
	s := newScene(t, "repositories: r.example/shop/web\n")
	for i := range 5 {
		s.push("shop/web", fmt.Sprintf("v%d", i), i)
	}
	p := s.start()
	p.Registries = &broken{scene: s, left: 2}
	s.want("first pass", s.passes(p))
	s.want("second pass", s.pass())
	s.push("shop/web", "v4", 9)
	s.want("moved", s.pass(), "push shop/web:v4")
}

// A tag that cannot be looked up keeps neither other tags nor deletes back.
func TestPollBrokenTag(t *testing.T) {
	s := newScene(t, "repositories: r.example/shop/web\n")
	for _, tag := range []string{"broken", "v1", "v2", "v3"} {
		s.push("shop/web", tag, 1)
	}
	s.pass()
	s.push("shop/web", "also-broken", 2)
	s.push("shop/web", "v1", 2)
	s.push("shop/web", "v4", 2)
	s.remove("shop/web", "v3")
	p := s.start()
	log := logOf(p)
	p.Registries = &broken{scene: s, tags: map[string]error{"broken": errors.New("status 500 of broken"), "also-broken": errors.New("status 500 of also-broken")}}
	s.want("beside broken tags", s.passes(p), "push shop/web:v1", "push shop/web:v4", "delete shop/web:v3")
	s.want("once", s.passes(p))
	if n := strings.Count(log.String(), "status 500"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
	s.want("when they can be looked up", s.pass(), "push shop/web:also-broken")
}

// limited is a scene whose registry answers so often, and is left alone then.
type limited struct {
	*scene
	allows int
}

func (l *limited) Tags(ctx context.Context, host, repository string) ([]string, error) {
	time.Sleep(time.Second) // so that who was asked first answers first
	l.mu.Lock()
	l.allows--
	over := l.allows < 0
	l.mu.Unlock()
	if over {
		return nil, pausedFor(time.Minute)
	}
	return l.scene.Tags(ctx, host, repository)
}

// A registry that allows less than a pass at a time is got through.
func TestPollTurnsOfRepositories(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "repositories: ['r.example/**']\n")
		const repositories, allows = 50, 20
		for i := range repositories {
			s.push(fmt.Sprintf("shop/app-%02d", i), "v1", 1)
		}
		s.pass()
		for i := range repositories {
			s.push(fmt.Sprintf("shop/app-%02d", i), "v2", 2)
		}
		p := s.start()
		found := 0
		for pass := range 3 {
			p.Registries = &limited{s, allows}
			found += len(s.passes(p))
			if want := min((pass+1)*allows, repositories); found != want {
				t.Errorf("%d of %d pushes found after pass %d, want %d", found, repositories, pass+1, want)
			}
		}
	})
}

// What is made up for one registry does not put off the passes of others.
func TestPollMakesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "repositories: [bad.example/bad, good.example/good]\n")
		s.push("good", "v1", 1)
		s.fails["bad"] = pausedFor(time.Hour)
		asked := map[string]int{}
		w := s.world()
		w.Registries = &counting{s, asked}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.p.Run(ctx, w) }()
		for range 100 {
			time.Sleep(6 * time.Second)
			s.mu.Lock()
			s.fails["bad"] = pausedFor(6 * time.Second)
			s.mu.Unlock()
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := asked["good"]; n < 10 || n > 11 {
			t.Errorf("%d passes in ten minutes, one a minute", n)
		}
	})
}

// counting counts the lists of each repository.
type counting struct {
	*scene
	asked map[string]int
}

func (c *counting) Tags(ctx context.Context, host, repository string) ([]string, error) {
	c.mu.Lock()
	c.asked[repository]++
	c.mu.Unlock()
	return c.scene.Tags(ctx, host, repository)
}

// Run stops in the middle of a pass, and says nothing about what it broke off.
func TestPollStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "repositories: r.example/shop/web\n")
		s.push("shop/web", "v1", 1)
		var log bytes.Buffer
		w := s.world()
		w.Log = slog.New(slog.NewTextHandler(&log, nil))
		w.Registries = hanging{s}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.p.Run(ctx, w); err != nil {
			t.Error(err)
		}
		if log.Len() > 0 || len(s.memory) > 0 {
			t.Errorf("kept %v and logged:\n%s", s.memory, &log)
		}
	})
}

type hanging struct{ *scene }

func (hanging) Tags(ctx context.Context, _, _ string) ([]string, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
