package action

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/dockbell/dockbell/trigger"
)

// The Generic Webhook Trigger plugin starts the jobs that know a token, with
// variables that they read from the body. Its page in the plugins index,
// "Generic Webhook Trigger", says how it is called and what it answers.

// pushed is what a call tells of an event where nobody says what to tell.
func pushed(run trigger.Run) map[string]any {
	e := run.Event
	return map[string]any{
		"image": e.Image.String(), "registry": e.Registry, "repository": e.Repository,
		"tag": e.Tag, "digest": e.Digest, "run": strconv.FormatInt(run.ID, 10),
	}
}

func (a *jenkins) fillWebhook(c *call, run trigger.Run) error {
	token, err := a.spec.WebhookToken.Read()
	if err != nil {
		return err
	}
	c.secrets, c.most = append(c.secrets, token), jenkinsList // it repeats all variables
	c.header.Set("Token", token)
	c.header.Set("Content-Type", "application/json")
	var body any = a.spec.Parameters
	if a.spec.Parameters == nil {
		body = pushed(run)
	}
	c.body, err = json.Marshal(body)
	return err
}

// triggered gives the queue item of what the plugin has started. It answers 200
// for jobs whose filter did not match, too, and 404 where no job knows the token.
func (a *jenkins) triggered(got *answer) (item string, err error) {
	if got.status == http.StatusNotFound {
		return "", got.fault("no job with a Generic Webhook Trigger knows this token, or the plugin is not installed")
	}
	if err := got.checkStatus(a.advice(got)); err != nil {
		return "", err
	}
	var says struct {
		Jobs map[string]struct {
			Triggered bool   `json:"triggered"`
			URL       string `json:"url"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(got.body, &says); err != nil {
		return "", got.words("this is no answer of the Generic Webhook Trigger; what it has started is not known")
	}
	var items []string
	for _, name := range slices.Sorted(maps.Keys(says.Jobs)) {
		if job := says.Jobs[name]; job.Triggered {
			items = append(items, got.call.hide(oneLine(a.root+"/"+strings.TrimLeft(job.URL, "/"))))
		}
	}
	switch {
	case len(items) == 0:
		return "", trigger.Skip("Jenkins has started nothing: no job's filter lets this through")
	case len(items) > 1 && a.spec.Wait != nil:
		return "", got.words("it has started several jobs, and `wait` is for one: give each a token of its own")
	}
	return items[0], nil
}
