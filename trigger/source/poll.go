package source

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"strings"
	"time"
	_ "time/tzdata" // for machines and containers that have no time zones

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

	// pollMoved is how many tags that have moved are looked up in each pass.
	pollMoved = 50

	// pollAgain is how long at the least a registry that was left alone is not
	// asked again.
	pollAgain = time.Second

	// pollNewTags is how many tags a repository may have that comes up, in a
	// catalogue or where there was none, and counts as new. One with more was
	// hidden before.
	pollNewTags = 20
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
	tags      *trigger.TagPattern // nil: all
	exclude   []*trigger.TagPattern
	fire      bool // what the first pass finds is new
}

// Registries are asked by a poller.
type Registries interface {
	Tags(ctx context.Context, host, repository string) ([]string, error)
	Digest(ctx context.Context, host, repository, tag string) (string, error)
	Manifest(ctx context.Context, host, repository, digest string) (mediaType string, text []byte, err error)
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

	// Lead reports whether this is the dockbell that does a duty, of those that
	// share a store.
	Lead func(ctx context.Context, duty string) (bool, error)

	// NotFound tells an answer of a registry that has no such repository or
	// tag from its other errors.
	NotFound error

	// Deliver makes events count like those of a sender, and returns when they
	// are on disk.
	Deliver func(ctx context.Context, source string, body []byte, events []trigger.Event) error

	// Rules gives the patterns of repositories that the rules name. It is asked
	// in each pass: rules may come and go.
	Rules func() []string

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
	p := &Poller{Name: name, written: s.Schedule, jitter: s.Jitter, fire: s.Initial == "fire", zone: time.UTC}
	var err error
	if p.schedule, err = parseSchedule(s.Schedule); err != nil {
		fault("schedule", "%v", err)
	}
	if p.zone, err = time.LoadLocation(s.Timezone); err != nil {
		fault("timezone", "%q is not a time zone as in Europe/Berlin", s.Timezone)
	}
	if s.Jitter < 0 {
		fault("jitter", "must be a duration, as in 10s")
	}
	if s.Initial != "learn" && s.Initial != "fire" {
		fault("initial", "must be learn (what is there already starts nothing) or fire, not %q", s.Initial)
	}
	if len(s.Repositories) == 0 {
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
	compile := func(at strictyaml.Node, expr string) *trigger.TagPattern {
		pattern, err := trigger.CompileTag(expr)
		if err != nil {
			at.Faultf("%q: %v", expr, err)
			ok = false
		}
		return pattern
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

// parseSchedule reads when passes begin. The library's parser panics on some
// time zones, which have a key of their own.
func parseSchedule(s string) (cron.Schedule, error) {
	switch {
	case s == "":
		return nil, errors.New(`is missing: five fields as in "*/2 * * * *", or "@every 30s"`)
	case strings.Contains(s, "TZ="):
		return nil, errors.New("the time zone has a key of its own, `timezone`")
	}
	if every, ok := strings.CutPrefix(s, "@every "); ok {
		if d, err := time.ParseDuration(every); err == nil && d < time.Second {
			return nil, fmt.Errorf("%q is shorter than a second", s)
		}
	}
	schedule, err := cron.ParseStandard(s)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", s, err)
	}
	if schedule.Next(time.Now()).IsZero() {
		return nil, fmt.Errorf("%q never comes", s)
	}
	return schedule, nil
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
	if !isPattern(rest) {
		img, err := trigger.NewImage(registry, rest, "", "")
		return img.Name(), err
	}
	if registry == trigger.DockerHub {
		return "", errors.New("no pattern works there: Docker Hub does not list its repositories; name each")
	}
	_, err := trigger.NewImage(registry, "any", "", "") // checks the registry
	return registry + "/" + rest, err
}

func isPattern(s string) bool { return strings.ContainsAny(s, "*?[{\\") }

// Run looks at the repositories at once, and then whenever the schedule says,
// until ctx ends. Registries that were left alone meanwhile are made up for as
// soon as they may be asked.
func (p *Poller) Run(ctx context.Context, w PollWorld) error {
	pass := newPolling(p, w)
	for late := time.Duration(0); ; late = p.wait() {
		pass.all(ctx)
		if !pass.until(ctx, p.next(time.Now(), late)) {
			return nil
		}
	}
}

// next is when the next pass begins, after one that was late by so much: the
// jitter moves all passes by the same, and does not stretch the time between.
func (p *Poller) next(now time.Time, late time.Duration) time.Time {
	return p.schedule.Next(now.Add(-late).In(p.zone)).Add(p.wait())
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
