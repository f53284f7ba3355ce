package action

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

const (
	commandGrace = 5 * time.Second // between asking a command to end and ending it
	exitTempFail = 75              // EX_TEMPFAIL of sysexits.h: try again later
)

// commandSpec runs a program on dockbell's machine: argv without a shell, or a
// script of the shell that is the same for all events.
type commandSpec struct {
	Argv    []string         `yaml:"argv"`
	Shell   string           `yaml:"shell"`
	Env     map[string]value `yaml:"env"`
	Dir     string           `yaml:"dir"`
	User    string           `yaml:"user"`
	Group   string           `yaml:"group"`
	RetryOn []int            `yaml:"retryOn"`
	SkipOn  []int            `yaml:"skipOn"`
}

// CommandFixed are the keys of a command in which there are no templates: what
// an event says must neither be a part of a script nor say who runs it.
var CommandFixed = map[string]string{
	"shell": "a script has the event in $DOCKBELL_TAG and the like; one that needs braces of its own stands in a file and is run by argv",
	"user":  "name one user",
	"group": "name one group",
}

type command struct {
	spec commandSpec
	as   identity
}

// Command builds actions that run a program; unless allowed they are refused.
func Command(allowed bool) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		spec := commandSpec{RetryOn: []int{exitTempFail}}
		if err := decode(&spec); err != nil {
			return nil, err
		}
		if !allowed {
			return nil, errors.New("command actions are off; start dockbell with --allow-commands to turn them on")
		}
		as, err := identify(spec.User, spec.Group)
		if err := errors.Join(spec.check(), err); err != nil {
			return nil, err
		}
		return &command{spec, as}, nil
	}
}

func (s commandSpec) check() error {
	var errs []error
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	switch {
	case s.Shell != "" && s.Argv != nil:
		fault("shell", "there is argv, too: give one of them")
	case s.Shell == "" && (len(s.Argv) == 0 || s.Argv[0] == ""):
		fault("argv", "is missing: the program and its arguments, as in [./deploy, --now]; or give a script as shell")
	}
	hasNUL := func(text string) bool { return strings.Contains(text, "\x00") }
	if slices.ContainsFunc(s.Argv, hasNUL) {
		fault("argv", "must not hold a NUL character")
	}
	if hasNUL(s.Shell) {
		fault("shell", "must not hold a NUL character")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		text, err := s.Env[name].read()
		switch {
		case err != nil:
			fault("env."+name, "%w", err)
		case name == "" || strings.ContainsAny(name, "=\x00") || hasNUL(text):
			fault("env."+name, "is not fit for an environment variable")
		case strings.HasPrefix(name, "DOCKBELL_"):
			fault("env."+name, "names that begin with DOCKBELL_ are dockbell's own")
		}
	}
	impossible := func(code int) bool { return code < 1 || code > 255 }
	if slices.ContainsFunc(s.RetryOn, impossible) {
		fault("retryOn", "a program that fails exits with 1 to 255")
	}
	if slices.ContainsFunc(s.SkipOn, impossible) {
		fault("skipOn", "a program that fails exits with 1 to 255")
	}
	if i := slices.IndexFunc(s.SkipOn, func(code int) bool { return slices.Contains(s.RetryOn, code) }); i >= 0 {
		fault("skipOn", "%d is in retryOn, too", s.SkipOn[i])
	}
	return errors.Join(errs...)
}

// Target is the program.
func (a *command) Target() string { return a.argv()[0] }

func (a *command) argv() []string {
	if a.spec.Shell != "" {
		return []string{"/bin/sh", "-c", a.spec.Shell}
	}
	return a.spec.Argv
}

