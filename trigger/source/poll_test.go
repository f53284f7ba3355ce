package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

var errAbsent = errors.New("not found")

// scene is a poller with a registry, a store and rules that are maps.
type scene struct {
	t *testing.T
	p *Poller

	follows bool // another dockbell polls

	mu      sync.Mutex
	tags    map[string]map[string]string // by repository and tag: digest
	fails   map[string]error             // by repository
	heads   map[string]int               // by repository:tag
	lists   int
	memory  map[string]map[string]string
	said    []string // events
	refuses bool     // the store
}

func newScene(t *testing.T, config string) *scene {
	t.Helper()
	n, err := strictyaml.Parse("test.yaml", strings.NewReader("type: poll\nschedule: '@every 1m'\n"+config))
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t, tags: map[string]map[string]string{}, fails: map[string]error{}, heads: map[string]int{}, memory: map[string]map[string]string{}}
	if s.p = LoadPoller("mirror", n, nil); s.p == nil {
		t.Fatal(n.Err())
	}
	return s
}

func (s *scene) push(repository, tag string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tags[repository] == nil {
		s.tags[repository] = map[string]string{}
	}
	s.tags[repository][tag] = fmt.Sprintf("sha256:%064x", n)
}

func (s *scene) remove(repository, tag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tags[repository], tag)
}

// pass lets a poller that has just been started look once, and gives the
// events of that pass.
func (s *scene) pass() []string {
	s.t.Helper()
	return s.passes(s.start())
}

// repositoryOf is the repository of what was said: several are looked at at
// once, in any order.
func repositoryOf(said string) string {
	_, image, _ := strings.Cut(said, " ")
	repository, _, _ := strings.Cut(image, ":")
	return repository
}

func (s *scene) start() *polling { return newPolling(s.p, s.world()) }

func (s *scene) passes(p *polling) []string {
	s.said = nil
	clear(s.heads)
	p.all(s.t.Context())
	slices.SortStableFunc(s.said, func(a, b string) int { return strings.Compare(repositoryOf(a), repositoryOf(b)) })
	return s.said
}

func (s *scene) world() PollWorld {
	return PollWorld{
		Registries: s, Memory: s, NotFound: errAbsent, Log: slog.New(slog.DiscardHandler),
		Lead: func(context.Context, string) (bool, error) { return !s.follows, nil },
		Deliver: func(_ context.Context, _ string, _ []byte, events []trigger.Event) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.refuses {
				return errors.New("disk full")
			}
			for _, e := range events {
				text := e.Action + " " + e.Repository + ":" + e.Tag
				if e.Ignored != "" {
					text = e.Ignored + " " + e.Repository + ":" + e.Tag
				}
				s.said = append(s.said, text)
			}
			return nil
		},
	}
}

func (s *scene) Tags(_ context.Context, _, repository string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	if err := s.fails[repository]; err != nil {
		return nil, err
	}
	tags, ok := s.tags[repository]
	if !ok {
		return nil, errAbsent
	}
	return slices.Sorted(maps.Keys(tags)), nil
}

func (s *scene) listed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists
}

func (s *scene) Digest(_ context.Context, _, repository, tag string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heads[tag]++
	if digest, ok := s.tags[repository][tag]; ok {
		return digest, nil
	}
	return "", errAbsent
}

// Manifest is that of a chart below "charts" and of an image elsewhere.
func (s *scene) Manifest(_ context.Context, _, repository, _ string) (string, []byte, error) {
	config := "application/vnd.oci.image.config.v1+json"
	if strings.HasPrefix(repository, "charts/") {
		config = "application/vnd.cncf.helm.config.v1+json"
	}
	return "application/vnd.oci.image.manifest.v1+json", fmt.Appendf(nil, `{"config":{"mediaType":%q}}`, config), nil
}

func (s *scene) Catalogue(context.Context, string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.tags)), nil
}

func (s *scene) Polled(_ context.Context, _, repository string) (map[string]string, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen, ok := s.memory[repository]
	if !ok {
		seen = map[string]string{}
	}
	return maps.Clone(seen), ok, nil
}

func (s *scene) SavePolled(_ context.Context, _, repository string, set map[string]string, gone []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.memory[repository] == nil {
		s.memory[repository] = map[string]string{}
	}
	maps.Copy(s.memory[repository], set)
	for _, tag := range gone {
		delete(s.memory[repository], tag)
	}
	return nil
}

