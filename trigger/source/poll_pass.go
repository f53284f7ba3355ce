package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// polling is a poller at work.
type polling struct {
	*Poller
	PollWorld
	watched  map[string]*watch    // by repository
	troubles map[string]string    // by repository or pattern: what was logged last
	paused   map[string]time.Time // by registry that is left alone: until when
	pass     int                  // how many the schedule has asked for
}

func newPolling(p *Poller, w PollWorld) *polling {
	return &polling{Poller: p, PollWorld: w, watched: map[string]*watch{}, troubles: map[string]string{}, paused: map[string]time.Time{}}
}

// watch is what a poller remembers of a repository while it runs.
type watch struct {
	turn  int      // where among the tags that have turns the next pass goes on
	moved []string // tags that moved, the last one first
	large bool     // it has been said that the repository is too large for one pass

	reached int // the last pass in which the registry was not left alone

	looked time.Time // when the last pass that was whole began
}

// repository is one that is looked at, and whether its first tags are new.
type repository struct {
	name string
	fire bool
}

// until waits for the next pass, and makes up meanwhile for what this one could
// not ask. It returns false when ctx has ended.
func (p *polling) until(ctx context.Context, next time.Time) bool {
	for {
		wake, again := next, false
		for _, until := range p.paused {
			if until.Before(wake) {
				wake, again = until, true
			}
		}
		select {
		case <-time.After(time.Until(wake)):
		case <-ctx.Done():
			return false
		}
		if !again {
			return true
		}
		p.again(ctx)
	}
}

// leads reports whether the pass is for this dockbell to do. Where it is not,
// another one goes on from what the store remembers.
func (p *polling) leads(ctx context.Context) bool {
	leads, err := p.Lead(ctx, "poll/"+p.Name)
	if err != nil && ctx.Err() == nil {
		p.Log.Error("nothing is polled now: the store does not say who does it", "source", p.Name, "error", err)
	}
	if !leads {
		clear(p.watched)
		clear(p.paused)
	}
	return leads
}

// all looks at each repository of the source.
func (p *polling) all(ctx context.Context) {
	if !p.leads(ctx) {
		return
	}
	p.pass++
	p.look(ctx, func(string) bool { return true })
}

// again looks at the repositories of those registries that were left alone and
// may be asked by now, as far as the pass has not reached them.
func (p *polling) again(ctx context.Context) {
	if !p.leads(ctx) {
		return
	}
	now := time.Now()
	due := map[string]bool{}
	for registry, until := range p.paused {
		due[registry] = !until.After(now)
	}
	p.look(ctx, func(registry string) bool { return due[registry] })
}

// look looks at the repositories of some registries: first at those that were
// not reached for longest, so that a registry that allows less than a pass at
// a time is got through, too.
func (p *polling) look(ctx context.Context, due func(registry string) bool) {
	maps.DeleteFunc(p.paused, func(registry string, _ time.Time) bool { return due(registry) })
	repositories := slices.DeleteFunc(p.repositories(ctx, due), func(r repository) bool { return p.watch(r.name).reached == p.pass })
	slices.SortStableFunc(repositories, func(a, b repository) int {
		return cmp.Compare(p.watch(a.name).reached, p.watch(b.name).reached)
	})
	troubles := make([]error, len(repositories))
	slots := make(chan struct{}, pollRepositories)
	var group sync.WaitGroup
	for i, r := range repositories {
		w := p.watch(r.name)
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			troubles[i] = p.one(ctx, r, w)
		})
	}
	group.Wait()
	for i, r := range repositories {
		if _, paused := pausedUntil(troubles[i]); !paused {
			p.watch(r.name).reached = p.pass
		}
		p.trouble(ctx, r.name, troubles[i])
	}
}

func (p *polling) watch(name string) *watch {
	if p.watched[name] == nil {
		p.watched[name] = &watch{}
	}
	return p.watched[name]
}

// pausedUntil tells a registry that is left alone, which has been said by who
// does so, from what is wrong with one repository.
func pausedUntil(err error) (time.Time, bool) {
	var paused interface{ PausedUntil() time.Time }
	if !errors.As(err, &paused) {
		return time.Time{}, false
	}
	return paused.PausedUntil(), true
}

