package rules

import (
	"fmt"
	"time"

	"github.com/robfig/cron/v3"
	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// gate is what the runs of a rule may have to wait for. Its zero value is
// always open.
type gate struct {
	windows []window
	freezes []freeze
	settle  time.Duration // how long no newer push may have come
	minAge  time.Duration // how long the image must have been known
	approve approval
}

// window is when runs may start: for some time from each moment of a schedule.
type window struct {
	schedule cron.Schedule
	length   time.Duration
	zone     *time.Location
}

// freeze is when none may, whatever the windows say.
type freeze struct {
	from, to time.Time
	reason   string
}

type windowSpec struct {
	Cron     string        `yaml:"cron"`
	For      time.Duration `yaml:"for"`
	Timezone string        `yaml:"timezone"`
}

type freezeSpec struct {
	From     string `yaml:"from"`
	To       string `yaml:"to"`
	Timezone string `yaml:"timezone"`
	Reason   string `yaml:"reason"`
}

// waits reports whether runs may have to wait.
func (g *gate) waits() bool {
	return len(g.windows) > 0 || len(g.freezes) > 0 || g.settle > 0 || g.minAge > 0 || g.approve.count > 0
}

// manyOpenings bounds the search for a moment that no freeze covers.
const manyOpenings = 10_000

// opens gives the first moment from t on when runs may start, and why that is
// not t itself; "" when it is. The zero time is never.
func (g *gate) opens(t time.Time) (at time.Time, why string) {
	at = t
	for range manyOpenings {
		if f := g.frozen(at); f != nil {
			at, why = f.to, "frozen"
			if f.reason != "" {
				why += " for " + f.reason
			}
			continue
		}
		if g.inWindow(at) {
			return at, why
		}
		why = "outside its window"
		if at = g.nextWindow(at); at.IsZero() {
			break
		}
	}
	return time.Time{}, "its window does not open any more"
}

func (g *gate) frozen(t time.Time) *freeze {
	for i, f := range g.freezes {
		if !t.Before(f.from) && t.Before(f.to) {
			return &g.freezes[i]
		}
	}
	return nil
}

func (g *gate) inWindow(t time.Time) bool {
	for _, w := range g.windows {
		// The last opening lies at most the length of the window back.
		if began := w.next(t.Add(-w.length)); !began.IsZero() && !began.After(t) {
			return true
		}
	}
	return len(g.windows) == 0
}

// nextWindow is when the next window opens; the zero time when none does.
func (g *gate) nextWindow(t time.Time) (next time.Time) {
	for _, w := range g.windows {
		if at := w.next(t); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

func (w window) next(t time.Time) time.Time { return w.schedule.Next(t.In(w.zone)) }

// hold makes a run wait for the gate.
func (g *gate) hold(run *trigger.Run, now time.Time) {
	if !g.waits() || run.State != "" {
		return
	}
	run.MinAge = g.minAge
	earliest := now.Add(g.settle)
	at, why := g.opens(earliest)
	if at.IsZero() {
		run.State, run.Reason, run.FinishedAt = trigger.Skipped, why, now
		return
	}
	run.NotBefore, run.Reason = at, until(at, why)
	if why == "" && g.settle > 0 {
		run.Reason = until(at, "waits for pushes to settle")
	}
	g.approve.ask(run, now)
}

func until(at time.Time, why string) string {
	if why == "" {
		return ""
	}
	return why + " until " + at.Format(time.RFC3339)
}

// loadGate reads the keys of a rule that make its runs wait.
func loadGate(n strictyaml.Node, s spec) gate {
	g := gate{settle: s.Settle, minAge: s.MinAge}
	if s.Settle < 0 {
		n.Key("settle").Faultf("must be a duration, as in 30s")
	}
	if s.MinAge < 0 {
		n.Key("minAge").Faultf("must be a duration, as in 24h")
	}
	for _, item := range oneOrMore(n, "window") {
		if w, ok := loadWindow(item); ok {
			g.windows = append(g.windows, w)
		}
	}
	for _, item := range oneOrMore(n, "freeze") {
		if f, ok := loadFreeze(item); ok {
			g.freezes = append(g.freezes, f)
		}
	}
	if n.Has("approve") {
		g.approve = loadApproval(n.Key("approve"))
	}
	return g
}

// oneOrMore are the elements of a key that may hold one mapping or a list of
// them.
func oneOrMore(n strictyaml.Node, key string) []strictyaml.Node {
	if !n.Has(key) {
		return nil
	}
	if at := n.Key(key); at.YAML().Kind != yaml.SequenceNode {
		return []strictyaml.Node{at}
	}
	return n.Key(key).Items()
}

func loadWindow(n strictyaml.Node) (w window, ok bool) {
	var s windowSpec
	if !n.Decode(&s) {
		return w, false
	}
	ok = true
	var err error
	if w.zone, err = time.LoadLocation(s.Timezone); err != nil {
		n.Key("timezone").Faultf("%q is not a time zone as in Europe/Berlin", s.Timezone)
		ok = false
	}
	if w.length = s.For; w.length <= 0 {
		n.Key("for").Faultf("is missing: how long the window stays open, as in 8h")
		ok = false
	}
	if w.schedule, err = cron.ParseStandard(s.Cron); s.Cron == "" {
		n.Key("cron").Faultf(`is missing: when the window opens, as in "0 9 * * MON-FRI"`)
		ok = false
	} else if err != nil {
		n.Key("cron").Faultf("%q: %v", s.Cron, err)
		ok = false
	} else if w.schedule.Next(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		n.Key("cron").Faultf("%q: is never", s.Cron)
		ok = false
	}
	return w, ok
}

func loadFreeze(n strictyaml.Node) (f freeze, ok bool) {
	var s freezeSpec
	if !n.Decode(&s) {
		return f, false
	}
	zone, err := time.LoadLocation(s.Timezone)
	if err != nil {
		n.Key("timezone").Faultf("%q is not a time zone as in Europe/Berlin", s.Timezone)
		return f, false
	}
	f.reason = s.Reason
	var errs [2]error
	f.from, errs[0] = parseMoment(s.From, zone, 0)
	f.to, errs[1] = parseMoment(s.To, zone, 1) // a day is frozen to its end
	for i, key := range []string{"from", "to"} {
		if errs[i] != nil {
			n.Key(key).Fault(errs[i])
		}
	}
	if errs[0] != nil || errs[1] != nil {
		return f, false
	}
	if !f.from.Before(f.to) {
		n.Key("to").Faultf("must be after from")
		return f, false
	}
	return f, true
}

// parseMoment reads a day, which begins some days later, or a moment in it.
func parseMoment(s string, zone *time.Location, days int) (time.Time, error) {
	if t, err := time.ParseInLocation(time.DateOnly, s, zone); err == nil {
		return t.AddDate(0, 0, days), nil
	}
	for _, layout := range []string{"2006-01-02 15:04", "2006-01-02T15:04", time.RFC3339} {
		if t, err := time.ParseInLocation(layout, s, zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a day as 2026-12-20 or a moment as 2026-12-20 18:00", s)
}

// Gate is when a run of a rule may start, and why that is not now; the zero
// time when it is now. A rule that is there no more holds nothing back: what it
// said when the run was accepted, the run has waited for. Notifications have no
// gate.
func (s *Set) Gate(run trigger.Run, now time.Time) (at time.Time, why string) {
	if run.Tells != 0 {
		return time.Time{}, ""
	}
	for _, r := range s.rules {
		if r.name == run.Rule {
			if at, why = r.gate.opens(now); why != "" {
				return at, until(at, why)
			}
			break
		}
	}
	return time.Time{}, ""
}

// Opening says when runs of a rule may start.
type Opening struct {
	Rule string    `json:"rule"`
	Open bool      `json:"open"`
	At   time.Time `json:"at,omitzero"`  // when it opens next; zero when it is open, or never opens
	Why  string    `json:"why,omitzero"` // it is closed
}

// Openings are those of the rules that have windows or freezes.
func (s *Set) Openings(now time.Time) []Opening {
	all := []Opening{}
	for _, r := range s.rules {
		if len(r.gate.windows) == 0 && len(r.gate.freezes) == 0 {
			continue
		}
		o := Opening{Rule: r.name}
		if o.At, o.Why = r.gate.opens(now); o.Why == "" {
			o.Open, o.At = true, time.Time{}
		}
		all = append(all, o)
	}
	return all
}
