package queue

import (
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

func (m *Metrics) ended(r trigger.Run, state trigger.State, took time.Duration) {
	m.running.WithLabelValues(r.Kind).Dec()
	m.tries.WithLabelValues(r.Rule, r.Kind, string(state)).Inc()
	m.took.WithLabelValues(r.Kind).Observe(took.Seconds())
}
