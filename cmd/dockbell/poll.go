package main

import (
	"context"
	"log/slog"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/trigger/registry"
	"github.com/dockbell/dockbell/trigger/server"
	"github.com/dockbell/dockbell/trigger/source"
	"github.com/dockbell/dockbell/trigger/store"
)

// pollWorld connects the pollers with the rest: what they ask, where they
// remember, and who decides about what they find.
func (c *config) pollWorld(clusters *k8s.Clusters, db *store.Store, srv *server.Server, metrics *prometheus.Registry, log *slog.Logger) source.PollWorld {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dockbell_registry_requests_total", Help: "Requests to registries by status; 0 for none.",
	}, []string{"registry", "status"})
	metrics.MustRegister(requests)
	c.registries.Connect(registry.Outside{
		Log: log,
		PullSecret: func(ctx context.Context, s registry.PullSecret) ([]byte, error) {
			return clusters.DockerConfig(ctx, s.Cluster, s.Namespace, s.Name)
		},
		Observe: func(host string, status int) { requests.WithLabelValues(host, strconv.Itoa(status)).Inc() },
	})
	return source.PollWorld{
		Registries: c.registries, Memory: db, Lead: db.Lead, NotFound: registry.ErrNotFound,
		Deliver: srv.Polled, Rules: c.rules.Repositories(), Log: log,
	}
}
