package action

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

const (
	// killGrace is how long a command has to end after SIGTERM.
	killGrace = 5 * time.Second

	// outputHead and outputTail are how much of a command's output is kept:
	// its beginning, and the end where errors are.
	outputHead = 16 << 10
	outputTail = 40 << 10

	// tryAgain is EX_TEMPFAIL of sysexits(3): the command asks to be run
	// again later.
	tryAgain = 75
)

// commandSpec is a program with its arguments. There is no shell: what comes
// from an event reaches the program as one argument or variable, whatever
// characters it has.
type commandSpec struct {
	Argv []string          `yaml:"argv"`
	Env  map[string]string `yaml:"env"`
	Dir  string            `yaml:"dir"`
}

type commandAction struct{ spec commandSpec }

// Command builds local commands; where they are not allowed, it refuses each.
func Command(allowed bool) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		a := &commandAction{}
		if err := decode(&a.spec); err != nil {
			return nil, err
		}
		if !allowed {
			return nil, errors.New("command actions are off; whoever runs dockbell turns them on with --allow-commands")
		}
		return a, a.check()
	}
}

func (a *commandAction) check() error {
	var errs []error
	if len(a.spec.Argv) == 0 || a.spec.Argv[0] == "" {
		errs = append(errs, trigger.Field("argv", "is missing: the program and its arguments, each by itself"))
	}
	for name := range a.spec.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.HasPrefix(name, "DOCKBELL_") {
			errs = append(errs, trigger.Field("env", "%q cannot be the name of a variable; DOCKBELL_ is dockbell's own", name))
		}
	}
	return errors.Join(errs...)
}

func (a *commandAction) Target() string { return "command " + a.spec.Argv[0] }

func (a *commandAction) Do(ctx context.Context, run trigger.Run, log io.Writer) error {
	stdin, err := json.Marshal(run.Event)
	if err != nil {
		return err
	}
	output := &headTail{}
	cmd := exec.Command(a.spec.Argv[0], a.spec.Argv[1:]...)
	cmd.Dir, cmd.Env = a.spec.Dir, a.environment(run)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), output, output
	cmd.WaitDelay = time.Second // a child that keeps the output open does not hold up the run
	ownGroup(cmd)
	defer func() { _, _ = io.WriteString(log, output.String()) }()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", a.spec.Argv[0], err)
	}
	ended := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ended:
		case <-ctx.Done():
			stopGroup(cmd.Process.Pid, ended)
		}
	}()
	err = cmd.Wait()
	close(ended)
	<-stopped
	if ctx.Err() == nil {
		return exitError(a.spec.Argv[0], err)
	}
	return fmt.Errorf("%s was stopped: %w", a.spec.Argv[0], context.Cause(ctx))
}

func exitError(program string, err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == tryAgain:
		return trigger.Retry(fmt.Errorf("%s ended with exit status %d, which asks to be run again", program, tryAgain))
	}
	return fmt.Errorf("%s ended with %w", program, err)
}

// stopGroup ends a command with all that it started: SIGTERM, and SIGKILL for
// what is left after the grace time.
func stopGroup(pid int, ended <-chan struct{}) {
	// The group may be gone already; there is nothing to do about that.
	_ = syscall.Kill(-pid, syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(killGrace):
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
}

// environment is little: dockbell's own holds its secrets.
func (a *commandAction) environment(run trigger.Run) []string {
	env := []string{}
	for _, name := range []string{"PATH", "HOME", "LANG", "TZ"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	e := run.Event
	for name, value := range map[string]string{
		"RUN": strconv.FormatInt(run.ID, 10), "EVENT": strconv.FormatInt(run.EventID, 10), "RULE": run.Rule, "ATTEMPT": strconv.Itoa(run.Attempt),
		"SOURCE": e.Source, "ACTION": e.Action, "ACTOR": e.Actor, "OCCURRED_AT": e.Time().UTC().Format(time.RFC3339),
		"IMAGE": e.Image.String(), "REGISTRY": e.Registry, "REPOSITORY": e.Repository, "TAG": e.Tag, "DIGEST": e.Digest,
	} {
		env = append(env, "DOCKBELL_"+name+"="+value)
	}
	for name, value := range a.spec.Env {
		env = append(env, name+"="+value)
	}
	return env
}

// headTail keeps the beginning and the end of what is written to it.
type headTail struct {
	mu   sync.Mutex
	head []byte
	tail []byte
	left int // bytes left out between them
}

func (h *headTail) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := min(len(p), outputHead-len(h.head))
	h.head = append(h.head, p[:n]...)
	h.tail = append(h.tail, p[n:]...)
	if over := len(h.tail) - outputTail; over > outputTail {
		// Only now and then, so that much output costs little.
		h.left += over
		h.tail = append(h.tail[:0], h.tail[over:]...)
	}
	return len(p), nil
}

func (h *headTail) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	tail, left := h.tail, h.left
	if over := len(tail) - outputTail; over > 0 {
		tail, left = tail[over:], left+over
	}
	if left == 0 {
		return string(h.head) + string(tail)
	}
	return fmt.Sprintf("%s\n… %d bytes left out …\n%s", h.head, left, tail)
}
