package action

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/dockbell/dockbell/trigger"
)

// callbackSpec is the answer to a webhook of Docker Hub: "Validate a webhook
// callback" of its documentation.
type callbackSpec struct {
	URL string `yaml:"url"`
}

type callbackAction struct {
	spec     callbackSpec
	client   *http.Client
	outcomes func(ctx context.Context, event int64) ([]trigger.State, error)
}

// DockerHubCallback builds the answer that tells Docker Hub how the runs of
// an event ended, as outcomes gives them. No rule names it: the event itself
// asks for it.
func DockerHubCallback(client *http.Client, outcomes func(ctx context.Context, event int64) ([]trigger.State, error)) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		a := &callbackAction{client: client, outcomes: outcomes}
		if err := decode(&a.spec); err != nil {
			return nil, err
		}
		u, err := checkURL("url", a.spec.URL)
		if err != nil {
			return nil, err
		}
		// Whoever knows the source's token could name any address here.
		if u.Scheme != "https" || u.Host != "registry.hub.docker.com" && u.Host != "hub.docker.com" {
			return nil, trigger.Field("url", "is not on a host of Docker Hub")
		}
		return a, nil
	}
}

func (a *callbackAction) Target() string { return "callback of Docker Hub" }

func (a *callbackAction) Do(ctx context.Context, run trigger.Run, log io.Writer) error {
	states, err := a.outcomes(ctx, run.EventID)
	if err != nil {
		return trigger.Retry(err)
	}
	answer := map[string]string{"state": "success", "context": "dockbell", "description": fmt.Sprintf("%d runs ended well", len(states))}
	bad := slices.DeleteFunc(states, func(s trigger.State) bool { return s != trigger.Failed && s != trigger.Unknown })
	if len(bad) > 0 {
		answer["state"], answer["description"] = "failure", fmt.Sprintf("%d of the runs failed", len(bad))
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPost, a.spec.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	c := &call{client: a.client, secrets: []string{req.URL.Path}} // the path is the secret of the callback
	if _, err := c.do(ctx, req); err != nil {
		return err
	}
	fmt.Fprintf(log, "told Docker Hub %s\n", answer["state"])
	return nil
}
