package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/dockbell/dockbell/trigger/action"
)

// deliverCommand sends one message by the library shoutrrr. Nobody types it:
// dockbell starts itself so, once for each message.
func deliverCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "deliver",
		Short:  "Send one message, read from standard input (dockbell calls this itself)",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return action.Deliver(cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

// courier is the command that calls deliverCommand.
func courier() []string {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return []string{self, "deliver"}
}
