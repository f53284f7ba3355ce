//go:build unix && !linux

package action

import (
	"context"
	"os"
	"syscall"
)

// ownGroup makes a process the leader of a group, which can be signalled as a
// whole. Only Linux can end it when dockbell is killed.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// maySwitch reports whether dockbell may run programs as somebody else.
func maySwitch() bool { return os.Geteuid() == 0 }

// ReapOrphans has nothing to do: dockbell is the first process only in a
// container of Linux.
func ReapOrphans(context.Context) {}
