package main

import (
	"context"
	"time"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/action"
)

// actionKinds is the table of all actions that a rule can name. One row and
// one file make a kind.
func actionKinds(client *action.Client, clusters *k8s.Clusters, allowCommands bool) map[string]trigger.Kind {
	kinds := map[string]trigger.Kind{
		"command":    {Build: action.Command(allowCommands), Attempts: 3, Timeout: 5 * time.Minute},
		"github":     {Build: action.GitHub(client), Attempts: 10, Timeout: 30 * time.Second},
		"gitlab":     {Build: action.GitLab(client), Attempts: 10, Timeout: 30 * time.Second},
		"http":       {Build: action.HTTP(client), Attempts: 10, Timeout: 30 * time.Second},
		"jenkins":    {Build: action.Jenkins(client), Attempts: 10, Timeout: 30 * time.Second},
		"kubernetes": {Build: clusters.Deploy, Declarative: true, Timeout: 30 * time.Second},
	}
	for name, row := range kinds {
		if clusters.DryRun && name != "kubernetes" {
			kinds[name] = rehearse(row)
		}
	}
	return kinds
}

// callbackKind answers Docker Hub. No rule can name it: events ask for it.
const callbackKind = "dockerhub-callback"

func callbackRow(client *action.Client, outcomes func(ctx context.Context, event int64) ([]trigger.State, error)) trigger.Kind {
	return trigger.Kind{Build: action.DockerHubCallback(client, outcomes), Attempts: 10, Timeout: 30 * time.Second}
}
