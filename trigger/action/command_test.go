package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// argv makes a specification that runs a program.
func argv(args ...string) string {
	b, _ := json.Marshal(args) // strings always marshal, and JSON is YAML
	return "{argv: " + string(b) + "}"
}

func sh(script string) string { return argv("sh", "-c", script) }

func runCommand(t *testing.T, ctx context.Context, spec string) (log string, err error) {
	t.Helper()
	var out strings.Builder
	err = mustBuild(t, Command(true), spec).Do(ctx, aRun, &out)
	return out.String(), err
}

func TestCommandsAreOff(t *testing.T) {
	_, err := build(Command(false), argv("true"))
	if err == nil || !strings.Contains(err.Error(), "--allow-commands") {
		t.Error(err)
	}
}

func TestCommandSpecification(t *testing.T) {
	for spec, want := range map[string]string{
		"{}":                                       "argv: is missing",
		"{argv: ['']}":                             "argv: is missing",
		`{argv: [a, "b\0"]}`:                       "argv: must not hold a NUL",
		`{shell: "b\0"}`:                           "shell: must not hold a NUL",
		"{argv: [a], shell: b}":                    "shell: there is argv, too",
		"{argv: [a], retryOn: [256]}":              "retryOn: a program that fails exits with 1 to 255",
		"{argv: [a], skipOn: [0]}":                 "skipOn: a program that fails exits with 1 to 255",
		"{argv: [a], skipOn: [3, 75]}":             "skipOn: 75 is in retryOn, too",
		"{argv: [a], env: {A=B: c}}":               "is not fit for an environment variable",
		"{argv: [a], env: {DOCKBELL_TAG: c}}":      "env.DOCKBELL_TAG: names that begin with",
		"{argv: [a], env: {A: {env: ABSENT_ENV}}}": "env.A: environment variable ABSENT_ENV is not set",
		"{argv: [a], script: b}":                   `unknown key "script"`,
		"{argv: a b}":                              "must be a list, not a string",
	} {
		if _, err := build(Command(true), spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}

func TestCommandIsNoShell(t *testing.T) {
	trap := filepath.Join(t.TempDir(), "trap")
	arg := "$(touch " + trap + "); `touch " + trap + "` ; touch " + trap + " | * ~ $HOME 'x"
	log, err := runCommand(t, t.Context(), argv("printf", "%s", arg))
	if err != nil || log != arg+"\n" {
		t.Errorf("%q, %v", log, err)
	}
	if _, err := os.Stat(trap); err == nil {
		t.Error("a shell read the argument")
	}
}

// A script is the same for all events. What an event holds reaches it as
// variables, which the shell does not read again.
func TestCommandShell(t *testing.T) {
	trap := filepath.Join(t.TempDir(), "trap")
	run := aRun
	run.Event.Actor = "$(touch " + trap + "); `touch " + trap + "`\"; touch " + trap
	var log strings.Builder
	a := mustBuild(t, Command(true), "{shell: 'for word in by \"$DOCKBELL_ACTOR\"; do echo \"$word\"; done | cat'}")
	if err := a.Do(t.Context(), run, &log); err != nil || log.String() != "by\n"+run.Event.Actor+"\n" {
		t.Errorf("%q, %v", log.String(), err)
	}
	if _, err := os.Stat(trap); err == nil {
		t.Error("the shell read the variable")
	}
	if a.Target() != "/bin/sh" {
		t.Errorf("target %q", a.Target())
	}
}

// What a command writes is passed on while it runs.
func TestCommandWritesAtOnce(t *testing.T) {
	plant(t)
	file := filepath.Join(t.TempDir(), "go")
	a := mustBuild(t, Command(true), "{shell: 'echo begun; until test -e "+file+"; do sleep 0.01; done; printf done', env: {KEY: {env: PLANTED_TOKEN}}}")
	log := writes(make(chan string, 2))
	ended := make(chan error, 1)
	go func() { ended <- a.Do(t.Context(), aRun, log) }()
	if got := <-log; got != "begun\n" {
		t.Errorf("%q", got)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := <-log + <-log; got != "done\n" {
		t.Errorf("%q", got)
	}
}

// writes passes on what is written.
type writes chan string

func (w writes) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

func TestCommandEnvironment(t *testing.T) {
	t.Setenv("OF_DOCKBELL", "a secret of its own")
	t.Setenv("GIVEN", "planted-given")
	t.Setenv("LANG", "C.UTF-8")
	log, err := runCommand(t, t.Context(), "{argv: [env], env: {MODE: now, HOME: /nowhere}}")
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(log), "\n")
	slices.Sort(got)
	want := []string{
		"DOCKBELL_ACTION=push", "DOCKBELL_ACTOR=ann", "DOCKBELL_ATTEMPT=2", "DOCKBELL_DIGEST=sha256:" + strings.Repeat("a", 64), "DOCKBELL_EVENT=5",
		"DOCKBELL_IMAGE=registry.example.com/shop/web:v1.2.3", "DOCKBELL_OCCURRED_AT=2026-01-02T03:04:05Z",
		"DOCKBELL_PINNED=" + aRun.Event.Pinned(), "DOCKBELL_REGISTRY=registry.example.com", "DOCKBELL_REPOSITORY=shop/web", "DOCKBELL_RULE=web-to-prod", "DOCKBELL_RUN=77",
		"DOCKBELL_SOURCE=registry", "DOCKBELL_TAG=v1.2.3", "HOME=/nowhere", "LANG=C.UTF-8", "MODE=now", "PATH=" + os.Getenv("PATH"),
	}
	if tz, ok := os.LookupEnv("TZ"); ok {
		want = append(want, "TZ="+tz)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestCommandSecret(t *testing.T) {
	plant(t)
	log, err := runCommand(t, t.Context(), `{argv: [sh, -c, 'printf "%s|" "$KEY"; test "$KEY" = "$(printf "tok+en/&\"<plan%s" "ted>=1")" && echo right'], env: {KEY: {env: PLANTED_TOKEN}}}`)
	if err != nil || log != "<secret>|right\n" {
		t.Errorf("%q, %v", log, err)
	}
}

func TestCommandInput(t *testing.T) {
	log, err := runCommand(t, t.Context(), argv("cat"))
	if err != nil {
		t.Fatal(err)
	}
	var e trigger.Event
	if err := json.Unmarshal([]byte(log), &e); err != nil || e != aRun.Event {
		t.Errorf("%+v, %v", e, err)
	}
	// One that does not read it is no worse for that.
	run := aRun
	run.Event.Actor = strings.Repeat("x", 100<<10) // more than a pipe holds
	if err := mustBuild(t, Command(true), sh("exec <&-; sleep 0.1")).Do(t.Context(), run, io.Discard); err != nil {
		t.Error(err)
	}
}

func TestCommandDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "deploy"), []byte("#!/bin/sh\npwd\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := runCommand(t, t.Context(), "{argv: [./deploy], dir: "+dir+"}")
	if err != nil || strings.TrimSpace(log) != dir {
		t.Errorf("%q, %v", log, err)
	}
}

func TestCommandEnds(t *testing.T) {
	for _, c := range []struct {
		spec, want string
		again      bool
	}{
		{sh("exit 0"), "", false},
		{sh("echo no >&2; exit 3"), "the command exited with 3", false},
		{sh("exit 75"), "exited with 75: it asks to be tried again", true},
		{"{argv: [sh, -c, exit 75], retryOn: [3, 4]}", "exited with 75", false},
		{"{argv: [sh, -c, exit 75], retryOn: []}", "exited with 75", false},
		{"{argv: [sh, -c, exit 4], retryOn: [3, 4]}", "exited with 4: it asks to be tried again", true},
		{"{argv: [sh, -c, exit 9], skipOn: [9]}", "exited with 9: there was nothing to do", false},
		{sh("kill -9 $$"), "ended by something else: signal: killed", false},
		{argv("no-such-program-anywhere"), "did not start", false},
		{argv("/"), "did not start", false},
		{"{argv: ['true'], dir: /no/such/directory}", "did not start", false},
	} {
		_, err := runCommand(t, t.Context(), c.spec)
		if c.want == "" && err == nil {
			continue
		}
		if _, again := trigger.Retryable(err); err == nil || !strings.Contains(err.Error(), c.want) || again != c.again {
			t.Errorf("%s: %v (repeatable %t)", c.spec, err, again)
		}
		if nothing := strings.Contains(c.want, "nothing to do"); errors.As(err, new(*trigger.SkipError)) != nothing {
			t.Errorf("%s: that it is skipped is %t: %v", c.spec, !nothing, err)
		}
	}
}

// alive reports whether a process runs; a zombie that nobody reaps does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return runtime.GOOS != "linux" && syscall.Kill(pid, 0) == nil
	}
	after := stat[strings.LastIndexByte(string(stat), ')')+1:]
	return !strings.HasPrefix(string(after), " Z")
}

func waitDead(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); alive(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("process %d is still there", pid)
		}
	}
}

