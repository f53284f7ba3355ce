package main

import (
	"context"
	"errors"
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
	return func(client *action.Client, specs map[string]k8s.ClusterSpec, aliases trigger.Aliases) map[string]trigger.Kind {
		return actionKinds(client, k8s.New(ctx, specs, aliases, slog.New(slog.DiscardHandler)), aliases, allowCommands)
	}
}

func checkCommand() *cobra.Command {
	var noCommands, noSecrets bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Report everything that is wrong with a configuration",
		Long: `Report everything that is wrong with a configuration, each fault with its
line. It refuses what serve would refuse, missing secrets included, and
touches neither cluster nor network.`,
		Example: `  dockbell check dockbell.yaml
  dockbell check --ignore-missing-secrets dockbell.yaml   # where the secrets are not, as in CI`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conf, err := loadConfig(args[0], offlineKinds(cmd.Context(), !noCommands))
			missing := 0
			if noSecrets {
				missing, err = withoutMissingSecrets(err)
			}
			if err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), err)
				fmt.Fprintf(cmd.ErrOrStderr(), "faults found: %d\n", countFaults(err))
				return errSilent
			}
			if missing > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is good but for the secrets that are missing here: %d\n", args[0], missing)
				return nil
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is good: %s\n", args[0], conf.summary())
			return nil
		},
	}
	cmd.Flags().BoolVar(&noCommands, "no-commands", false, "refuse command actions, as serve does without --allow-commands")
	cmd.Flags().BoolVar(&noSecrets, "ignore-missing-secrets", false, "take secrets that cannot be read here for good ones")
	return cmd
}

// withoutMissingSecrets counts the faults that are only about secrets which
// cannot be read here, and gives the others.
func withoutMissingSecrets(err error) (missing int, rest error) {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return 0, err
	}
	var others []error
	for _, e := range joined.Unwrap() {
		if _, away := trigger.Retryable(e); away {
			missing++
		} else {
			others = append(others, e)
		}
	}
	return missing, errors.Join(others...)
}