func (s *scene) want(what string, got []string, want ...string) {
	s.t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		s.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// What a first pass could not look at is learnt later; it is not new because
// other repositories of the pattern have been looked at before.
func TestPollLearnsWhatFailedAtFirst(t *testing.T) {
	s := newScene(t, `repositories: ["r.example/**"]`)
	s.push("shop/api", "v1", 1)
	s.push("shop/web", "v1", 1)
	s.fails["shop/web"] = errors.New("too many requests")
	s.want("first pass", s.pass())
	s.want("first pass after a restart", s.pass())
	s.fails["shop/web"] = nil
	s.want("when the registry has come back", s.pass())
	s.push("shop/web", "v2", 2)
	s.push("shop/new", "v1", 3)
	s.want("later", s.pass(), "push shop/new:v1", "push shop/web:v2")
}

// Each selected tag has its turn, and a name that is moved by custom has it in
// each pass, whatever comes before it in the alphabet.
func TestPollTurns(t *testing.T) {
	s := newScene(t, `repositories: ["r.example/shop/web"]`)
	const builds = 3 * pollHeads
	for i := range builds {
		s.push("shop/web", fmt.Sprintf("build-%04d", i), i)
	}
	s.push("shop/web", "latest", 1)
	s.push("shop/web", "v1.0.0", 1)
	p := s.start()
	s.want("first pass", s.passes(p))
	s.push("shop/web", "latest", 2)
	s.want("after latest was moved", s.passes(p), "push shop/web:latest")
	looked := map[string]bool{}
	for range 8 {
		s.want("nothing moved", s.passes(p))
		if n := len(s.heads); n > pollHeads {
			t.Errorf("%d tags looked up in a pass, at most %d", n, pollHeads)
		}
		if s.heads["latest"] != 1 {
			t.Errorf("latest was looked up %d times", s.heads["latest"])
		}
		for tag := range s.heads {
			looked[tag] = true
		}
	}
	if len(looked) != builds+2 {
		t.Errorf("%d of %d tags looked up in 8 passes", len(looked), builds+2)
	}
	s.push("shop/web", "build-0599", 9999)
	var found []string
	for range 8 {
		found = append(found, s.passes(p)...)
	}
	s.want("a tag at the end was moved", found, "push shop/web:build-0599")
	s.push("shop/web", "build-0599", 9998)
	s.want("what has moved is looked at first", s.passes(p), "push shop/web:build-0599")
}

// The newest comes last, so that it is what a lane ends with.
func TestPollOrder(t *testing.T) {
	s := newScene(t, `repositories: ["r.example/shop/web"]`)
	s.push("shop/web", "build-8", 1)
	s.pass()
	for i, tag := range []string{"build-9", "build-10", "v1.10", "v1.9", "v2.0.0-rc.1", "v2.0.0", "v10.0.0"} {
		s.push("shop/web", tag, i)
	}
	s.want("order", s.pass(), "push shop/web:build-9", "push shop/web:build-10", "push shop/web:v1.9", "push shop/web:v1.10",
		"push shop/web:v2.0.0-rc.1", "push shop/web:v2.0.0", "push shop/web:v10.0.0")
}

// A list that lacks tags proves nothing: a registry that lost sight of its
// storage for a moment must not make every tag deleted, and then new.
func TestPollIncompleteLists(t *testing.T) {
	s := newScene(t, `repositories: ["r.example/shop/web"]`)
	for i := range 3 {
		s.push("shop/web", fmt.Sprint("v", i), i)
	}
	s.pass()
	p := newPolling(s.p, s.world())
	p.Registries = halfBlind{s}
	s.want("an empty list", s.passes(p))
	s.want("a whole one", s.pass())
	s.remove("shop/web", "v1")
	s.want("a tag that is really gone", s.pass(), "delete shop/web:v1")
	s.want("once", s.pass())
}

// halfBlind lists no tags and knows them all.
type halfBlind struct{ *scene }

func (halfBlind) Tags(context.Context, string, string) ([]string, error) { return nil, nil }

// Signatures and other attachments cost no look.
func TestPollAttachments(t *testing.T) {
	s := newScene(t, `repositories: ["r.example/shop/web"]`)
	s.push("shop/web", "v1", 1)
	s.pass()
	s.push("shop/web", "sha256-"+strings.Repeat("a", 64)+".sig", 2)
	s.want("a signature", s.pass())
	if len(s.heads) != 1 {
		t.Errorf("looked up %v", s.heads)
	}
}

// A chart is stored like an image, and is none.
func TestPollCharts(t *testing.T) {
	s := newScene(t, `repositories: ["r.example/**"]`)
	s.push("charts/web", "1.0.0", 1)
	s.push("shop/web", "v1", 1)
	s.pass()
	s.push("charts/web", "1.1.0", 2)
	s.push("shop/web", "v2", 2)
	s.want("a chart and an image", s.pass(), "artifact charts/web:1.1.0", "push shop/web:v2")
}

// A repository that was hidden is not new, however few it shares its pattern
// with.
func TestPollHiddenRepository(t *testing.T) {
	s := newScene(t, `repositories: ["r.example/**"]`)
	s.pass()
	for i := range pollNewTags + 1 {
		s.push("shop/old", fmt.Sprint("v", i), i)
	}
	s.want("it comes to light", s.pass())
	s.push("shop/old", "next", 1)
	s.want("a push to it", s.pass(), "push shop/old:next")
}

// What could not be put on disk is said again.
func TestPollStoreRefuses(t *testing.T) {
	s := newScene(t, `repositories: ["r.example/shop/web"]`)
	s.push("shop/web", "v1", 1)
	s.pass()
	s.push("shop/web", "v2", 2)
	s.refuses = true
	s.want("disk full", s.pass())
	s.refuses = false
	s.want("again", s.pass(), "push shop/web:v2")
}

func TestPollSchedule(t *testing.T) {
	for _, tt := range []struct{ schedule, want string }{
		{"TZ=0", "time zone"},
		{"CRON_TZ=Europe/Berlin", "time zone"},
		{"CRON_TZ=Europe/Berlin * * * * *", "time zone"},
		{"0 0 30 2 *", "never"},
		{"* * * *", "expected exactly 5 fields"},
		{"@every 10ms", "shorter than a second"},
		{"@every -1s", "shorter than a second"},
	} {
		n, err := strictyaml.Parse("test.yaml", strings.NewReader(fmt.Sprintf("type: poll\nschedule: %q\nrepositories: [r.example/a]\n", tt.schedule)))
		if err != nil {
			t.Fatal(err)
		}
		if p := LoadPoller("mirror", n, nil); p != nil {
			t.Errorf("%q is accepted", tt.schedule)
		} else if err := n.Err(); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), ":2:") {
			t.Errorf("%q: %v, want %q on line 2", tt.schedule, err, tt.want)
		}
	}
}

