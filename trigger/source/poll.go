package source

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/robfig/cron/v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// PollType is the type of a source that asks registries instead of waiting
// for what they send.
const PollType = "poll"

// fromRules stands for the repositories that the rules name.
const fromRules = "from-rules"

const (
	// pollRepositories is how many repositories of a source are looked at at
	// once; what a registry is asked is limited besides.
	pollRepositories = 8

	// pollHeads is how many tags of a repository are looked up in one pass:
	// new ones first, then those that are likely to move, then the others in
	// turn, the next pass where this one ended.
	pollHeads = 200
)

// pollSpec is a source of type poll as it stands in the configuration.
type pollSpec struct {
	Type         string             `yaml:"type"`
	Schedule     string             `yaml:"schedule"`
	Timezone     string             `yaml:"timezone"`
	Jitter       time.Duration      `yaml:"jitter"`
	Repositories strictyaml.Strings `yaml:"repositories"`
	Tags         string             `yaml:"tags"`
	Exclude      struct {
		Tag strictyaml.Strings `yaml:"tag"`
	} `yaml:"exclude"`
	Initial string `yaml:"initial"`
}

// Poller is a source that asks registries what has changed.
type Poller struct {
	Name string

	schedule  cron.Schedule
	written   string // the schedule
	zone      *time.Location
	jitter    time.Duration
	patterns  []string
	fromRules bool
	tags      *regexp.Regexp // nil: all
	exclude   []*regexp.Regexp
	fire      bool // what the first pass finds is new
}

// Registries are asked by a poller.
type Registries interface {
	Tags(ctx context.Context, host, repository string) ([]string, error)
	Digest(ctx context.Context, host, repository, tag string) (string, error)
	Catalogue(ctx context.Context, host string) ([]string, error)
}

// PollMemory is what pollers have seen, kept across restarts. Keys are tags;
// a digest is "" while it has not been looked up. seen is false for what was
// never saved.
type PollMemory interface {
	Polled(ctx context.Context, source, repository string) (digests map[string]string, seen bool, err error)
	SavePolled(ctx context.Context, source, repository string, set map[string]string, gone []string) error
}

// PollWorld is what pollers need of the rest of the program.
type PollWorld struct {
	Registries Registries
	Memory     PollMemory

	// NotFound tells an answer of a registry that has no such repository or
	// tag from its other errors.
	NotFound error

	// Deliver makes events count like those of a sender, and returns when they
	// are on disk.
	Deliver func(ctx context.Context, source string, body []byte, events []trigger.Event) error

	// Rules are the patterns of repositories that the rules name.
	Rules []string

	Log *slog.Logger
}

// LoadPoller makes a poller from its place in the configuration; what is wrong
// there is reported as faults of the node, and nil returned.
func LoadPoller(name string, n strictyaml.Node, aliases trigger.Aliases) *Poller {
	s := pollSpec{Initial: "learn"}
	ok := n.Decode(&s)
	fault := func(key, format string, args ...any) {
		n.Key(key).Faultf(format, args...)
		ok = false
	}
	p := &Poller{Name: name, written: s.Schedule, jitter: s.Jitter, fire: s.Initial == "fire", zone: time.Local}
	var err error
	if p.schedule, err = cron.ParseStandard(s.Schedule); s.Schedule == "" {
		fault("schedule", `is missing: five fields as in "*/2 * * * *", or "@every 30s"`)
	} else if err != nil {
		fault("schedule", "%q: %v", s.Schedule, err)
	}
	if strings.Contains(s.Schedule, "TZ=") {
		fault("schedule", "the time zone has a key of its own, `timezone`")
	}
	if p.zone, err = time.LoadLocation(cmp.Or(s.Timezone, "Local")); err != nil {
		fault("timezone", "%q is not a time zone as in Europe/Berlin", s.Timezone)
	}
	if s.Jitter < 0 {
		fault("jitter", "must be a duration, as in 10s")
	}
	if s.Initial != "learn" && s.Initial != "fire" {
		fault("initial", "must be learn (what is there already starts nothing) or fire, not %q", s.Initial)
	}
	if len(s.Repositories) == 0 && !n.Has("repositories") {
		fault("repositories", "is missing: name repositories with their registry, as in registry.example.com/shop/**, or %s", fromRules)
	}
	for i, pattern := range s.Repositories {
		at := n.Key("repositories")
		if items := at.Items(); i < len(items) {
			at = items[i]
		}
		if pattern == fromRules {
			p.fromRules = true
			continue
		}
		canonical, err := pollPattern(pattern, aliases)
		if err != nil {
			at.Faultf("%q: %v", pattern, err)
			ok = false
		}
		p.patterns = append(p.patterns, canonical)
	}
	compile := func(at strictyaml.Node, expr string) *regexp.Regexp {
		if _, err := regexp.Compile(expr); err != nil {
			at.Faultf("%q: %v", expr, err)
			ok = false
			return nil
		}
		return regexp.MustCompile("^(?:" + expr + ")$")
	}
	if s.Tags != "" {
		p.tags = compile(n.Key("tags"), s.Tags)
	}
	for _, expr := range s.Exclude.Tag {
		p.exclude = append(p.exclude, compile(n.Key("exclude").Key("tag"), expr))
	}
	if !ok {
		return nil
	}
	return p
}

