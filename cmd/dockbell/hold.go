package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/server"
)

func holdCommand() *cobra.Command {
	var c apiClient
	var lane, digest, run, reason, by string
	cmd := &cobra.Command{
		Use:   "hold {--digest DIGEST | --lane LANE | --run ID} --reason TEXT",
		Short: "Keep a digest or a lane from being deployed until it is released",
		Long: `Keep something from being deployed until it is released. Runs for a digest that
is held are skipped, whichever source they are from; the runs of a lane that is
held wait. With both, or with --run, the digest is skipped in that lane only.
` + "`dockbell runs show`" + ` names the lane of a run.

` + needsToken,
		Example: `  dockbell hold --run 42 --reason "leaks memory"
  dockbell hold --digest sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 --reason "CVE in its base"
  dockbell hold --lane rule/web/0 --reason "migration is running"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if run != "" {
				if lane, digest, err = c.ofRun(cmd, run); err != nil {
					return err
				}
			}
			body := map[string]string{"lane": lane, "digest": digest, "reason": reason}
			if body["by"], err = c.whoever(cmd.Context(), by); err != nil {
				return err
			}
			var h trigger.Hold
			if err := c.post(cmd.Context(), "/api/v1/holds", body, &h); err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), h)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "hold %d: %s, until `dockbell release %d`\n", h.ID, held(h), h.ID)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&digest, "digest", "", "skip runs for this `digest`, sha256:…")
	f.StringVar(&lane, "lane", "", "let the runs of this `lane` wait")
	f.StringVar(&run, "run", "", "skip the digest of the run with this `id` in its lane")
	f.StringVar(&reason, "reason", "", "why, as a `text` for the record")
	byFlag(cmd, &by)
	c.flags(cmd)
	cmd.MarkFlagsOneRequired("digest", "lane", "run")
	cmd.MarkFlagsMutuallyExclusive("run", "digest")
	cmd.MarkFlagsMutuallyExclusive("run", "lane")
	// Only a name that is no flag is refused here.
	_ = cmd.MarkFlagRequired("reason")
	return cmd
}

// ofRun gives the lane and the digest of a run.
func (c *apiClient) ofRun(cmd *cobra.Command, id string) (lane, digest string, err error) {
	run, err := c.run(cmd.Context(), id)
	if err == nil && run.Push.Digest == "" {
		err = errors.New("run " + id + " has no digest, its sender tells none: hold its lane by --lane " + run.Lane)
	}
	if err != nil {
		return "", "", err
	}
	return run.Lane, run.Push.Digest, nil
}

// held says what a hold keeps from happening.
func held(h trigger.Hold) string {
	switch {
	case h.Digest == "":
		return "the runs of lane " + h.Lane + " wait"
	case h.Lane == "":
		return h.Digest + " is skipped"
	}
	return h.Digest + " is skipped in lane " + h.Lane
}

func holdsCommand() *cobra.Command {
	var c apiClient
	var all bool
	cmd := &cobra.Command{
		Use:   "holds",
		Short: "List what is held, newest first",
		Example: `  dockbell holds
  dockbell holds --all -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{}
			if all {
				query.Set("released", "true")
			}
			var list server.HoldList
			if err := c.get(cmd.Context(), "/api/v1/holds", query, &list); err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), list)
			}
			return printHolds(cmd.OutOrStdout(), list.Holds)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "released ones too")
	c.flags(cmd)
	return cmd
}

func printHolds(w io.Writer, holds []trigger.Hold) error {
	if len(holds) == 0 {
		_, err := fmt.Fprintln(w, "Nothing is held.")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "HOLD\tLANE\tDIGEST\tAGE\tBY\tRELEASED\tREASON")
	for _, h := range holds {
		released := ""
		if !h.ReleasedAt.IsZero() {
			released = age(h.ReleasedAt) + " ago by " + h.ReleasedBy
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", h.ID, h.Lane, h.Digest, age(h.At), h.By, released, clip(h.Reason))
	}
	return t.Flush()
}

func releaseCommand() *cobra.Command {
	var c apiClient
	var by string
	cmd := &cobra.Command{
		Use:   "release HOLD",
		Short: "End a hold: what it held may be deployed again",
		Long: `End a hold. The runs of a lane that waited go on; a digest that was skipped is
deployed when it is pushed again, or by dockbell replay event/ID --fire.

` + needsToken,
		Example: `  dockbell holds
  dockbell release 3`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkID("a hold", args[0]); err != nil {
				return err
			}
			name, err := c.whoever(cmd.Context(), by)
			if err != nil {
				return err
			}
			var released map[string]string
			if err := c.post(cmd.Context(), "/api/v1/holds/"+args[0]+"/release", map[string]string{"by": name}, &released); err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), released)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "hold %s is released by %s\n", args[0], released["releasedBy"])
			return err
		},
	}
	byFlag(cmd, &by)
	c.flags(cmd)
	return cmd
}
