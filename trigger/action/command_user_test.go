package action

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/dockbell/dockbell/trigger"
)

const nobody = 65534

func TestCommandUser(t *testing.T) {
	if !maySwitch() {
		t.Skip("takes root")
	}
	u, err := user.LookupId(strconv.Itoa(nobody))
	if err != nil {
		t.Skip(err)
	}
	const show = `argv: [sh, -c, 'echo $(id -u) $(id -g) $(id -G) $HOME']`
	for who, want := range map[string]string{
		"user: " + u.Username:                         "65534 65534 65534 " + u.HomeDir,
		"user: 65534":                                 "65534 65534 65534 " + u.HomeDir,
		"user: " + u.Username + ", group: 23456":      "65534 23456 23456 65534 " + u.HomeDir,
		"user: 12345, group: 23456":                   "12345 23456 23456 " + os.Getenv("HOME"),
		"group: 23456":                                "0 23456 23456 " + os.Getenv("HOME"),
		"user: " + u.Username + ", env: {HOME: /srv}": "65534 65534 65534 /srv",
	} {
		if log, err := runCommand(t, t.Context(), "{"+show+", "+who+"}"); err != nil || log != want+"\n" {
			t.Errorf("%s: %q, %v; want %q", who, log, err, want)
		}
	}
}

// What runs as somebody else is ended like everything else.
func TestCommandUserTimeout(t *testing.T) {
	if !maySwitch() {
		t.Skip("takes root")
	}
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o777), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "pid")
	ctx, cancel := context.WithCancelCause(t.Context())
	pids := make(chan int, 1)
	go func() {
		pids <- waitPID(t, file)
		cancel(errors.New("timed out after 3s"))
	}()
	_, err := runCommand(t, ctx, "{shell: 'sleep 300 & echo $! > "+file+"; wait', user: 12345, group: 12345}")
	if err == nil || !strings.Contains(err.Error(), "timed out after 3s") {
		t.Error(err)
	}
	waitDead(t, <-pids)
}

func TestCommandUserNeedsRoot(t *testing.T) {
	if maySwitch() { // so this test runs once more, as somebody who may not
		again := exec.Command("/proc/self/exe", "-test.run=^TestCommandUserNeedsRoot$", "-test.v")
		again.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		again.Dir = "/"
		if out, err := again.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	for who, field := range map[string]string{"user: root": "user", "group: 23456": "group"} {
		_, err := build(Command(true), "{argv: [id], "+who+"}")
		if err == nil || !strings.Contains(err.Error(), field+": dockbell runs as user "+strconv.Itoa(os.Geteuid())+", who may not run programs as somebody else") {
			t.Errorf("%s: %v", who, err)
		}
	}
	me, err := user.Current()
	if err != nil {
		t.Skip(err)
	}
	for _, who := range []string{"user: " + me.Username, "user: " + me.Uid + ", group: " + me.Gid, "group: " + me.Gid} {
		if log, err := runCommand(t, t.Context(), "{argv: [id, -u], "+who+"}"); err != nil || log != me.Uid+"\n" {
			t.Errorf("%s: %q, %v", who, log, err)
		}
	}
}

// Where a configuration is only checked there may be other users.
func TestCommandUserUnknown(t *testing.T) {
	for who, want := range map[string]string{
		"user: no-such-user":   "user: cannot be found on this machine",
		"group: no-such-group": "group: cannot be found on this machine",
		"user: 12345":          "group must say which group that is in",
		"user: -1":             "user: cannot be found",
		"user: 4294967295":     "user: cannot be found", // stands for nobody at all
	} {
		_, err := build(Command(true), "{argv: [id], "+who+"}")
		if _, again := trigger.Retryable(err); err == nil || !strings.Contains(err.Error(), want) || !again {
			t.Errorf("%s: %v (repeatable %t), want %q", who, err, again, want)
		}
	}
}
