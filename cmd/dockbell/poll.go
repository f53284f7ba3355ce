package main

import (
	"context"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/registry"
	"github.com/dockbell/dockbell/trigger/source"
)

// pollWorld connects the pollers with the rest, but for the registries: where
// they remember, and who decides about what they find. They go on over a reload,
// so each time they ask for what is in force.
func (r *reloader) pollWorld() source.PollWorld {
	return source.PollWorld{
		Memory: r.db, Lead: r.db.Lead, NotFound: registry.ErrNotFound, Log: r.log,
		Deliver: func(ctx context.Context, source string, body []byte, events []trigger.Event) error {
			return r.now().server.Polled(ctx, source, body, events)
		},
		Rules: func() []string { return r.now().rules.Repositories() },
	}
}

// connectRegistries says what registries need before they are used.
func (r *reloader) connectRegistries(registries *registry.Registries) {
	registries.Connect(registry.Outside{
		Log: r.log,
		PullSecret: func(ctx context.Context, s registry.PullSecret) ([]byte, error) {
			return r.now().clusters.DockerConfig(ctx, s.Cluster, s.Namespace, s.Name)
		},
		Observe: func(host string, status int) { r.requests.WithLabelValues(host, strconv.Itoa(status)).Inc() },
	})
}

func newRequestCounter(metrics *prometheus.Registry) *prometheus.CounterVec {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dockbell_registry_requests_total", Help: "Requests to registries by status; 0 for none.",
	}, []string{"registry", "status"})
	metrics.MustRegister(requests)
	return requests
}

func (c *config) pollerNames() (names []string) {
	for _, p := range c.pollers {
		names = append(names, p.Name)
	}
	return names
}
