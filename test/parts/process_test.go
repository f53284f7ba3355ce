package parts

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const holdDir = "PARTS_TEST_HOLD" // set for the process that TestServersEndWithTheTest kills

// TestHold is not a test: it starts everything, says so and waits to be
// killed.
func TestHold(t *testing.T) {
	dir := os.Getenv(holdDir)
	if dir == "" {
		t.Skip("only TestServersEndWithTheTest runs it")
	}
	bin := build(t)
	c, err := StartCluster(t.Context(), bin, dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := StartRegistry(t.Context(), bin, dir, "http://127.0.0.1:1/", "none")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range append(c.others, c.apiserver, r.process) {
		fmt.Println("server", p.cmd.Process.Pid)
	}
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until it is killed, or its parent is
}

// A test that is killed takes its servers along.
func TestServersEndWithTheTest(t *testing.T) {
	build(t)
	endWithTheTest(t, "TestHold", 6)
}

// endWithTheTest runs a test that names its servers and then waits, kills it,
// and sees that they have ended with it.
func endWithTheTest(t *testing.T, hold string, servers int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+hold+"$")
	cmd.Env = append(os.Environ(), holdDir+"="+t.TempDir())
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "ready"; {
		if text, ok := strings.CutPrefix(lines.Text(), "server "); ok {
			pid, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		} else {
			t.Log(lines.Text())
		}
	}
	if len(pids) < servers {
		t.Errorf("%d servers run, want %d", len(pids), servers)
	}
	for _, pid := range pids {
		if !runs(pid) {
			t.Errorf("server %d does not run", pid)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // says that it was killed
	eventually(t, "all servers have ended", func() (bool, error) {
		i := slices.IndexFunc(pids, runs)
		return i < 0, fmt.Errorf("servers %v, of which some run", pids)
	})
}

// runs tells whether a process exists and is more than a zombie that nobody
// has waited for.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

// A server whose port was taken meanwhile gets another.
func TestPortTaken(t *testing.T) {
	bin := build(t)
	dir := t.TempDir()
	tries := 0
	var r *Registry
	err := onFreePorts(t.Context(), dir, "registry", 1, func(ctx context.Context, own string, ports []int) error {
		if tries++; tries == 1 {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0]))
			if err != nil {
				return err
			}
			defer l.Close()
		}
		r = &Registry{Addr: fmt.Sprintf("127.0.0.1:%d", ports[0])}
		return r.start(ctx, bin, own, Notify{URL: "http://127.0.0.1:1/", Timeout: time.Second, Threshold: 1, Backoff: time.Second})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	if tries != 2 {
		t.Errorf("%d tries, want 2", tries)
	}
}

// A server that does not start says why.
func TestStartFails(t *testing.T) {
	bin := build(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "registry.yaml")
	if err := os.WriteFile(config, []byte("version: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := start(dir, "registry", bin.path("registry"), "serve", config)
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	err = p.waitFor(t.Context(), func(context.Context) error { return errors.New("never") })
	if err == nil || !strings.Contains(err.Error(), "configuration error") {
		t.Errorf("%v, want the log of the registry", err)
	}
}
