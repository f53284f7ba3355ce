package main

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/server"
)

func runsCommand() *cobra.Command {
	var c apiClient
	var state, rule, repo, event string
	var limit int
	cmd := &cobra.Command{
		Use:   "runs",
		Short: "List runs, newest first",
		Example: `  dockbell runs
  dockbell runs --state failed
  dockbell runs --repo shop/web -o json
  dockbell runs show 42`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{}
			for key, value := range map[string]string{"state": state, "rule": rule, "repo": repo, "event": event} {
				if value != "" {
					query.Set(key, value)
				}
			}
			query.Set("limit", strconv.Itoa(limit))
			var page server.RunPage
			if err := c.get(cmd.Context(), "/api/v1/runs", query, &page); err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), page)
			}
			return printRuns(cmd.OutOrStdout(), page)
		},
	}
	f := cmd.Flags()
	f.StringVar(&state, "state", "", "only runs in this `state`: waiting, running, succeeded, failed, superseded, skipped, unknown")
	f.StringVar(&rule, "rule", "", "only runs of this `rule`")
	f.StringVar(&repo, "repo", "", "only runs for this `repository`, without its registry")
	f.StringVar(&event, "event", "", "only runs of this event `id`")
	f.IntVar(&limit, "limit", 20, "how many")
	c.flags(cmd)
	cmd.AddCommand(showRunCommand(&c), interveneCommand(&c, "cancel", "End a run that waits"), interveneCommand(&c, "retry", "Try a run again that has failed"))
	return cmd
}

func showRunCommand(c *apiClient) *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "Show the whole story of one run",
		Example: `  dockbell runs show 42`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := strconv.ParseUint(args[0], 10, 63); err != nil {
				return fmt.Errorf("%q is not the id of a run, which is a number", args[0])
			}
			var run server.RunView
			if err := c.get(cmd.Context(), "/api/v1/runs/"+args[0], nil, &run); err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), run)
			}
			if run.Push == nil {
				return fmt.Errorf("%s does not answer as a dockbell of this version does", c.server)
			}
			return printRun(cmd.OutOrStdout(), run)
		},
	}
}

// interveneCommand changes something about a run.
func interveneCommand(c *apiClient, what, short string) *cobra.Command {
	var by string
	cmd := &cobra.Command{
		Use:   what + " ID",
		Short: short,
		Long: short + `. The running dockbell must have a server.token, and DOCKBELL_TOKEN
must be set to it here.`,
		Example: `  dockbell runs ` + what + ` 42`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := strconv.ParseUint(args[0], 10, 63); err != nil {
				return fmt.Errorf("%q is not the id of a run, which is a number", args[0])
			}
			var run server.RunView
			if err := c.post(cmd.Context(), "/api/v1/runs/"+args[0]+"/"+what, map[string]string{"by": by}, &run); err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), run)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "run %s is %s: %s\n", args[0], run.State, run.Reason)
			return err
		},
	}
	cmd.Flags().StringVar(&by, "by", os.Getenv("USER"), "who you are, for the record")
	return cmd
}

func printRuns(w io.Writer, page server.RunPage) error {
	if len(page.Runs) == 0 {
		_, err := fmt.Fprintln(w, "No runs. `dockbell events` shows what was received and why it started nothing.")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "RUN\tSTATE\tRULE\tTARGET\tIMAGE\tTRIES\tAGE\tREASON")
	for _, r := range page.Runs {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", r.ID, r.State, r.Rule, r.Target, r.Image, r.Attempt, age(r.CreatedAt), clip(r.Reason))
	}
	return t.Flush()
}

func printRun(w io.Writer, r server.RunView) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "Run\t%d of event %d\n", r.ID, r.EventID)
	fmt.Fprintf(t, "State\t%s\n", r.State)
	if r.Reason != "" {
		fmt.Fprintf(t, "Reason\t%s\n", r.Reason)
	}
	fmt.Fprintf(t, "Image\t%s\n", r.Push.Pinned())
	fmt.Fprintf(t, "Pushed\t%s, seen by source %s\n", clock(r.Push.Time()), r.Push.Source)
	fmt.Fprintf(t, "Rule\t%s, action %d: %s\n", r.Rule, r.Index, r.Kind)
	fmt.Fprintf(t, "Target\t%s\n", r.Target)
	fmt.Fprintf(t, "Lane\t%s (%s)\n", r.Lane, r.Mode)
	fmt.Fprintf(t, "Accepted\t%s\n", clock(r.CreatedAt))
	if !r.State.Ended() && r.NotBefore.After(time.Now()) {
		fmt.Fprintf(t, "Next try\t%s\n", clock(r.NotBefore))
	}
	if !r.FinishedAt.IsZero() {
		fmt.Fprintf(t, "Ended\t%s, %s after it was accepted\n", clock(r.FinishedAt), r.FinishedAt.Sub(r.CreatedAt).Round(time.Millisecond))
	}
	fmt.Fprintf(t, "Parameters\t%s\n", r.Spec)
	if err := t.Flush(); err != nil {
		return err
	}
	for _, a := range r.Tries {
		fmt.Fprintf(w, "\nTry %d, %s, took %s: %s", a.N, clock(a.StartedAt), a.FinishedAt.Sub(a.StartedAt).Round(time.Millisecond), outcome(a.State))
		if a.Reason != "" {
			fmt.Fprintf(w, ": %s", a.Reason)
		}
		fmt.Fprintln(w)
		for line := range strings.Lines(a.Log) {
			fmt.Fprintln(w, " ", strings.TrimSuffix(line, "\n"))
		}
	}
	return nil
}

// outcome is how a try ended: a run that waits again has failed to get there.
func outcome(s trigger.State) string {
	if s == trigger.Waiting {
		return "failed, to be tried again"
	}
	return string(s)
}

func eventsCommand() *cobra.Command {
	var c apiClient
	var repo string
	var limit int
	cmd := &cobra.Command{
		Use:   "events",
		Short: "List events, newest first, and why they started nothing",
		Example: `  dockbell events
  dockbell events --repo shop/web --limit 100 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{"limit": {strconv.Itoa(limit)}}
			if repo != "" {
				query.Set("repo", repo)
			}
			var page server.EventPage
			if err := c.get(cmd.Context(), "/api/v1/events", query, &page); err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), page)
			}
			return printEvents(cmd.OutOrStdout(), page)
		},
	}
	cmd.Flags().StringVar(&repo, "repo", "", "only events of this `repository`, without its registry")
	cmd.Flags().IntVar(&limit, "limit", 20, "how many")
	c.flags(cmd)
	return cmd
}

func printEvents(w io.Writer, page server.EventPage) error {
	if len(page.Events) == 0 {
		_, err := fmt.Fprintln(w, "No events. Does the registry's notification reach the hooks address, and is it answered 2xx?")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "EVENT\tSOURCE\tACTION\tIMAGE\tAGE\tRUNS\tREASON")
	for _, e := range page.Events {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", e.EventRecord.ID, e.Source, e.Action, e.Image.String(), age(e.ReceivedAt), strings.Join(e.Runs, " "), clip(e.Reason))
	}
	return t.Flush()
}

// age is how long ago something was, for a table.
func age(t time.Time) string {
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05.000 MST") }

// clip keeps a table readable; `show` and -o json have all of it.
func clip(s string) string {
	const most = 100
	s, _, _ = strings.Cut(s, "\n")
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}
