//go:build unix && !linux

package action

import "syscall"

// ownGroup makes a process the leader of a group, which can be signalled as a
// whole. Only Linux can end it when dockbell is killed.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