// FromRules reports whether the poller looks at what the rules name.
func (p *Poller) FromRules() bool { return p.fromRules }

// pollPattern checks a repository or a pattern of them, and gives it with the
// name of the registry that counts.
func pollPattern(pattern string, aliases trigger.Aliases) (string, error) {
	registry, rest, ok := strings.Cut(pattern, "/")
	switch {
	case !ok || !trigger.IsRegistry(registry):
		return "", errors.New("needs its registry in front, as in docker.io/library/nginx or registry.example.com/shop/**")
	case strings.ContainsAny(registry, "*?[{"):
		return "", errors.New("the registry must be named, not a pattern")
	case !doublestar.ValidatePattern(rest):
		return "", errors.New("not a valid pattern; * matches within a path segment, ** across")
	}
	registry = aliases.Canonical(registry)
	if isPattern(rest) {
		return registry + "/" + rest, nil
	}
	img, err := trigger.NewImage(registry, rest, "", "")
	return img.Name(), err
}

func isPattern(s string) bool { return strings.ContainsAny(s, "*?[{\\") }

// Run looks at the repositories at once, and then whenever the schedule says,
// until ctx ends.
func (p *Poller) Run(ctx context.Context, w PollWorld) error {
	pass := &polling{Poller: p, PollWorld: w, at: map[string]int{}, troubles: map[string]string{}}
	for {
		pass.all(ctx)
		next := p.schedule.Next(time.Now().In(p.zone)).Add(p.wait())
		select {
		case <-time.After(time.Until(next)):
		case <-ctx.Done():
			return nil
		}
	}
}

// wait is the part of the jitter that falls to this machine. Sources with the
// same schedule have the same, so that they share what they ask for.
func (p *Poller) wait() time.Duration {
	if p.jitter == 0 {
		return 0
	}
	host, _ := os.Hostname() // without one, all are alike
	h := fnv.New64a()
	h.Write([]byte(host + p.written))
	return time.Duration(h.Sum64() % uint64(p.jitter))
}

// polling is a poller at work.
type polling struct {
	*Poller
	PollWorld
	at       map[string]int    // by repository: how far the turn of the tags has come
	troubles map[string]string // by repository: what was logged last
	large    sync.Map          // repositories that are too large for one pass
}

// repository is one that is looked at, and whether its first tags are new.
type repository struct {
	name string
	fire bool
}

// all looks at each repository of the source.
func (p *polling) all(ctx context.Context) {
	repositories := p.repositories(ctx)
	turns := make([]int, len(repositories))
	troubles := make([]error, len(repositories))
	slots := make(chan struct{}, pollRepositories)
	var group sync.WaitGroup
	for i, r := range repositories {
		turns[i] = p.at[r.name]
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			turns[i], troubles[i] = p.one(ctx, r, turns[i])
		})
	}
	group.Wait()
	for i, r := range repositories {
		p.at[r.name] = turns[i]
		p.trouble(ctx, r.name, troubles[i])
	}
}

// trouble logs what is wrong with a repository, once.
func (p *polling) trouble(ctx context.Context, name string, err error) {
	if ctx.Err() != nil {
		return
	}
	why := ""
	var paused interface{ Paused() bool }
	if err != nil && errors.As(err, &paused) {
		return // the registry is left alone, which has been said
	} else if err != nil {
		why = err.Error()
	}
	if before := p.troubles[name]; why != "" && why != before {
		p.Log.Warn("cannot be polled", "source", p.Name, "repository", name, "error", err)
	} else if why == "" && before != "" {
		p.Log.Info("can be polled again", "source", p.Name, "repository", name)
	}
	p.troubles[name] = why
}

// repositories expands the patterns. What a pattern finds after it has been
// expanded once is new altogether.
func (p *polling) repositories(ctx context.Context) []repository {
	patterns := slices.Clone(p.patterns)
	if p.fromRules {
		patterns = append(patterns, p.Rules...)
	}
	slices.Sort(patterns)
	found := map[string]bool{}
	catalogues := map[string][]string{}
	for _, pattern := range slices.Compact(patterns) {
		registry, rest, _ := strings.Cut(pattern, "/")
		if !isPattern(rest) {
			found[pattern] = found[pattern] || p.fire
			continue
		}
		names, err := catalogues[registry], error(nil)
		if names == nil {
			if names, err = p.Registries.Catalogue(ctx, registry); err == nil {
				catalogues[registry] = names
			}
		}
		if err != nil {
			err = fmt.Errorf("catalogue: %w", err)
		}
		p.trouble(ctx, pattern, err)
		if err != nil {
			continue
		}
		_, expanded, err := p.Memory.Polled(ctx, p.Name, pattern)
		if err == nil && !expanded {
			err = p.Memory.SavePolled(ctx, p.Name, pattern, map[string]string{}, nil)
		}
		if err != nil {
			p.Log.Error("the store does not say what was polled before", "source", p.Name, "error", err)
			continue
		}
		for _, name := range names {
			if doublestar.MatchUnvalidated(rest, name) {
				full := registry + "/" + name
				found[full] = found[full] || p.fire || expanded
			}
		}
	}
	var all []repository
	for _, name := range slices.Sorted(maps.Keys(found)) {
		all = append(all, repository{name, found[name]})
	}
	return all
}

