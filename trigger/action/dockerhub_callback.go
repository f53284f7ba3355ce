package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/dockbell/dockbell/trigger"
)

// dockerHubSpec tells Docker Hub what became of a push.
type dockerHubSpec struct {
	URL string `yaml:"url"` // the callback_url of the push
}

type dockerHubCallback struct {
	client   *Client
	url      string
	outcomes func(ctx context.Context, eventID int64) ([]trigger.State, error)
}

// DockerHubCallback builds actions that answer the callback of a Docker Hub
// webhook. outcomes gives how the event's other runs ended.
func DockerHubCallback(client *Client, outcomes func(ctx context.Context, eventID int64) ([]trigger.State, error)) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		var spec dockerHubSpec
		if err := decode(&spec); err != nil {
			return nil, err
		}
		// The URL comes from a body that nobody signs: without this check
		// it could send dockbell anywhere.
		u, err := checkURL(spec.URL)
		if err == nil && (u.Scheme != "https" || u.Host != "registry.hub.docker.com" && u.Host != "hub.docker.com") {
			err = errors.New("must be on https://registry.hub.docker.com or https://hub.docker.com")
		}
		if err != nil {
			return nil, trigger.Field("url", "%w", err)
		}
		return &dockerHubCallback{client, spec.URL, outcomes}, nil
	}
}

// Target is Docker Hub; the rest of the URL is a key to the webhook.
func (a *dockerHubCallback) Target() string { return "docker hub callback" }

// Do reports once. Docker Hub takes one verdict for a push, so that a repeat
// changes nothing.
func (a *dockerHubCallback) Do(ctx context.Context, run trigger.Run, log io.Writer) error {
	states, err := a.outcomes(ctx, run.EventID)
	if err != nil {
		return trigger.Retry(fmt.Errorf("cannot tell how the other runs of the event ended: %w", err))
	}
	state, description, err := verdict(states)
	if err != nil {
		return trigger.Retry(err)
	}
	c := newCall(a.client, http.MethodPost, a.url, "to Docker Hub's callback")
	c.harmless = true
	c.header.Set("Content-Type", "application/json")
	c.body, err = json.Marshal(map[string]string{"state": state, "description": description, "context": "dockbell"})
	if err != nil {
		return err
	}
	got, err := c.do(ctx)
	if err != nil {
		return err
	}
	if err := got.checkStatus(""); err != nil {
		return err
	}
	fmt.Fprintf(log, "told Docker Hub: %s (%s)\n", state, description)
	return nil
}

// verdict sums up how runs ended in the words of Docker's callback. What is
// not known counts as an error, which ends a chain of webhooks as a failure
// does.
func verdict(states []trigger.State) (state, description string, err error) {
	count := map[trigger.State]int{}
	for _, s := range states {
		if !s.Ended() {
			return "", "", errors.New("another run of the event has not ended")
		}
		count[s]++
	}
	var parts []string
	for _, s := range []trigger.State{trigger.Succeeded, trigger.Failed, trigger.Unknown, trigger.Superseded, trigger.Skipped} {
		if count[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[s], s))
		}
	}
	description = strings.Join(parts, ", ")
	switch {
	case count[trigger.Failed] > 0:
		return "failure", description, nil
	case count[trigger.Unknown] > 0:
		return "error", description, nil
	case len(states) == 0:
		return "success", "nothing to do", nil
	}
	return "success", description, nil
}
