package rules

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
)

const (
	mostReason  = 600 // bytes of why a run failed that a message has; the rest is behind its link
	mostOfMany  = 5   // outcomes that a summary names
	shortDigest = 12  // characters that tell one digest from another
)

// stateWords are how a run stands, in a sentence, the worst first.
var stateWords = []struct{ word, says string }{
	{string(trigger.Failed), "failed"},
	{string(trigger.RolledBack), "failed and was rolled back"},
	{string(trigger.Unknown), "may or may not have happened"},
	{string(trigger.Expired), "expired: nobody approved it in time"},
	{string(trigger.Rejected), "was rejected"},
	{onApproval, "waits for approval"},
	{string(trigger.Superseded), "was superseded"},
	{string(trigger.Skipped), "was skipped"},
	{string(trigger.Succeeded), "succeeded"},
}

// gravity is the place of a word among the stateWords.
func gravity(word string) int {
	for i, w := range stateWords {
		if w.word == word {
			return i
		}
	}
	return len(stateWords)
}

// newOutcome is what the templates of a notification may name of one outcome.
// base is the URL of dockbell; "" when that is not known.
func newOutcome(told trigger.Notice, base string, now time.Time) *outcome {
	r := told.Run
	o := &outcome{
		pushed: newPushed(r.Event), Rule: r.Rule, State: noticeWord(r), Reason: r.Reason,
		Target: r.Target, Kind: r.Kind, Run: strconv.FormatInt(r.ID, 10), Attempt: r.Attempt, Count: 1,
	}
	// In a lane of calls all kinds of images follow each other.
	from := told.From
	if from.Name() != r.Event.Name() {
		from = trigger.Image{}
	} else {
		o.From = from.String()
	}
	// Of a run that was never tried, or waits, only one time is known.
	began, over := r.FirstAt, r.FinishedAt
	if over.IsZero() {
		over = now
	}
	if began.IsZero() {
		began = over
	}
	o.StartedAt, o.FinishedAt = stamp{began}, stamp{over}
	if took := over.Sub(began); took > 0 {
		o.Took = roughly(took)
	}
	if base != "" {
		o.Link = base + "/api/v1/runs/" + o.Run
	}
	o.Title = o.sentence()
	o.Text = strings.Join(slices.DeleteFunc([]string{change(from, r.Event.Image), shorten(r.Reason, mostReason), o.about()}, func(s string) bool { return s == "" }), "\n")
	return o
}

// summarise is what the templates know of many outcomes at once: most of it is
// that of the worst of them.
func summarise(all []*outcome, base string) *outcome {
	sorted := slices.SortedStableFunc(slices.Values(all), func(a, b *outcome) int { return gravity(a.State) - gravity(b.State) })
	sum := *sorted[0]
	sum.Count, sum.Link, sum.Took, sum.From = len(all), base, "", ""
	counts := map[string]int{}
	for _, o := range sorted {
		counts[o.State]++
		if o.StartedAt.Before(sum.StartedAt.Time) {
			sum.StartedAt = o.StartedAt
		}
		if o.FinishedAt.After(sum.FinishedAt.Time) {
			sum.FinishedAt = o.FinishedAt
		}
	}
	var states, lines []string
	for _, word := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return gravity(a) - gravity(b) }) {
		states = append(states, fmt.Sprintf("%d %s", counts[word], word))
	}
	sum.Title = fmt.Sprintf("%d outcomes: %s", len(all), strings.Join(states, ", "))
	for _, o := range sorted[:min(len(sorted), mostOfMany)] {
		lines = append(lines, o.Title)
	}
	if rest := len(all) - len(lines); rest > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", rest))
	}
	sum.Text = strings.Join(lines, "\n")
	return &sum
}

// sentence says in one line how a run stands.
func (o *outcome) sentence() string {
	s := o.Target
	if i := gravity(o.State); i < len(stateWords) {
		s += " " + stateWords[i].says
	}
	if o.Image != "" {
		s += ": " + o.Image
	}
	return s
}

// change says which version of an image is replaced by which, in as few words as
// tell them apart; nothing when there was none.
func change(from, to trigger.Image) string {
	switch {
	case from == trigger.Image{} || from == to:
		return ""
	case from.Tag != to.Tag:
		return version(from) + " → " + version(to)
	}
	return to.Tag + ": " + digestStart(from) + " → " + digestStart(to)
}

// about says where a run comes from and how it went.
func (o *outcome) about() string {
	s := "rule " + o.Rule
	if o.Actor != "" {
		s += ", pushed by " + o.Actor
	}
	if o.Took != "" {
		s += ", took " + o.Took
	}
	if o.Attempt > 1 {
		s += fmt.Sprintf(", %d tries", o.Attempt)
	}
	return s
}

// version is the tag, or the digest where there is none.
func version(i trigger.Image) string {
	if i.Tag != "" {
		return i.Tag
	}
	return digestStart(i)
}

func digestStart(i trigger.Image) string {
	algorithm, hex, _ := strings.Cut(i.Digest, ":")
	return algorithm + ":" + hex[:min(len(hex), shortDigest)]
}

// roughly is a duration as people say it.
func roughly(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// shorten cuts a text between two characters.
func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}

// withMessage is a mapping of one kind of action with the parameters that make
// its message, where it has none of its own; with whole all of them, so that it
// says nothing that was written for one outcome.
func withMessage(y *yaml.Node, kinds map[string]trigger.Kind, whole bool) *yaml.Node {
	message := kinds[y.Content[0].Value].Message
	given := y.Content[1]
	if message == nil || given.Kind != yaml.MappingNode {
		return y
	}
	filled := *given
	keys := slices.Sorted(maps.Keys(message))
	if whole {
		_, others := split(given, keys)
		filled = *others
	}
	filled.Content = slices.Clone(filled.Content)
	scalar := func(s string) *yaml.Node {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Line: given.Line}
	}
	for _, key := range keys {
		if have, _ := split(&filled, []string{key}); len(have.Content) == 0 {
			filled.Content = append(filled.Content, scalar(key), scalar(message[key]))
		}
	}
	all := *y
	all.Content = []*yaml.Node{y.Content[0], &filled}
	return &all
}
