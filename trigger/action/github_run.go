package action

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// githubRun is a run of a workflow, as GitHub shows it.
type githubRun struct {
	ID         int64  `json:"id"`
	URL        string `json:"html_url"`
	Title      string `json:"display_title"` // its run-name
	Status     string `json:"status"`
	Conclusion string `json:"conclusion"`
}

const (
	githubLately = 50              // runs among which one is looked for
	githubSkew   = 5 * time.Minute // by which the clocks may differ
)

var githubRunID = regexp.MustCompile(`/actions/runs/([0-9]+)$`)

// workflow starts a workflow and with `wait` follows its run to the end. With a
// correlation input the run is found again by its name, so that a try whose
// answer was lost may be repeated: the next one looks first.
func (a *github) workflow(ctx context.Context, run trigger.Run, log io.Writer) error {
	if b, ok := goesOn(run); ok {
		return a.follow(ctx, b, mark(run), log)
	}
	if a.spec.Correlation != "" && run.Attempt > 1 {
		found, err := a.find(ctx, mark(run), run.FirstAt)
		if err != nil && !errors.Is(err, errNotYet) {
			return fmt.Errorf("whether an earlier try has started a run: %w", err)
		}
		if err == nil {
			fmt.Fprintln(log, "an earlier try started "+found)
			return a.follow(ctx, begun{found, time.Now()}, mark(run), log)
		}
	}
	started, err := a.start(ctx, run)
	if err != nil {
		return err
	}
	fmt.Fprintln(log, "GitHub started "+started)
	return a.follow(ctx, begun{started, time.Now()}, mark(run), log)
}

// start dispatches the workflow and gives the address of its run, or words for
// it when GitHub does not say.
func (a *github) start(ctx context.Context, run trigger.Run) (string, error) {
	body := map[string]any{"ref": a.spec.Ref}
	if a.spec.APIURL == githubAPI {
		body["return_run_details"] = true // older Enterprise Servers do not know it
	}
	inputs := map[string]string{}
	for name, v := range a.spec.Inputs {
		inputs[name] = v
	}
	if a.spec.Correlation != "" {
		inputs[a.spec.Correlation] = mark(run)
	}
	if len(inputs) > 0 {
		body["inputs"] = inputs
	}
	got, err := a.send(ctx, http.MethodPost, "/actions/workflows/"+url.PathEscape(a.spec.Workflow)+"/dispatches", body,
		func(c *call) { c.harmless = a.spec.Correlation != "" })
	if err != nil {
		return "", err
	}
	if err := got.checkStatus(a.advice(got.status, "Actions")); err != nil {
		return "", err
	}
	var says struct {
		URL string `json:"html_url"`
	}
	if got.status == http.StatusOK && got.decode(&says, "") == nil && says.URL != "" {
		return got.call.hide(oneLine(showURL(says.URL))), nil
	}
	return "a run of " + a.spec.Workflow, nil
}

// follow waits for the end of a run, which it may have to find first.
func (a *github) follow(ctx context.Context, b begun, mark string, log io.Writer) error {
	if a.spec.Wait == nil {
		return nil
	}
	try := ctx
	ctx = trigger.OnlyWaits(try, b.String())
	until := b.since.Add(*a.spec.Wait)
	if !githubRunID.MatchString(b.url) {
		if a.spec.Correlation == "" {
			return trigger.Uncertain(errors.New("GitHub did not say which run it has started; name an input in correlation that the workflow has in its run-name"))
		}
		err := follow(ctx, until, func(ctx context.Context) (err error) {
			found, err := a.find(ctx, mark, b.since)
			if err == nil {
				b.url = found
			}
			return err
		})
		if errors.Is(err, errNotYet) {
			return trigger.Uncertain(fmt.Errorf("no run of %s with %s in its name has come up: has the workflow its input %s in run-name?", a.spec.Workflow, mark, a.spec.Correlation))
		} else if err != nil {
			return err
		}
		fmt.Fprintln(log, "it is "+b.url)
		ctx = trigger.OnlyWaits(try, b.String())
	}
	return a.ended(ctx, b.url, until, log)
}

// find gives the address of the run whose name holds the mark.
func (a *github) find(ctx context.Context, mark string, since time.Time) (string, error) {
	query := url.Values{
		"event": {"workflow_dispatch"}, "per_page": {fmt.Sprint(githubLately)},
		"created": {">=" + since.Add(-githubSkew).UTC().Format(time.RFC3339)},
	}
	got, err := a.send(ctx, http.MethodGet, "/actions/workflows/"+url.PathEscape(a.spec.Workflow)+"/runs?"+query.Encode(), nil, nil)
	if err != nil {
		return "", lost(err)
	}
	var says struct {
		Runs []githubRun `json:"workflow_runs"`
	}
	if err := got.decode(&says, a.advice(got.status, "Actions")); err != nil {
		return "", lost(err)
	}
	i := slices.IndexFunc(says.Runs, func(r githubRun) bool { return strings.Contains(r.Title, mark) })
	if i < 0 {
		return "", errNotYet
	}
	return oneLine(showURL(says.Runs[i].URL)), nil
}

// ended waits for the end of a run. What has not changed does not count against
// the rate limit.
func (a *github) ended(ctx context.Context, address string, until time.Time, log io.Writer) error {
	path := githubRunID.FindString(address)
	tag := ""
	err := follow(ctx, until, func(ctx context.Context) error {
		got, err := a.send(ctx, http.MethodGet, path, nil, func(c *call) {
			if tag != "" {
				c.header.Set("If-None-Match", tag)
			}
		})
		if err != nil {
			return lost(err)
		}
		if got.status == http.StatusNotModified {
			return errNotYet
		}
		var says githubRun
		if err := got.decode(&says, a.advice(got.status, "Actions")); err != nil {
			return lost(err)
		}
		tag = got.header.Get("ETag")
		switch {
		case says.Status != "completed":
			return errNotYet
		case says.Conclusion == "success", says.Conclusion == "neutral":
			fmt.Fprintf(log, "it ended as %s\n", says.Conclusion)
			return nil
		}
		return fmt.Errorf("the run ended as %s: %s", oneLine(says.Conclusion), address)
	})
	if errors.Is(err, errNotYet) {
		return notEnded(address, *a.spec.Wait)
	}
	return err
}
