package queue

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/store"
)

// The environment makes the test binary the daemon that is killed.
const (
	daemonDir  = "DOCKBELL_TEST_DIR"
	daemonFrom = "DOCKBELL_TEST_FROM" // number of its first push; empty: accept nothing and end when all is done
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(daemonDir); dir != "" {
		if err := daemon(dir, os.Getenv(daemonFrom)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const killLanes = 8

// daemon accepts pushes and carries them out until it is killed. It tells on
// standard output what it has acknowledged, and keeps in the file effects what
// its actions do: a line is there once write returns, whoever is killed then.
func daemon(dir, from string) error {
	effects, err := os.OpenFile(filepath.Join(dir, "effects"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	note := func(what string, r trigger.Run) { fmt.Fprintf(effects, "%s %d\n", what, r.ID) }
	note("start", trigger.Run{})
	do := act(func(ctx context.Context, r trigger.Run, _ io.Writer) error {
		note("begin", r)
		time.Sleep(time.Duration(rand.N(4)) * time.Millisecond) // the work
		note("end", r)
		return nil
	})
	build := func(func(any) error) (trigger.Action, error) { return do, nil }
	kinds := map[string]trigger.Kind{"call": {Build: build}, "set": {Build: build, Declarative: true}}
	s, err := store.Open(context.Background(), "sqlite:"+filepath.Join(dir, "db"))
	if err != nil {
		return err
	}
	decode := func(json.RawMessage) func(any) error { return nil }
	q := New(s, kinds, decode, slog.New(slog.DiscardHandler), NewMetrics(prometheus.NewRegistry()))
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- q.Run(ctx, time.Minute) }()

	if from == "" {
		for waiting, running := 1, 1; waiting+running > 0; time.Sleep(20 * time.Millisecond) {
			if waiting, running, err = s.Live(ctx); err != nil {
				return err
			}
		}
		stop()
		return <-ended
	}
	var first int64
	if _, err := fmt.Sscan(from, &first); err != nil {
		return err
	}
	var push atomic.Int64
	push.Store(first)
	failed := make(chan error)
	for range 16 {
		go func() {
			for {
				id, err := acceptPush(s, push.Add(1))
				if err != nil {
					failed <- err
					return
				}
				fmt.Printf("%d\n%d\n", id[0], id[1])
				time.Sleep(10 * time.Millisecond) // the load
			}
		}()
	}
	return <-failed
}

// acceptPush accepts the n-th push, which makes a call and a declarative run.
// Their numbers are their order in time; they arrive a bit out of order.
func acceptPush(s *store.Store, n int64) (ids [2]int64, err error) {
	now := time.Now()
	e := trigger.Event{ID: fmt.Sprint(n), Source: "hub", Image: trigger.Image{Repository: "shop/web", Tag: "main"}, OccurredAt: time.Unix(n, 0), ReceivedAt: now}
	lane := fmt.Sprint("/", n%killLanes)
	runs := []trigger.Run{
		{Rule: "r", Kind: "call", Lane: "call" + lane, Mode: trigger.Queue, CreatedAt: now, NotBefore: now},
		{Rule: "r", Index: 1, Kind: "set", Lane: "set" + lane, Mode: trigger.Latest, Ordered: true, CreatedAt: now, NotBefore: now},
	}
	rec, err := s.Accept(context.Background(), trigger.Delivery{Source: "hub", ReceivedAt: now}, []trigger.Planned{{Event: e, Runs: runs}})
	if err != nil {
		return ids, err
	}
	for i, a := range rec.Events[0].Runs {
		if ids[i] = a.ID; !a.New {
			return ids, fmt.Errorf("push %d: %+v", n, a)
		}
	}
	return ids, nil
}

// A daemon under load is killed again and again. Then:
//
//   - nothing that was acknowledged is missing, and all of it has ended;
//   - a call was begun once at the most: it succeeded, or is unknown;
//   - a declarative run that succeeded was done, the newest of each lane has
//     succeeded, and none began after a newer one of its lane;
//   - no two runs of a lane were ever carried out at once.
func TestKill(t *testing.T) {
	const kills, acksEach = 5, 150
	dir := t.TempDir()
	acked := map[int64]bool{}
	for round := range kills {
		cmd, out := startDaemon(t, dir, fmt.Sprint(round*1_000_000))
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var id int64
			if _, err := fmt.Sscan(lines.Text(), &id); err != nil {
				t.Fatal(lines.Text(), err)
			}
			acked[id] = true
			if n == acksEach {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("the daemon ended by itself: %v", err)
		}
	}
	// The last one ends when nothing is left to do; a stuck lane keeps it.
	cmd, out := startDaemon(t, dir, "")
	stuck := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("what was left did not come to its end: %v", err)
	}
	stuck.Stop()
	checkKilled(t, dir, acked)
}

func startDaemon(t *testing.T, dir, from string) (*exec.Cmd, io.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), daemonDir+"="+dir, daemonFrom+"="+from)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() }) // where the test failed before
	return cmd, out
}

