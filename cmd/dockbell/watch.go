package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/server"
)

const (
	// silence is how long a connection that says nothing is taken for one that
	// stands. dockbell says something four times as often.
	silence = time.Minute

	// comeBack is how long dockbell may be away, as while it restarts.
	comeBack  = time.Minute
	knockEach = time.Second
)

func watchCommand(c *apiClient) *cobra.Command {
	var rule, repo string
	cmd := &cobra.Command{
		Use:   "watch [ID]",
		Short: "Follow runs while they happen",
		Long: `Follow runs while they happen. Without an ID each change of state of any run is a
line, until it is interrupted. With one it tells the story of that run, with
what its action writes while it is written, and ends with the run: with status
0 when the run has succeeded, and 1 when it has not.

Of a run that another replica carries out, what its action writes is shown when
the try has ended. When dockbell is restarted the watch goes on after that.`,
		Example: `  dockbell runs watch
  dockbell runs watch --rule web-to-prod
  dockbell runs watch 42 && echo it is out`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := &watchPrinter{out: cmd.OutOrStdout(), json: c.output == "json"}
			if len(args) == 0 {
				query := url.Values{}
				for key, value := range map[string]string{"rule": rule, "repo": repo} {
					if value != "" {
						query.Set(key, value)
					}
				}
				return c.follow(cmd, "/api/v1/watch", query, p.change)
			}
			if rule != "" || repo != "" {
				return errors.New("--rule and --repo choose among all runs: leave them out, or the ID")
			}
			if err := checkID("a run", args[0]); err != nil {
				return err
			}
			err := c.follow(cmd, "/api/v1/runs/"+args[0]+"/watch", nil, p.story)
			if err == nil && p.ended != trigger.Succeeded {
				err = errSilent // it has been told
			}
			return err
		},
	}
	cmd.Flags().StringVar(&rule, "rule", "", "only runs of this `rule`")
	cmd.Flags().StringVar(&repo, "repo", "", "only runs for this `repository`, without its registry")
	return cmd
}

// event is one of a stream of server-sent events.
type event struct {
	ID   string          `json:"id,omitempty"`
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// follow passes on the events of a stream until each says that it is over. Once
// it has begun, it goes on after a connection that is lost.
func (c *apiClient) follow(cmd *cobra.Command, path string, query url.Values, each func(event) (over bool, err error)) error {
	ctx, last, begun := cmd.Context(), "", false
	var lost time.Time // since when there is no connection; zero while there is one
	for {
		over, heard, err := c.followOnce(ctx, path, query, &last, each)
		begun = begun || heard
		switch {
		case over:
			return err
		case ctx.Err() != nil:
			return errSilent // interrupted
		case !begun:
			return err
		case heard || lost.IsZero():
			lost = time.Now()
			fmt.Fprintf(cmd.ErrOrStderr(), "dockbell: %v; waiting for it to come back\n", err)
		case time.Since(lost) > comeBack:
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(knockEach):
		}
	}
}

// followOnce is follow for one connection. Heard is whether there was one.
func (c *apiClient) followOnce(ctx context.Context, path string, query url.Values, last *string, each func(event) (bool, error)) (over, heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	alive := time.AfterFunc(silence, cancel)
	defer alive.Stop()
	header := http.Header{}
	if *last != "" {
		header.Set("Last-Event-ID", *last)
	}
	resp, err := c.send(ctx, &http.Client{}, http.MethodGet, path, query, header, nil)
	if err != nil {
		return false, false, err
	}
	defer resp.Body.Close()
	var e event
	for lines := bufio.NewReader(resp.Body); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return false, true, fmt.Errorf("the connection to %s has ended", c.server)
		}
		alive.Reset(silence)
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch key {
		case "id":
			e.ID = value
		case "event":
			e.Name = value
		case "data":
			e.Data = json.RawMessage(value)
		case "":
			if e.Name == "" {
				continue // only to show that it is there
			}
			if over, err := each(e); over || err != nil {
				return true, true, err
			}
			if e.ID != "" {
				*last = e.ID
			}
			e = event{}
		}
	}
}

// watchPrinter shows events to people, or as JSON.
type watchPrinter struct {
	out   io.Writer
	json  bool
	inner bool          // in the middle of a line
	ended trigger.State // of the run that is watched
}

// change shows an event of all runs.
func (p *watchPrinter) change(e event) (over bool, err error) {
	if p.json {
		return false, p.printJSON(e)
	}
	switch e.Name {
	case "run":
		var c server.Change
		if err := json.Unmarshal(e.Data, &c); err != nil {
			return true, err
		}
		_, err = fmt.Fprintln(p.out, strings.TrimRight(fmt.Sprintf("%s  %6d  %-11s  %s  %s  %s  %s",
			c.At.Local().Format("15:04:05.000"), c.ID, c.State, c.Rule, c.Target, c.Image, why(c)), " "))
	case "missed":
		_, err = fmt.Fprintln(p.out, "… some changes are missing here; `dockbell runs` shows how all stand …")
	}
	return false, err
}

// why is what else there is to say of a change.
func why(c server.Change) string {
	switch {
	case c.Reason != "":
		return clip(c.Reason)
	case c.State == trigger.Running && c.Begun != "":
		return clip("waits for " + c.Begun)
	case c.State == trigger.Running && c.Attempt > 1:
		return fmt.Sprintf("try %d", c.Attempt)
	}
	return ""
}

// story shows an event of one run. It is over when that has ended.
func (p *watchPrinter) story(e event) (over bool, err error) {
	if e.Name == "end" {
		var run server.RunView
		if err := json.Unmarshal(e.Data, &run); err != nil {
			return true, err
		}
		over, p.ended = true, run.State
	}
	if p.json {
		return over, p.printJSON(e)
	}
	switch e.Name {
	case "chapter":
		var c server.Told
		if err := json.Unmarshal(e.Data, &c); err != nil {
			return true, err
		}
		p.endLine()
		_, err = fmt.Fprintf(p.out, "%s  %s\n", clock(c.At), strings.ReplaceAll(c.Text, "\n", "\n    "))
		printLog(p.out, c.Log)
	case "output":
		var w server.Written
		if err := json.Unmarshal(e.Data, &w); err != nil {
			return true, err
		}
		err = p.output(w.Text)
	case "elsewhere":
		_, err = fmt.Fprintln(p.out, "    (another dockbell carries it out; what it writes is shown when the try has ended)")
	}
	return over, err
}

// output shows a piece of what an action writes, below the try that it belongs
// to.
func (p *watchPrinter) output(text string) error {
	for line := range strings.Lines(text) {
		if !p.inner {
			line = "    " + line
		}
		p.inner = !strings.HasSuffix(line, "\n")
		if _, err := io.WriteString(p.out, line); err != nil {
			return err
		}
	}
	return nil
}

func (p *watchPrinter) endLine() {
	if p.inner {
		fmt.Fprintln(p.out)
		p.inner = false
	}
}

// printJSON writes an event on a line.
func (p *watchPrinter) printJSON(e event) error {
	enc := json.NewEncoder(p.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(e)
}