// Do runs the program once, in a process group of its own. The event reaches
// it only through its arguments, its environment and its standard input, where
// it is JSON. When ctx ends the group is asked to end and then ended; what
// the program leaves running in its group ends with it in any case.
func (a *command) Do(ctx context.Context, run trigger.Run, log io.Writer) error {
	env, secrets, err := a.environment(run)
	if err != nil {
		return trigger.Retry(err) // a secret that is not there; nothing was run
	}
	event, err := json.Marshal(run.Event)
	if err != nil {
		return err
	}
	out, argv := newVeil(log, secrets), a.argv()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin = a.spec.Dir, env, bytes.NewReader(event)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = ownGroup()
	cmd.SysProcAttr.Credential = a.as.credential
	cmd.Cancel = func() error { return signalGroup(cmd, syscall.SIGTERM) }
	cmd.WaitDelay = commandGrace // also ends the wait for children that keep the output open

	// The program is told of the death of the thread that started it, so this
	// thread has to live as long as the program does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return startError(ctx, err)
	}
	err = cmd.Wait()
	_ = signalGroup(cmd, syscall.SIGKILL) // what is left of it
	if err := out.end(); err != nil {
		return err
	}
	return a.judge(ctx, err)
}

// startError judges a program that did not start, which had no effect. Another
// try helps only a machine that was short of something.
func startError(ctx context.Context, err error) error {
	short := []error{syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.ETXTBSY}
	again := ctx.Err() != nil || slices.ContainsFunc(short, func(s error) bool { return errors.Is(err, s) })
	err = fmt.Errorf("the command did not start: %w", err)
	if again {
		return trigger.Retry(err)
	}
	return err
}

// judge makes of how a program ended how the try went.
func (a *command) judge(ctx context.Context, err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // it succeeded and left a child
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("the command was ended before it was done, and may have done a part: %w", context.Cause(ctx))
	case !errors.As(err, &exit):
		return fmt.Errorf("the command: %w", err)
	case exit.ExitCode() < 0:
		return fmt.Errorf("the command was ended by something else: %s", exit)
	case slices.Contains(a.spec.RetryOn, exit.ExitCode()):
		return trigger.Retry(fmt.Errorf("the command exited with %d: it asks to be tried again later", exit.ExitCode()))
	case slices.Contains(a.spec.SkipOn, exit.ExitCode()):
		return trigger.Skip("the command exited with %d: there was nothing to do", exit.ExitCode())
	}
	return fmt.Errorf("the command exited with %d", exit.ExitCode())
}

// environment is everything the program gets to see of dockbell's own, which
// holds secrets, and the event.
func (a *command) environment(run trigger.Run) (env, secrets []string, err error) {
	set := func(name, text string) { env = append(env, name+"="+strings.ReplaceAll(text, "\x00", "")) }
	for _, name := range []string{"PATH", "HOME", "LANG", "TZ"} {
		if text, ok := os.LookupEnv(name); ok {
			set(name, text)
		}
	}
	if a.as.home != "" {
		set("HOME", a.as.home)
		set("USER", a.as.name)
	}
	for name, v := range a.spec.Env {
		text, err := v.read()
		if err != nil {
			return nil, nil, fmt.Errorf("environment variable %s: %w", name, err)
		}
		if v.isSecret() {
			secrets = append(secrets, text)
		}
		set(name, text)
	}
	e := run.Event
	set("DOCKBELL_EVENT", strconv.FormatInt(run.EventID, 10))
	set("DOCKBELL_RUN", strconv.FormatInt(run.ID, 10))
	set("DOCKBELL_ATTEMPT", strconv.Itoa(run.Attempt))
	set("DOCKBELL_RULE", run.Rule)
	set("DOCKBELL_SOURCE", e.Source)
	set("DOCKBELL_IMAGE", e.Image.String())
	set("DOCKBELL_PINNED", e.Pinned())
	set("DOCKBELL_REGISTRY", e.Registry)
	set("DOCKBELL_REPOSITORY", e.Repository)
	set("DOCKBELL_TAG", e.Tag)
	set("DOCKBELL_DIGEST", e.Digest)
	set("DOCKBELL_ACTOR", e.Actor)
	set("DOCKBELL_ACTION", e.Action)
	set("DOCKBELL_OCCURRED_AT", e.Time().UTC().Format(time.RFC3339))
	return env, secrets, nil
}

// signalGroup reaches the program and its children.
func signalGroup(cmd *exec.Cmd, sig syscall.Signal) error {
	if err := syscall.Kill(-cmd.Process.Pid, sig); errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	} else if err != nil {
		return err
	}
	return nil
}
