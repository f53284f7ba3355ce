package main

import (
	"context"
	"net/http"
	"time"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/action"
)

// actionKinds is the table of all actions that a rule can name. One row and
// one file make a kind.
func actionKinds(client *http.Client, clusters *k8s.Clusters, allowCommands bool) map[string]trigger.Kind {
	return map[string]trigger.Kind{
		"command":    {Build: action.Command(allowCommands), Attempts: 3, Timeout: 5 * time.Minute},
		"github":     {Build: action.GitHub(client), Attempts: 10, Timeout: 30 * time.Second},
		"http":       {Build: action.HTTP(client), Attempts: 10, Timeout: 30 * time.Second},
		"jenkins":    {Build: action.Jenkins(client), Attempts: 10, Timeout: 30 * time.Second},
		"kubernetes": {Build: clusters.Deploy, Declarative: true, Timeout: 30 * time.Second},
	}
}

// callbackKind answers Docker Hub. No rule can name it: events ask for it.
const callbackKind = "dockerhub-callback"

func callbackRow(client *http.Client, outcomes func(ctx context.Context, event int64) ([]trigger.State, error)) trigger.Kind {
	return trigger.Kind{Build: action.DockerHubCallback(client, outcomes), Attempts: 10, Timeout: 30 * time.Second}
}
