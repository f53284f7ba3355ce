package main

import (
	"context"
	"io"

	"github.com/dockbell/dockbell/trigger"
)

// rehearse makes of a kind of action one that is checked as ever and never
// done. Kubernetes rehearses its own: its API servers can check a change.
func rehearse(row trigger.Kind) trigger.Kind {
	build := row.Build
	row.Build = func(decode func(any) error) (trigger.Action, error) {
		a, err := build(decode)
		return notDone{a}, err
	}
	return row
}

type notDone struct{ trigger.Action }

func (notDone) Do(context.Context, trigger.Run, io.Writer) error {
	return trigger.Skip("not done: dockbell was started with --dry-run, and only Kubernetes can be asked what would happen")
}
