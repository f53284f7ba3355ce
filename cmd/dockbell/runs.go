package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
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
			return printRuns(cmd.OutOrStdout(), page, repo)
		},
	}
	f := cmd.Flags()
	f.StringVar(&state, "state", "", "only runs in this `state`: waiting, running, succeeded, failed, superseded, skipped, rejected, expired, rolled-back, unknown")
	f.StringVar(&rule, "rule", "", "only runs of this `rule`")
	f.StringVar(&repo, "repo", "", "only runs for this `repository`, without its registry")
	f.StringVar(&event, "event", "", "only runs of this event `id`")
	f.IntVar(&limit, "limit", 20, "how many")
	c.flags(cmd)
	cmd.AddCommand(
		showRunCommand(&c), watchCommand(&c), approveCommand(&c), rejectCommand(&c),
		interveneCommand(&c, "cancel", "End a run that waits"), interveneCommand(&c, "retry", "Try a run again that has failed"),
	)
	return cmd
}

func showRunCommand(c *apiClient) *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "Show the whole story of one run",
		Example: `  dockbell runs show 42`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			run, err := c.run(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), run)
			}
			return printRun(cmd.OutOrStdout(), run)
		},
	}
}

// run asks for one run.
func (c *apiClient) run(ctx context.Context, id string) (run server.RunView, err error) {
	if err := checkID("a run", id); err != nil {
		return run, err
	}
	if err := c.get(ctx, "/api/v1/runs/"+id, nil, &run); err != nil {
		return run, err
	}
	if run.Push == nil {
		return run, fmt.Errorf("%s does not answer as a dockbell of this version does", c.server)
	}
	return run, nil
}

// interveneCommand changes something about a run.
func interveneCommand(c *apiClient, what, short string) *cobra.Command {
	var by string
	cmd := &cobra.Command{
		Use:     what + " ID",
		Short:   short,
		Long:    short + ".\n\n" + needsToken,
		Example: `  dockbell runs ` + what + ` 42`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.change(cmd, args[0], what, by, map[string]string{})
		},
	}
	byFlag(cmd, &by)
	return cmd
}

func approveCommand(c *apiClient) *cobra.Command {
	var by string
	cmd := &cobra.Command{
		Use:   "approve ID",
		Short: "Say yes to a run that waits for it",
		Long: `Say yes to a run that waits for it. What is approved is shown, and is exactly
what is done: should the run be of another content by then, it is refused.

` + needsToken,
		Example: `  dockbell runs approve 42
  dockbell runs approve 42 --by anna`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			run, err := c.run(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if c.output != "json" {
				if err := printApproved(cmd.OutOrStdout(), run); err != nil {
					return err
				}
			}
			return c.change(cmd, args[0], "approve", by, map[string]string{"digest": run.Push.Digest})
		},
	}
	byFlag(cmd, &by)
	return cmd
}

func rejectCommand(c *apiClient) *cobra.Command {
	var by, reason string
	cmd := &cobra.Command{
		Use:   "reject ID --reason TEXT",
		Short: "Say no to a run that waits for approval",
		Long: `Say no to a run that waits for approval. It ends, whoever else approves it.

` + needsToken,
		Example: `  dockbell runs reject 42 --reason "not before the migration is done"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			run, err := c.run(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.change(cmd, args[0], "reject", by, map[string]string{"digest": run.Push.Digest, "reason": reason})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, as a `text` for the record")
	byFlag(cmd, &by)
	// Only a name that is no flag is refused here.
	_ = cmd.MarkFlagRequired("reason")
	return cmd
}

// change asks for something to be done about a run and prints how it stands
// then.
func (c *apiClient) change(cmd *cobra.Command, id, what, by string, body map[string]string) (err error) {
	if err := checkID("a run", id); err != nil {
		return err
	}
	if body["by"], err = c.whoever(cmd.Context(), by); err != nil {
		return err
	}
	var run server.RunView
	if err := c.post(cmd.Context(), "/api/v1/runs/"+id+"/"+what, body, &run); err != nil {
		return err
	}
	if c.output == "json" {
		return printJSON(cmd.OutOrStdout(), run)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "run %s is %s", id, run.State)
	if run.Reason != "" {
		fmt.Fprintf(cmd.OutOrStdout(), ": %s", run.Reason)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout())
	return err
}

// printApproved shows what is approved.
func printApproved(w io.Writer, r server.RunView) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "Image\t%s\n", r.Push.Pinned())
	fmt.Fprintf(t, "Target\t%s\n", r.Target)
	fmt.Fprintf(t, "Rule\t%s, action %d: %s\n", r.Rule, r.Index, r.Kind)
	fmt.Fprintf(t, "Approvals\t%s\n", approvals(r.Run))
	return t.Flush()
}

// approvals says how many have approved a run, of whom, and until when.
func approvals(r trigger.Run) string {
	text := fmt.Sprintf("%d of %d", r.Approved, r.Approvals)
	if len(r.Approvers) > 0 {
		text += ", by " + strings.Join(r.Approvers, ", ")
	}
	if r.Awaits() && !r.ApproveBy.IsZero() {
		text += ", until " + clock(r.ApproveBy)
	}
	return text
}

func printRuns(w io.Writer, page server.RunPage, repo string) error {
	if len(page.Runs) == 0 {
		_, err := fmt.Fprintln(w, "No runs."+withoutRegistry(repo), "`dockbell events` shows what was received and why it started nothing.")
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
	if r.Parent != 0 {
		fmt.Fprintf(t, "Found by\trun %d\n", r.Parent)
	}
	if r.Begun != "" {
		fmt.Fprintf(t, "Begun\t%s\n", r.Begun)
	}
	fmt.Fprintf(t, "Lane\t%s (%s)\n", r.Lane, r.Mode)
	if r.Approvals > 0 {
		fmt.Fprintf(t, "Approvals\t%s\n", approvals(r.Run))
	}
	if r.Deadline != "" {
		fmt.Fprintf(t, "Deadline\t%s after its first try\n", r.Deadline)
	}
	for _, h := range r.Holds {
		fmt.Fprintf(t, "Held\tby %s: %s; `dockbell release %d` ends it\n", h.By, h.Reason, h.ID)
	}
	if !r.State.Ended() && r.NotBefore.After(time.Now()) {
		fmt.Fprintf(t, "Not before\t%s\n", clock(r.NotBefore))
	}
	if !r.FinishedAt.IsZero() {
		fmt.Fprintf(t, "Ended\t%s, %s after it was accepted\n", clock(r.FinishedAt), r.FinishedAt.Sub(r.CreatedAt).Round(time.Millisecond))
	}
	fmt.Fprintf(t, "Parameters\t%s\n", r.Spec)
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, c := range r.Story {
		fmt.Fprintf(w, "%s  %s\n", clock(c.At), strings.ReplaceAll(c.Text, "\n", "\n    "))
		for _, a := range r.Tries {
			if a.N == c.Try {
				printLog(w, a.Log)
			}
		}
	}
	return nil
}

// printLog prints what an action wrote, below the try that it belongs to.
func printLog(w io.Writer, log string) {
	for line := range strings.Lines(log) {
		fmt.Fprintln(w, "   ", strings.TrimSuffix(line, "\n"))
	}
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