// waitPID reads a process id that a script writes with a newline after it.
func waitPID(t *testing.T, file string) int {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		b, _ := os.ReadFile(file)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && strings.HasSuffix(string(b), "\n") {
			return pid
		}
	}
	t.Fatal("the command did not get far enough")
	return 0
}

func TestCommandTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		script   string
		atLeast  time.Duration
		atMost   time.Duration
		wantsLog string
	}{
		"child that obeys":      {"sleep 300 & echo $! > FILE; echo begun; wait", 0, 3 * time.Second, "begun"},
		"grandchild":            {"(sleep 300 & echo $! > FILE; wait) ; wait", 0, 3 * time.Second, ""},
		"deaf to SIGTERM":       {"trap '' TERM; echo $$ > FILE; while :; do sleep 1; done", commandGrace, commandGrace + 5*time.Second, ""},
		"deaf child with pipes": {"(trap '' TERM; sh -c 'echo $$ > FILE; exec sleep 300') & wait", commandGrace, commandGrace + 5*time.Second, ""},
		"cleans up":             {"trap 'echo cleaned; exit 1' TERM; echo $$ > FILE; while :; do sleep 0.1; done", 0, 3 * time.Second, "cleaned"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "pid")
			ctx, cancel := context.WithCancelCause(t.Context())
			var pid int
			var began time.Time
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				pid = waitPID(t, file)
				began = time.Now()
				cancel(errors.New("timed out after 3s"))
			}()
			log, err := runCommand(t, ctx, sh(strings.ReplaceAll(c.script, "FILE", file)))
			<-ended
			took := time.Since(began)
			if took < c.atLeast || took > c.atMost {
				t.Errorf("it took %s to end, want %s to %s", took, c.atLeast, c.atMost)
			}
			if _, again := trigger.Retryable(err); err == nil || again || !strings.Contains(err.Error(), "may have done a part: timed out after 3s") {
				t.Errorf("%v", err)
			}
			if !strings.Contains(log, c.wantsLog) {
				t.Errorf("log %q", log)
			}
			waitDead(t, pid)
		})
	}
}

