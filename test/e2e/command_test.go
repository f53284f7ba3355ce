package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// As the first process of a container dockbell is the parent of whoever has
// lost theirs, and takes them off the list of processes when they end.
func TestFirstProcessReaps(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("takes root to make a space of processes")
	}
	d := prepare(t, `
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
store: sqlite:dockbell.db
sources: {hub: {type: dockerhub, auth: none}}
rules:
- name: daemons
  repo: shop/**
  actions:
  - command:
      shell: |
        setsid sh -c 'echo > begun; until test -e end; do sleep 0.05; done' >/dev/null 2>&1 &
        until test -e begun; do sleep 0.05; done
`)
	d.argv = append([]string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child"}, d.argv...)
	d.start()
	t.Cleanup(d.kill) // unshare itself does not mind being asked to end
	d.mustPost(202, "hub", sample(t, "dockerhub", "shop/web", "v1"))
	if run := d.ended()[0]; run.State != "succeeded" {
		t.Fatalf("%+v", run)
	}
	first := children(t, d.cmd.Process.Pid, 'S')
	if len(first) != 1 {
		t.Fatalf("the first process is one of %v", first)
	}
	if err := os.WriteFile(filepath.Join(d.dir, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "who was left behind has ended", func() error {
		if dead := children(t, first[0], 'Z'); len(dead) != 1 {
			return fmt.Errorf("%d have", len(dead))
		}
		return nil
	})
	eventually(t, "it is off the list", func() error {
		if dead := children(t, first[0], 'Z'); len(dead) > 0 {
			return fmt.Errorf("%v are on it", dead)
		}
		return nil
	})
}

// children are the processes of a parent that are in a state.
func children(t *testing.T, parent int, state byte) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // gone meanwhile
		}
		fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && fields[0][0] == state && string(fields[1]) == strconv.Itoa(parent) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// A run is watched by any replica. What its action writes is shown at once by
// the one that carries it out, and by the other when the try has ended.
func TestWatchByReplicas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := fmt.Sprintf(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
store: %q
sources: {hub: {type: dockerhub, auth: none}}
rules:
- name: slow
  repo: shop/**
  actions:
  - command: {shell: 'echo half; until test -e end; do sleep 0.05; done; echo all', dir: %s}
`, postgres(t).URL("postgres"), dir)
	all := []*daemon{serve(t, config), serve(t, config)}
	all[0].mustPost(202, "hub", sample(t, "dockerhub", "shop/web", "v1"))
	id := all[0].runs("")[0].ID
	var seen []*logBuffer
	var ends []<-chan error
	for _, d := range all {
		log, end := &logBuffer{}, make(chan error, 1)
		watch := d.command("runs", "watch", id, "--server", d.admin)
		watch.Stdout, watch.Stderr = log, log
		if err := watch.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { end <- watch.Wait() }()
		seen, ends = append(seen, log), append(ends, end)
	}
	here, there := regexp.MustCompile(`(?m)^    half$`), regexp.MustCompile(`(?m)^    \(another dockbell carries it out`)
	eventually(t, "one shows what is written, the other that it cannot", func() error {
		for i := range 2 {
			if here.MatchString(seen[i].tail(99)) && there.MatchString(seen[1-i].tail(99)) {
				return nil
			}
		}
		return fmt.Errorf("they show\n%s\nand\n%s", seen[0].tail(99), seen[1].tail(99))
	})
	if err := os.WriteFile(filepath.Join(dir, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, end := range ends {
		if err := <-end; err != nil {
			t.Errorf("it ends with %v", err)
		}
		if text := seen[i].tail(99); !regexp.MustCompile(`(?m)^    half\n(.*\n)*    all$`).MatchString(text) || !regexp.MustCompile(`(?m): succeeded$`).MatchString(text) {
			t.Errorf("it shows\n%s", text)
		}
	}
}
