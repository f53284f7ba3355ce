package queue

import (
	"iter"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dockbell/dockbell/trigger"
)

// Metrics count what the queue does. Their labels come from the configuration
// alone, never from a payload.
type Metrics struct {
	running *prometheus.GaugeVec
	tries   *prometheus.CounterVec
	took    *prometheus.HistogramVec
	delay   prometheus.Histogram

	mu       sync.Mutex
	expected map[origin]bool
}

// origin is where runs come from.
type origin struct{ rule, kind string }

// tried are the states that a try can lead to.
var tried = []trigger.State{
	trigger.Waiting, trigger.Succeeded, trigger.Failed, trigger.Superseded, trigger.Skipped, trigger.RolledBack, trigger.Unknown,
}

// mostExpected bounds for how many origins there are counters before anything
// has been counted.
const mostExpected = 1000

// Expect makes the counters of runs to come, which are of these rules and
// kinds: one that begins with its first count hides that from who asks how much
// it has grown. Those of rules that are no longer expected go.
func (m *Metrics) Expect(runs iter.Seq2[string, string]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.expected
	m.expected = map[origin]bool{}
	for rule, kind := range runs {
		o := origin{rule, kind}
		m.expected[o] = true
		if before[o] || len(m.expected) > mostExpected {
			continue
		}
		m.running.WithLabelValues(kind)
		m.took.WithLabelValues(kind)
		for _, state := range tried {
			m.tries.WithLabelValues(rule, kind, string(state))
		}
	}
	for o := range before {
		for _, state := range tried {
			if !m.expected[o] {
				m.tries.DeleteLabelValues(o.rule, o.kind, string(state))
			}
		}
	}
}

// NewMetrics registers the queue's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "dockbell_runs_running", Help: "Runs being carried out now.",
		}, []string{"kind"}),
		tries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dockbell_run_tries_total", Help: "Tries of runs by the state they led to; waiting means that the run is tried again.",
		}, []string{"rule", "kind", "state"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dockbell_run_try_seconds", Help: "How long one try took.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}, []string{"kind"}),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "dockbell_run_start_delay_seconds", Help: "From accepting a run to its first start.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, 1, 10, 60, 600, 3600},
		}),
	}
	reg.MustRegister(m.running, m.tries, m.took, m.delay)
	return m
}

func (m *Metrics) started(r trigger.Run) {
	m.running.WithLabelValues(r.Kind).Inc()
	if r.Attempt == 1 {
		m.delay.Observe(r.StartedAt.Sub(r.CreatedAt).Seconds())
	}
}

// ended is the end of a try that was started.
func (m *Metrics) ended(r trigger.Run, state trigger.State, took time.Duration) {
	m.running.WithLabelValues(r.Kind).Dec()
	m.led(r, state)
	m.took.WithLabelValues(r.Kind).Observe(took.Seconds())
}

// led is what a run has come to, if only by being cut off or too late.
func (m *Metrics) led(r trigger.Run, state trigger.State) {
	m.tries.WithLabelValues(r.Rule, r.Kind, string(state)).Inc()
}
