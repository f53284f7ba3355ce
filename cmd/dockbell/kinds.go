package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/action"
	"github.com/dockbell/dockbell/trigger/action/git"
)

// actionKinds is the table of all actions that a rule can name. One row and
// one file make a kind.
func actionKinds(client *action.Client, clusters *k8s.Clusters, aliases trigger.Aliases, allowCommands bool) map[string]trigger.Kind {
	kinds := map[string]trigger.Kind{
		"command":    {Build: action.Command(allowCommands), Fixed: action.CommandFixed, Attempts: 3, Timeout: 5 * time.Minute},
		"git":        {Build: action.Git(client, git.NewClones(cloneFolders()...), aliases), Declarative: true, Timeout: 2 * time.Minute},
		"github":     {Build: action.GitHub(client), Attempts: 10, Timeout: 30 * time.Second},
		"gitlab":     {Build: action.GitLab(client), Attempts: 10, Timeout: 30 * time.Second},
		"http":       {Build: action.HTTP(client), Attempts: 10, Timeout: 30 * time.Second},
		"jenkins":    {Build: action.Jenkins(client), Attempts: 10, Timeout: 30 * time.Second},
		"kubernetes": {Build: clusters.Deploy, Declarative: true, Timeout: 30 * time.Second},
	}
	maps.Copy(kinds, messageKinds(client))
	for name, row := range kinds {
		if name != "kubernetes" { // its API servers check a change
			kinds[name] = rehearsable(row, clusters.DryRun)
		}
	}
	return kinds
}

// messageKinds are the rows of those that write to people. A message that cannot
// be sent now is still worth sending within the hour, which so many tries take.
func messageKinds(client *action.Client) map[string]trigger.Kind {
	kinds := map[string]trigger.Kind{
		"discord":  {Build: action.Discord(client)},
		"email":    {Build: action.Email(client)},
		"grafana":  {Build: action.Grafana(client), Message: action.GrafanaTemplates()},
		"shoutrrr": {Build: action.Shoutrrr(client, courier()...)},
		"slack":    {Build: action.Slack(client)},
		"teams":    {Build: action.Teams(client)},
	}
	for name, row := range kinds {
		row.Attempts, row.Timeout = 120, 30*time.Second
		if row.Message == nil {
			row.Message = action.MessageTemplates()
		}
		kinds[name] = row
	}
	return kinds
}

// callbackKind answers Docker Hub. No rule can name it: events ask for it.
const callbackKind = "dockerhub-callback"

func callbackRow(client *action.Client, outcomes func(ctx context.Context, event int64) ([]trigger.State, error)) trigger.Kind {
	return trigger.Kind{Build: action.DockerHubCallback(client, outcomes), Attempts: 10, Timeout: 30 * time.Second}
}

// cloneFolders are where clones of repositories may be kept: with what else is
// cached, or where that cannot be written to with what is temporary.
func cloneFolders() []string {
	folders := []string{filepath.Join(os.TempDir(), fmt.Sprintf("dockbell-%d", os.Getuid()), "git")}
	if cache, err := os.UserCacheDir(); err == nil {
		return append([]string{filepath.Join(cache, "dockbell", "git")}, folders...)
	}
	return folders
}
