// Command dockbell starts deploys when images are pushed.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // images without an operating system have none

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := rootCommand()
	if err := root.ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errSilent) {
			fmt.Fprintln(root.ErrOrStderr(), "dockbell:", err)
		}
		os.Exit(1)
	}
}

// errSilent ends with status 1 when all has been said already.
var errSilent = errors.New("failed")

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "dockbell",
		Short: "Start deploys when images are pushed",
		Long: `dockbell receives what registries send when an image is pushed, decides by
rules, and acts: it changes a Kubernetes workload, starts a Jenkins or GitHub
job, calls a URL, runs a command.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		serveCommand(), checkCommand(), explainCommand(), sendCommand(), windowsCommand(), dbCommand(), deliverCommand(), versionCommand(),
		runsCommand(), eventsCommand(), importCommand(), replayCommand(), holdCommand(), holdsCommand(), releaseCommand(),
	)
	return root
}
