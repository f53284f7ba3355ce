package action

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// ownGroup makes a process the leader of a group, which can be signalled as a
// whole, and has the kernel kill it when dockbell is killed.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// The capabilities that it takes to run a program as somebody else, and to end
// it: CAP_KILL, CAP_SETGID, CAP_SETUID. Root in a container may lack them.
const switching = 1<<5 | 1<<6 | 1<<7

// maySwitch reports whether dockbell may run programs as somebody else.
func maySwitch() bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return os.Geteuid() == 0
	}
	var has uint64
	_, rest, _ := strings.Cut(string(status), "\nCapEff:")
	_, err = fmt.Sscanf(rest, "%x", &has)
	return err == nil && has&switching == switching
}
