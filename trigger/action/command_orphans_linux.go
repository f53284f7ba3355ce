package action

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const (
	// orphanLook is how often the first process looks for orphans.
	orphanLook = 5 * time.Second

	// orphanAge is how long a process has been dead when nobody can be waiting
	// for it: who waits is woken at once.
	orphanAge = 10 * time.Second
)

// ReapOrphans takes the dead off the list of processes that nobody else will,
// until ctx ends. Who daemonises leaves its group and its parent, and becomes a
// child of the first process; in a container that is dockbell. Anywhere else
// there is somebody who does this, and it returns at once.
func ReapOrphans(ctx context.Context) {
	if os.Getpid() != 1 {
		return
	}
	tick := time.NewTicker(orphanLook)
	defer tick.Stop()
	dead := orphans{}
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			dead.reap(now)
		}
	}
}

// orphans are the dead children of this process, and when each was first seen.
type orphans map[orphan]time.Time

// orphan is a process. Its number alone may be given again.
type orphan struct{ pid, born int }

// reap takes off the list who has been dead for long. A child that somebody
// here has started is left to whoever waits for it.
func (o orphans) reap(now time.Time) {
	there := map[orphan]bool{}
	for _, child := range deadChildren() {
		there[child] = true
		if since, seen := o[child]; !seen {
			o[child] = now
		} else if now.Sub(since) >= orphanAge {
			_, _ = syscall.Wait4(child.pid, nil, syscall.WNOHANG, nil) // the next look finds it if this does not
		}
	}
	for child := range o {
		if !there[child] {
			delete(o, child)
		}
	}
}

// deadChildren are the children of this process that have ended and that
// nobody has waited for.
func deadChildren() (dead []orphan) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is a good one
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // gone meanwhile
		}
		// The name before it, in parentheses, may hold anything.
		fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		if len(fields) < 20 || string(fields[0]) != "Z" || string(fields[1]) != strconv.Itoa(os.Getpid()) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		born, err2 := strconv.Atoi(string(fields[19]))
		if err == nil && err2 == nil {
			dead = append(dead, orphan{pid, born})
		}
	}
	return dead
}