// one looks at a repository, starting the turn of its tags at the given one,
// and says where the next pass is to go on.
func (p *polling) one(ctx context.Context, r repository, turn int) (int, error) {
	before, seen, err := p.Memory.Polled(ctx, p.Name, r.name)
	if err != nil {
		return turn, err
	}
	registry, name, _ := strings.Cut(r.name, "/")
	tags, err := p.Registries.Tags(ctx, registry, name)
	if err != nil && !(errors.Is(err, p.NotFound) && !seen) {
		return turn, err // a repository that is gone may just be hidden: its tags do not count as deleted
	}
	c := &changes{source: p.Name, registry: registry, repository: name, set: map[string]string{}}
	if !seen && !r.fire {
		for _, tag := range tags {
			before[tag], c.set[tag] = "", "" // known from now on, whatever was begun before
		}
	}
	turn, err = p.look(ctx, c, before, tags, turn)
	if ctx.Err() != nil {
		return turn, ctx.Err()
	}
	c.deleted(before, tags, p.selects)
	return turn, errors.Join(err, p.accept(ctx, r.name, c, seen))
}

// look looks up what tags point to: all that are new, then those that are
// known, as far as a pass goes.
func (p *polling) look(ctx context.Context, c *changes, before map[string]string, tags []string, turn int) (int, error) {
	tags = slices.Sorted(slices.Values(tags))
	var fresh, moving, others []string
	for _, tag := range tags {
		_, known := before[tag]
		switch {
		case !p.selects(tag):
			if !known {
				c.set[tag] = "" // so that it is not new when the source selects it some day
			}
		case !known:
			fresh = append(fresh, tag)
		case trigger.IsVersion(tag):
			others = append(others, tag)
		default:
			moving = append(moving, tag)
		}
	}
	turn %= max(1, len(others))
	queue := slices.Concat(fresh, moving, others[turn:], others[:turn])
	if len(queue) > pollHeads {
		if _, said := p.large.LoadOrStore(c.repository, true); !said {
			p.Log.Info("has more tags than are looked up in one pass; moved tags are found within several", "source", p.Name, "repository", c.registry+"/"+c.repository, "tags", len(queue), "pass", pollHeads)
		}
		queue = queue[:pollHeads]
	}
	for i, tag := range queue {
		digest, err := p.Registries.Digest(ctx, c.registry, c.repository, tag)
		if errors.Is(err, p.NotFound) {
			continue // deleted since it was listed
		}
		if err != nil {
			return turn + max(0, i-len(fresh)-len(moving)), err
		}
		old, known := before[tag]
		c.found(tag, digest, old, known)
	}
	return turn + max(0, len(queue)-len(fresh)-len(moving)), nil
}

func (p *Poller) selects(tag string) bool {
	return (p.tags == nil || p.tags.MatchString(tag)) &&
		!slices.ContainsFunc(p.exclude, func(re *regexp.Regexp) bool { return re.MatchString(tag) })
}

// accept makes the events count, and only then remembers what was seen: who
// is stopped in between says the same again, and a push that has been seen
// already makes no run.
func (p *polling) accept(ctx context.Context, name string, c *changes, seen bool) error {
	if len(c.events) > 0 {
		body, err := json.Marshal(c.events)
		if err != nil {
			return err
		}
		if err := p.Deliver(ctx, p.Name, body, c.events); err != nil {
			return err
		}
	}
	if len(c.set) == 0 && len(c.gone) == 0 && seen {
		return nil
	}
	return p.Memory.SavePolled(ctx, p.Name, name, c.set, c.gone)
}

// changes are what a pass found in a repository.
type changes struct {
	source, registry, repository string

	events []trigger.Event
	set    map[string]string
	gone   []string
}

func (c *changes) found(tag, digest, before string, known bool) {
	if known && digest == before {
		return
	}
	c.set[tag] = digest
	if !known || before != "" {
		c.add(trigger.Push, tag, digest)
	}
}

func (c *changes) deleted(before map[string]string, tags []string, selects func(string) bool) {
	there := map[string]bool{}
	for _, tag := range tags {
		there[tag] = true
	}
	for _, tag := range slices.Sorted(maps.Keys(before)) {
		if there[tag] {
			continue
		}
		c.gone = append(c.gone, tag)
		if selects(tag) {
			c.add(trigger.Delete, tag, before[tag])
		}
	}
}

// add adds an event. It has neither an id nor a time: the registry tells when
// a tag was moved as little as who did it, and the same content may come back
// to a tag.
func (c *changes) add(action, tag, digest string) {
	e := trigger.Event{Source: c.source, Action: action, Observed: true}
	if action == trigger.Push {
		e.Ignored = manifest{tag: tag}.ignored()
	}
	c.events = append(c.events, named(e, c.registry, c.repository, tag, digest))
}
