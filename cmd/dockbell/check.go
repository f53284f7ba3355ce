package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/action"
)

// offlineKinds is the table of actions for commands that only look at a
// configuration: the same rows, which nobody lets act.
func offlineKinds(ctx context.Context, allowCommands bool) kindTable {
	return func(specs map[string]k8s.ClusterSpec) map[string]trigger.Kind {
		return actionKinds(action.NewClient(), k8s.New(ctx, specs, slog.New(slog.DiscardHandler)), allowCommands)
	}
}

func checkCommand() *cobra.Command {
	var noCommands bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Report everything that is wrong with a configuration",
		Long: `Report everything that is wrong with a configuration, each fault with its
line. It refuses what serve would refuse, missing secrets included, and
touches neither cluster nor network.`,
		Example: `  dockbell check dockbell.yaml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conf, err := loadConfig(args[0], offlineKinds(cmd.Context(), !noCommands))
			if err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), err)
				fmt.Fprintf(cmd.ErrOrStderr(), "faults found: %d\n", countFaults(err))
				return errSilent
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is good: %s\n", args[0], conf.summary())
			return nil
		},
	}
	cmd.Flags().BoolVar(&noCommands, "no-commands", false, "refuse command actions, as serve does without --allow-commands")
	return cmd
}