// Passes begin when the schedule says in its zone, and one that was cut short
// is made up for.
func TestPollRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, "repositories: [r.example/shop/web]\ntimezone: Europe/Berlin\n")
		s.push("shop/web", "v1", 1)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.p.Run(ctx, s.world()) }()
		time.Sleep(90 * time.Second)
		if n := s.listed(); n != 2 {
			t.Errorf("%d passes in 90 s, one a minute", n)
		}
		s.mu.Lock()
		s.fails["shop/web"] = pausedFor(35 * time.Second) // 5 s after the next pass
		s.mu.Unlock()
		time.Sleep(31 * time.Second) // a pass fails
		s.mu.Lock()
		s.fails["shop/web"] = nil
		s.mu.Unlock()
		before := s.listed()
		time.Sleep(6 * time.Second)
		if s.listed() != before+1 {
			t.Errorf("the pass was not made up for when the registry was left alone long enough")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// pausedFor is what a registry says that is left alone for so long.
func pausedFor(d time.Duration) error { return &pausedError{time.Now().Add(d)} }

type pausedError struct{ until time.Time }

func (e *pausedError) Error() string          { return "paused" }
func (e *pausedError) PausedUntil() time.Time { return e.until }

// Of several dockbells one polls. The next one goes on from where it was.
func TestPollByOneOfSeveral(t *testing.T) {
	s := newScene(t, "repositories: [r.example/shop/web]")
	s.push("shop/web", "v1", 1)
	p := s.start()
	s.passes(p)
	s.push("shop/web", "v2", 2)
	s.follows = true
	if got := s.passes(p); len(got) > 0 {
		t.Errorf("said %q while another one polls", got)
	}
	s.follows = false
	if got := s.passes(p); len(got) != 1 {
		t.Errorf("said %q after that, want v2", got)
	}
}