// trouble logs what is wrong with a repository, once.
func (p *polling) trouble(ctx context.Context, name string, err error) {
	if ctx.Err() != nil {
		return
	}
	why := ""
	if until, ok := pausedUntil(err); ok {
		registry, _, _ := strings.Cut(name, "/")
		p.paused[registry] = maxTime(until, time.Now().Add(pollAgain))
		return
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

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// repositories expands the patterns for the registries that are due. What a
// pattern found when it was first expanded is kept: all else that it finds is
// new altogether, and that is not before it has been looked at.
func (p *polling) repositories(ctx context.Context, due func(registry string) bool) []repository {
	patterns := slices.Clone(p.patterns)
	if p.fromRules {
		patterns = append(patterns, p.Rules()...)
	}
	slices.Sort(patterns)
	found := map[string]bool{}
	catalogues := map[string][]string{}
	for _, pattern := range slices.Compact(patterns) {
		registry, rest, _ := strings.Cut(pattern, "/")
		if !due(registry) {
			continue
		}
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
		names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !doublestar.MatchUnvalidated(rest, name) })
		first, expanded, err := p.Memory.Polled(ctx, p.Name, pattern)
		if err == nil && !expanded {
			for _, name := range names {
				first[name] = ""
			}
			err = p.Memory.SavePolled(ctx, p.Name, pattern, first, nil)
		}
		if err != nil {
			p.Log.Error("the store does not say what was polled before", "source", p.Name, "error", err)
			continue
		}
		for _, name := range names {
			_, old := first[name]
			full := registry + "/" + name
			found[full] = found[full] || p.fire || !old
		}
	}
	var all []repository
	for _, name := range slices.Sorted(maps.Keys(found)) {
		all = append(all, repository{name, found[name]})
	}
	return all
}

