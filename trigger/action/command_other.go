//go:build !linux

package action

import (
	"os/exec"
	"syscall"
)

// ownGroup makes the command the leader of a process group, so that it can be
// ended with all that it started.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
