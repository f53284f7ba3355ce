package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dockbell/dockbell/rules"
)

func windowsCommand() *cobra.Command {
	var configPath, at, output string
	cmd := &cobra.Command{
		Use:   "windows",
		Short: "Say when the rules that have windows or freezes let runs start",
		Example: `  dockbell windows --config dockbell.yaml
  dockbell windows --at 2026-12-24T12:00:00Z`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			now := time.Now()
			if at != "" {
				var err error
				if now, err = time.Parse(time.RFC3339, at); err != nil {
					return fmt.Errorf("--at %q: must be a moment as 2026-12-24T12:00:00Z", at)
				}
			}
			conf, err := loadConfig(configPath, offlineKinds(cmd.Context(), true))
			if err != nil {
				return fmt.Errorf("%s cannot be used:\n%w", configPath, err)
			}
			openings := conf.rules.Openings(now)
			if output == "json" {
				return printJSON(cmd.OutOrStdout(), openings)
			}
			return printOpenings(cmd.OutOrStdout(), openings, now)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&configPath, "config", "c", "dockbell.yaml", "configuration `file`")
	f.StringVar(&at, "at", "", "another `moment` than now, as 2026-12-24T12:00:00Z")
	outputFlag(cmd, &output)
	return cmd
}

func printOpenings(w io.Writer, openings []rules.Opening, now time.Time) error {
	if len(openings) == 0 {
		_, err := fmt.Fprintln(w, "No rule has a window or a freeze: runs start at any time.")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "RULE\tNOW\tOPENS\tIN\tWHY")
	for _, o := range openings {
		switch {
		case o.Open:
			fmt.Fprintf(t, "%s\topen\t\t\t\n", o.Rule)
		case o.At.IsZero():
			fmt.Fprintf(t, "%s\tclosed\tnever\t\t%s\n", o.Rule, o.Why)
		default:
			fmt.Fprintf(t, "%s\tclosed\t%s\t%s\t%s\n", o.Rule, o.At.Format("Mon 2006-01-02 15:04 MST"), o.At.Sub(now).Round(time.Minute), o.Why)
		}
	}
	return t.Flush()
}
