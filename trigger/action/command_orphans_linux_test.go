package action

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// adopt makes this process the one that orphans below it become children of,
// as the first process is.
func adopt(t *testing.T, yes uintptr) {
	t.Helper()
	const setChildSubreaper = 36
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setChildSubreaper, yes, 0); errno != 0 {
		t.Skip(errno)
	}
}

// waitZombie waits until a child has ended, and nobody has waited for it.
func waitZombie(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !isZombie(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d is no dead child", pid)
		}
	}
}

func isZombie(pid int) bool {
	return slices.ContainsFunc(deadChildren(), func(o orphan) bool { return o.pid == pid })
}

// Who leaves the group and the parent is reaped when it has ended.
func TestOrphansAreReaped(t *testing.T) {
	adopt(t, 1)
	defer adopt(t, 0)
	dir := t.TempDir()
	leaves := `{shell: 'setsid sh -c "echo \$\$ > pid; until test -e go; do sleep 0.01; done" >/dev/null 2>&1 & until test -s pid; do sleep 0.01; done', dir: ` + dir + "}"
	if _, err := runCommand(t, t.Context(), leaves); err != nil {
		t.Fatal(err)
	}
	pid := waitPID(t, filepath.Join(dir, "pid"))
	if !alive(pid) {
		t.Error("it is ended with the command that it has left")
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	waitZombie(t, pid)
	dead, now := orphans{}, time.Now()
	for _, after := range []time.Duration{0, orphanAge - 1} {
		if dead.reap(now.Add(after)); !isZombie(pid) {
			t.Errorf("reaped after %s, when somebody might have waited for it", after)
		}
	}
	if dead.reap(now.Add(orphanAge)); isZombie(pid) {
		t.Error("it is not reaped")
	}
	if dead.reap(now.Add(orphanAge)); len(dead) > 0 {
		t.Errorf("it remembers %v", dead)
	}
}

// What somebody here waits for is theirs.
func TestOrphansAreNoChildren(t *testing.T) {
	cmd := exec.Command("sh", "-c", "exit 3")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitZombie(t, cmd.Process.Pid)
	dead, now := orphans{}, time.Now()
	dead.reap(now)
	dead.reap(now.Add(orphanAge - 1))
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("its end is lost: %v", err)
	}
}
