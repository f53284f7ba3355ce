package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/dockbell/dockbell/trigger/server"
)

// replayRequest is what is asked of the API.
type replayRequest struct {
	By    string `json:"by,omitempty"`
	Fire  bool   `json:"fire,omitempty"`
	Force bool   `json:"force,omitempty"`
}

func replayCommand() *cobra.Command {
	var c apiClient
	var ask replayRequest
	cmd := &cobra.Command{
		Use:   "replay {delivery|event}/ID",
		Short: "Send a recorded delivery or event through the rules of today",
		Long: `Send a recorded delivery or event through the rules of today. A delivery is
understood anew, as if its sender sent it again; an event is taken as it was
understood then. Without --fire nothing is done: it says what would be. What
was done for this push before is not done again, unless --force is given; a
step back is never taken.

` + needsToken,
		Example: `  dockbell replay delivery/12
  dockbell replay event/34 --fire
  dockbell replay event/34 --fire --force`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			path, err := replayPath(args[0])
			if err != nil {
				return err
			}
			body := ask
			if body.By, err = c.whoever(cmd.Context(), ask.By); err != nil {
				return err
			}
			var done server.ReplayView
			if err := c.post(cmd.Context(), path, body, &done); err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), done)
			}
			if err := printReplay(cmd.OutOrStdout(), done); err != nil {
				return err
			}
			return printNext(cmd.OutOrStdout(), args[0], ask.Force, done)
		},
	}
	cmd.Flags().BoolVar(&ask.Fire, "fire", false, "do it")
	cmd.Flags().BoolVar(&ask.Force, "force", false, "also what was done for this push before")
	byFlag(cmd, &ask.By)
	c.flags(cmd)
	return cmd
}

func replayPath(arg string) (string, error) {
	kind, id, _ := strings.Cut(arg, "/")
	all, ok := map[string]string{"delivery": "deliveries", "event": "events"}[kind]
	if !ok || checkID(kind, id) != nil {
		return "", fmt.Errorf("%q is neither delivery/ID nor event/ID; `dockbell events show` names both", arg)
	}
	return "/api/v1/" + all + "/" + id + "/replay", nil
}

func printReplay(w io.Writer, done server.ReplayView) error {
	if len(done.Events) == 0 {
		fmt.Fprintf(w, "There is no event in %s.\n", done.Of)
	}
	for _, e := range done.Events {
		fmt.Fprintln(w, strings.TrimSpace(e.Action+" "+e.Image))
		if len(e.Runs) == 0 {
			fmt.Fprintln(w, "  starts nothing:", e.Ignored)
			continue
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, r := range e.Runs {
			fmt.Fprintf(t, "  rule %s\t%s %s\t%s\n", r.Rule, r.Kind, r.Target, became(r))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// became is what became of a rule's action, or would.
func became(r server.ReplayedRun) string {
	switch {
	case r.New && r.Run != "":
		return strings.TrimSuffix("run "+r.Run+": "+r.Reason, ": ")
	case r.New && r.Reason != "":
		return "would be a run: " + r.Reason
	case r.New:
		return "would start"
	case r.Run != "":
		return "stands already: run " + r.Run + ", " + r.State
	}
	return "no run: " + r.Reason
}

// printNext ends by saying how to act.
func printNext(w io.Writer, what string, force bool, done server.ReplayView) (err error) {
	fresh, old := 0, 0
	for _, e := range done.Events {
		for _, r := range e.Runs {
			if r.New {
				fresh++
			} else if r.Run != "" {
				old++
			}
		}
	}
	switch {
	case done.Delivery != "":
		_, err = fmt.Fprintf(w, "\nReplayed as delivery %s; new runs: %d.\n", done.Delivery, fresh)
	case fresh > 0 && force:
		_, err = fmt.Fprintf(w, "\nNothing was done. `dockbell replay %s --fire --force` does it.\n", what)
	case fresh > 0:
		_, err = fmt.Fprintf(w, "\nNothing was done. `dockbell replay %s --fire` does it.\n", what)
	case old > 0 && !force:
		_, err = fmt.Fprintf(w, "\nNothing was done, and nothing would be. `dockbell replay %s --force` tells what would be done all the same.\n", what)
	default:
		_, err = fmt.Fprintln(w, "\nNothing was done, and nothing would be.")
	}
	return err
}