// A program that is done is done, whatever it leaves behind.
func TestCommandLeavesChild(t *testing.T) {
	for name, redirect := range map[string]string{"with the output": "", "without": ">/dev/null 2>&1 </dev/null"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "pid")
			began := time.Now()
			log, err := runCommand(t, t.Context(), sh("sleep 300 "+redirect+" & echo $! > "+file+"; echo done"))
			if err != nil || log != "done\n" {
				t.Errorf("%q, %v", log, err)
			}
			if took := time.Since(began); took > commandGrace+5*time.Second {
				t.Errorf("it took %s", took)
			}
			waitDead(t, waitPID(t, file))
		})
	}
}

// TestCommandDaemon is not a test of its own: it is the dockbell that
// TestCommandDiesWithDockbell kills.
func TestCommandDaemon(t *testing.T) {
	file := os.Getenv("ACTION_TEST_PID_FILE")
	if file == "" {
		t.Skip("part of TestCommandDiesWithDockbell")
	}
	_, _ = runCommand(t, t.Context(), sh("echo $$ > "+file+"; exec sleep 300"))
}

func TestCommandDiesWithDockbell(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux can")
	}
	file := filepath.Join(t.TempDir(), "pid")
	daemon := exec.Command(os.Args[0], "-test.run=^TestCommandDaemon$")
	daemon.Env = append(os.Environ(), "ACTION_TEST_PID_FILE="+file)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	pid := waitPID(t, file)
	// The thread that started it must outlive the command, so it is given
	// time in which an idle one could go away.
	time.Sleep(100 * time.Millisecond)
	if !alive(pid) {
		t.Error("the command died before dockbell")
	}
	_ = daemon.Process.Kill()
	_ = daemon.Wait()
	waitDead(t, pid)
}
