package main

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/store"
)

// keepConfig is how long history is kept, as it stands in the configuration.
type keepConfig struct {
	Deliveries keptFor `yaml:"deliveries"`
	Successes  keptFor `yaml:"successes"`
	Failures   keptFor `yaml:"failures"`
}

const day = 24 * time.Hour

var defaultKeep = keepConfig{Deliveries: keptFor(30 * day), Successes: keptFor(90 * day), Failures: keptFor(365 * day)}

func (k keepConfig) keep() trigger.Keep {
	return trigger.Keep{Deliveries: time.Duration(k.Deliveries), Successes: time.Duration(k.Successes), Failures: time.Duration(k.Failures)}
}

// keptFor is a duration that may be written in days: 90d.
type keptFor time.Duration

// UnmarshalYAML implements [yaml.Unmarshaler].
func (a *keptFor) UnmarshalYAML(n *yaml.Node) error {
	d, err := parseAge(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || d < time.Hour {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: must be an age of at least an hour, as 90d or 36h, not %q", n.Line, n.Value)}}
	}
	*a = keptFor(d)
	return nil
}

func parseAge(s string) (time.Duration, error) {
	days, ok := strings.CutSuffix(s, "d")
	if !ok {
		return time.ParseDuration(s)
	}
	n, err := strconv.ParseUint(days, 10, 16)
	return time.Duration(n) * day, err
}

// pruneEvery is how often history is pruned, and pruneFirst how long after the
// start for the first time: then others have more to do.
const (
	pruneEvery = time.Hour
	pruneFirst = time.Minute
)

// prunedRows counts what pruneHistory forgets.
type prunedRows struct{ *prometheus.CounterVec }

func newPrunedRows(metrics *prometheus.Registry) prunedRows {
	p := prunedRows{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dockbell_pruned_total", Help: "Rows of history that were forgotten.",
	}, []string{"what"})}
	metrics.MustRegister(p)
	p.add(trigger.Pruned{}) // they are there from the start
	return p
}

func (p prunedRows) add(n trigger.Pruned) {
	for what, count := range map[string]int{"deliveries": n.Deliveries, "events": n.Events, "runs": n.Runs} {
		p.WithLabelValues(what).Add(float64(count))
	}
}

// pruneHistory forgets what need not be kept any more, until ctx ends. keep is
// asked each time for how long that is.
func pruneHistory(ctx context.Context, db *store.Store, keep func() trigger.Keep, pruned prunedRows, log *slog.Logger) error {
	wait := pruneFirst
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = pruneEvery
		leads, err := db.Lead(ctx, "prune")
		var n trigger.Pruned
		if leads {
			n, err = db.Prune(ctx, keep(), time.Now())
		}
		if err != nil && ctx.Err() == nil {
			log.Error("history cannot be pruned now", "error", err)
		}
		pruned.add(n)
		if n != (trigger.Pruned{}) {
			log.Info("history pruned", "deliveries", n.Deliveries, "events", n.Events, "runs", n.Runs)
		}
	}
}