// one looks at a repository.
func (p *polling) one(ctx context.Context, r repository, w *watch) error {
	before, seen, err := p.Memory.Polled(ctx, p.Name, r.name)
	if err != nil {
		return err
	}
	registry, name, _ := strings.Cut(r.name, "/")
	tags, err := p.Registries.Tags(ctx, registry, name)
	switch {
	case err != nil && !(errors.Is(err, p.NotFound) && !seen):
		return err // a repository that is gone may just be hidden: its tags do not count as deleted
	case seen && len(tags) == 0 && len(before) > 1:
		return fmt.Errorf("it has no tags any more; the %d that it had do not count as deleted", len(before))
	}
	began := time.Now()
	c := &changes{polling: p, registry: registry, repository: name, since: w.looked, before: before, set: map[string]string{}}
	cameToLight := !p.fire && len(tags) > pollNewTags
	if !seen && (!r.fire || cameToLight) || len(before) == 0 && cameToLight {
		for _, tag := range tags {
			before[tag], c.set[tag] = "", "" // known from now on, whatever was begun before
		}
	}
	err = c.lookUp(ctx, tags, w)
	if _, paused := pausedUntil(err); !paused {
		err = errors.Join(err, c.deleted(ctx, tags))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err = errors.Join(err, p.accept(ctx, r.name, c, seen)); err == nil {
		w.looked = began
	}
	return err
}

func (p *Poller) selects(tag string) bool {
	return (p.tags == nil || p.tags.MatchString(tag)) && attachedByTag(tag) == "" &&
		!slices.ContainsFunc(p.exclude, func(tags *trigger.TagPattern) bool { return tags.MatchString(tag) })
}

// accept makes the events count, and only then remembers what was seen: who
// is stopped in between says the same again, and a push that has been seen
// already makes no run.
func (p *polling) accept(ctx context.Context, name string, c *changes, seen bool) error {
	if len(c.events) > 0 {
		slices.SortStableFunc(c.events, byRelease)
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

// changes are what a pass finds in a repository.
type changes struct {
	*polling
	registry, repository string

	since  time.Time         // when what is found now was not so yet
	before map[string]string // what the tags pointed to
	events []trigger.Event
	set    map[string]string
	gone   []string
}

// lookUp looks up what tags point to: all that are new, those that are likely
// to move, and as many of the others as fit in a pass, in turn. One that cannot
// be looked up does not keep the others from it.
func (c *changes) lookUp(ctx context.Context, tags []string, w *watch) error {
	tags = slices.SortedFunc(slices.Values(tags), natural)
	var fresh, likely, others []string
	for _, tag := range tags {
		_, known := c.before[tag]
		switch {
		case !c.selects(tag):
			if !known {
				c.set[tag] = "" // so that it is not new when the source selects it some day
			}
		case !known:
			fresh = append(fresh, tag)
		case slices.Contains(w.moved, tag):
		case len(likely) < pollHeads/2 && !strings.ContainsAny(tag, "0123456789"):
			likely = append(likely, tag)
		default:
			others = append(others, tag)
		}
	}
	moved := slices.DeleteFunc(slices.Clone(w.moved), func(tag string) bool { return !slices.Contains(tags, tag) || !c.selects(tag) })
	slices.Reverse(others) // the newest first
	w.turn %= max(1, len(others))
	queue := slices.Concat(fresh, moved, likely, others[w.turn:], others[:w.turn])
	ahead := len(queue) - len(others)
	if len(queue) > pollHeads {
		if !w.large {
			w.large = true
			c.Log.Info("has more tags than are looked up in one pass; moved tags are found within several", "source", c.Name, "repository", c.registry+"/"+c.repository, "tags", len(queue), "pass", pollHeads)
		}
		queue = queue[:pollHeads]
	}
	var first error
	for i, tag := range queue {
		err := c.lookUpOne(ctx, tag, w)
		if _, paused := pausedUntil(err); paused || ctx.Err() != nil {
			return err
		}
		first = cmp.Or(first, err)
		if i >= ahead {
			w.turn++
		}
	}
	return first
}

func (c *changes) lookUpOne(ctx context.Context, tag string, w *watch) error {
	digest, err := c.Registries.Digest(ctx, c.registry, c.repository, tag)
	if errors.Is(err, c.NotFound) {
		return nil // deleted since it was listed
	} else if err != nil {
		return err
	}
	before, known := c.before[tag]
	if known && digest == before {
		return nil
	}
	if known && before == "" {
		c.set[tag] = digest // seen for the first time: nobody knows whether it moved
		return nil
	}
	e := trigger.Event{Action: trigger.Push}
	m, err := c.manifest(ctx, tag, digest)
	if errors.Is(err, c.NotFound) {
		return nil // moved or deleted since: the next pass sees it as it is then
	} else if err != nil {
		return err
	}
	e.MediaType, e.Ignored = m.mediaType, m.ignored()
	c.set[tag] = digest
	c.add(e, tag, digest)
	if known {
		w.moved = slices.DeleteFunc(w.moved, func(t string) bool { return t == tag })
		w.moved = slices.Insert(w.moved, 0, tag)
		w.moved = w.moved[:min(len(w.moved), pollMoved)]
	}
	return nil
}

// manifest is what tells an image from a chart: it is fetched for a tag that
// is new or has moved only.
func (c *changes) manifest(ctx context.Context, tag, digest string) (manifest, error) {
	mediaType, text, err := c.Registries.Manifest(ctx, c.registry, c.repository, digest)
	if err != nil {
		return manifest{}, err
	}
	m := manifest{tag: tag, mediaType: mediaType}
	type part struct {
		MediaType string `json:"mediaType"`
	}
	var told struct {
		ArtifactType string `json:"artifactType"`
		Config       *part  `json:"config"`
		Layers       []part `json:"layers"`
	}
	if json.Unmarshal(text, &told) != nil {
		return m, nil
	}
	m.artifactType = told.ArtifactType
	if told.Config != nil {
		for _, p := range append([]part{*told.Config}, told.Layers...) {
			m.parts = append(m.parts, p.MediaType)
		}
	}
	return m, nil
}

// deleted finds the tags that are gone. A list that lacks a tag is no proof:
// the registry is asked for it.
func (c *changes) deleted(ctx context.Context, tags []string) error {
	there := map[string]bool{}
	for _, tag := range tags {
		there[tag] = true
	}
	asked := 0
	for _, tag := range slices.Sorted(maps.Keys(c.before)) {
		if there[tag] {
			continue
		}
		if !c.selects(tag) {
			c.gone = append(c.gone, tag)
			continue
		}
		if asked++; asked > pollHeads {
			return nil // the others in the next pass
		}
		_, err := c.Registries.Digest(ctx, c.registry, c.repository, tag)
		if err != nil && !errors.Is(err, c.NotFound) {
			return err
		}
		if err != nil {
			c.gone = append(c.gone, tag)
			c.add(trigger.Event{Action: trigger.Delete}, tag, c.before[tag])
		}
	}
	return nil
}

// add adds an event. It has neither an id nor a time: the registry tells when
// a tag was moved as little as who did it, and the same content may come back
// to a tag.
func (c *changes) add(e trigger.Event, tag, digest string) {
	e.Source, e.Observed, e.Since = c.Name, true, c.since
	c.events = append(c.events, named(e, c.registry, c.repository, tag, digest))
}

// byRelease orders events so that the newest comes last, as far as tags tell:
// versions by their rules, after all others by their numbers. Deletes follow.
func byRelease(a, b trigger.Event) int {
	if a.Action != b.Action {
		return cmp.Compare(b.Action, a.Action)
	}
	va, vb := trigger.IsVersion(a.Tag), trigger.IsVersion(b.Tag)
	switch {
	case va && !vb:
		return 1
	case vb && !va:
		return -1
	case va && trigger.Backwards(trigger.Release{Tag: b.Tag}, trigger.Release{Tag: a.Tag}, trigger.OrderSemver) != "":
		return -1
	case va && trigger.Backwards(trigger.Release{Tag: a.Tag}, trigger.Release{Tag: b.Tag}, trigger.OrderSemver) != "":
		return 1
	}
	return natural(a.Tag, b.Tag)
}

// natural compares as people do: build-9 before build-10.
func natural(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na == 0 || nb == 0 {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
		if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y), cmp.Compare(na, nb)); c != 0 {
			return c
		}
		a, b = a[na:], b[nb:]
	}
	return cmp.Compare(len(a), len(b))
}

// digits is how many digits s begins with.
func digits(s string) int {
	n := 0
	for n < len(s) && '0' <= s[n] && s[n] <= '9' {
		n++
	}
	return n
}