func checkKilled(t *testing.T, dir string, acked map[int64]bool) {
	s, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	list, err := s.Runs(t.Context(), trigger.RunFilter{Limit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	runs := map[int64]trigger.Run{}
	newest := map[string]trigger.Run{}
	for _, r := range list {
		runs[r.ID] = r
		if n, ok := newest[r.Lane]; !ok || r.Event.OccurredAt.After(n.Event.OccurredAt) {
			newest[r.Lane] = r
		}
	}
	for id := range acked {
		if _, ok := runs[id]; !ok {
			t.Errorf("run %d was acknowledged and is lost", id)
		}
	}
	begun, done := readEffects(t, dir, runs)
	states := map[string]int{}
	for _, r := range runs {
		states[r.Kind+" "+string(r.State)]++
		ok := false
		switch r.Kind + " " + string(r.State) {
		case "call succeeded":
			ok = begun[r.ID] == 1 && done[r.ID] == 1
		case "call unknown":
			ok = begun[r.ID] <= 1
		case "set succeeded":
			ok = done[r.ID] >= 1
		case "set superseded":
			ok = done[r.ID] == 0 || r.Attempt > 0
		case "set skipped":
			ok = begun[r.ID] == 0
		}
		if !ok {
			t.Errorf("%s run %d is %s (%s), begun %d times and done %d times", r.Kind, r.ID, r.State, r.Reason, begun[r.ID], done[r.ID])
		}
	}
	for lane, r := range newest {
		if r.Kind == "set" && r.State != trigger.Succeeded {
			t.Errorf("the newest run %d of %s is %s (%s)", r.ID, lane, r.State, r.Reason)
		}
	}
	t.Logf("%d runs acknowledged, %d on disk: %v", len(acked), len(runs), states)
}

// readEffects counts what the actions of each run did, and checks the order
// in which they did it.
func readEffects(t *testing.T, dir string, runs map[int64]trigger.Run) (begun, done map[int64]int) {
	f, err := os.Open(filepath.Join(dir, "effects"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	begun, done = map[int64]int{}, map[int64]int{}
	inLane, last := map[string]int64{}, map[string]trigger.Run{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var what string
		var id int64
		if _, err := fmt.Sscan(lines.Text(), &what, &id); err != nil {
			t.Fatalf("effect %q: %v", lines.Text(), err)
		}
		r, ok := runs[id]
		switch {
		case what == "start":
			clear(inLane)
			continue
		case !ok:
			t.Fatalf("run %d was carried out and is not on disk", id)
		case what == "begin":
			begun[id]++
			if other := inLane[r.Lane]; other != 0 {
				t.Errorf("run %d began while run %d of %s was not done", id, other, r.Lane)
			}
			if l := last[r.Lane]; r.Kind == "set" && l.Event.OccurredAt.After(r.Event.OccurredAt) {
				t.Errorf("run %d began after the newer run %d of %s", id, l.ID, r.Lane)
			}
			inLane[r.Lane], last[r.Lane] = id, r
		case what == "end":
			done[id]++
			inLane[r.Lane] = 0
		}
	}
	return begun, done
}
