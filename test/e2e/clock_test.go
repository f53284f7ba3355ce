package e2e

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// stepper is added to package time of the dockbell whose clock can be set. By
// how many seconds is in a file, of which it has a map: time.Now is also called
// where no system call may be made.
const stepper = `package time

import (
	"syscall"
	"unsafe"
)

var step = func() *int64 {
	file, _ := syscall.Getenv("DOCKBELL_CLOCK")
	fd, err := syscall.Open(file, syscall.O_RDONLY, 0)
	if err != nil {
		panic("DOCKBELL_CLOCK must be a file: " + err.Error())
	}
	defer syscall.Close(fd)
	shared, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("DOCKBELL_CLOCK must be a file of 8 bytes: " + err.Error())
	}
	return (*int64)(unsafe.Pointer(&shared[0]))
}()
`

// buildStepped builds a dockbell of which the wall clock alone can be set
// while it runs: time.Now adds what stepper gives, and the monotonic clock is
// left as it is, as when somebody sets the clock of a machine. Go's cache
// keeps what is built with it, so that only the first time takes minutes.
var buildStepped = sync.OnceValues(func() (path string, err error) {
	dir := filepath.Dir(program)
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	lib := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(lib, "time.go"))
	if err != nil {
		return "", err
	}
	const read = "sec, nsec, mono := runtimeNow()\n"
	if n := strings.Count(string(source), read); n != 1 {
		return "", fmt.Errorf("time.Now reads the clock in another way than this test knows: %d times %q", n, read)
	}
	files := map[string]string{
		"time.go":    strings.Replace(string(source), read, read+"\tsec += *step\n", 1),
		"stepper.go": stepper,
	}
	overlay := map[string]map[string]string{"Replace": {}}
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay["Replace"][filepath.Join(lib, name)] = file
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, data, 0o600); err != nil {
		return "", err
	}
	path = program + "-stepped"
	build := exec.Command("go", "build", "-overlay", list, "-o", path, "./cmd/dockbell")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building dockbell with a clock to be set: %w\n%s", err, out)
	}
	return path, nil
})

// clock is that of one daemon.
type clock struct {
	t    *testing.T
	file string
}

// newClock gives a daemon that is not started yet a clock of its own.
func newClock(t *testing.T, d *daemon) *clock {
	t.Helper()
	path, err := buildStepped()
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{t, filepath.Join(d.dir, "clock")}
	c.set(0)
	d.argv, d.env = []string{path}, append(d.env, "DOCKBELL_CLOCK="+c.file)
	return c
}

// set makes the clock go wrong by so much.
func (c *clock) set(by time.Duration) {
	c.t.Helper()
	f, err := os.OpenFile(c.file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if err := binary.Write(f, binary.NativeEndian, int64(by/time.Second)); err != nil {
		c.t.Fatal(err)
	}
}

// The machine's clock is set, forward by a day or back by an hour, while pushes
// come in, calls wait to be repeated and a rule waits for pushes to settle.
// What waits may start early where the clock jumps over its time, and is never
// stuck: pushes are accepted and done in order, none is lost or done twice.
func TestClockStepped(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{24 * time.Hour, -time.Hour} {
		t.Run(step.String(), func(t *testing.T) {
			calls := newReceiver(t, 5*time.Millisecond)
			l := newLoad(t, 8, calls, "")
			d := prepare(t, l.config("sqlite:dockbell.db", "settle: 2s"))
			c := newClock(t, d)
			calls.refusing.Store(true)
			d.start()
			l.to(d)
			l.start(8, forever, 20*time.Millisecond)
			eventually(t, "each lane waits to call again", func() error {
				if n := len(calls.refusals()); n < 8 {
					return fmt.Errorf("%d do", n)
				}
				return nil
			})
			c.set(step)
			l.flows(100)
			calls.refusing.Store(false)
			l.end()
			if unknown := l.checkOff(d); unknown > 0 {
				t.Errorf("%d runs were cut off", unknown)
			}
		})
	}
}

// Very many runs wait for a window: they are on disk and not in memory. When it
// opens, each of them starts, and of those that the newest replaces the newest
// alone.
func TestManyWaitForWindow(t *testing.T) {
	t.Parallel()
	const each = 10 // pushes to a repository
	repositories := soak(500, 10_000)
	calls := newReceiver(t, 0)
	l := newLoad(t, repositories, calls, "")
	d := prepare(t, l.config("sqlite:dockbell.db", `window: {cron: "0 3 * * *", for: 1h, timezone: UTC}`))
	c := newClock(t, d)
	today := time.Now().UTC().Truncate(24 * time.Hour)
	at := func(clock time.Duration) { c.set(time.Until(today.Add(clock))) }
	at(12 * time.Hour)
	d.start()
	l.to(d)
	l.start(64, each, 0)
	l.senders.Wait()
	if n := l.acknowledged.Load(); n != int64(repositories*each) {
		t.Fatalf("%d pushes were acknowledged", n)
	}
	var waiting struct{ Runs []aRun }
	if d.get("/api/v1/runs?limit=1&state=waiting", &waiting); len(waiting.Runs) == 0 || !strings.Contains(waiting.Runs[0].Reason, "outside its window") {
		t.Errorf("of those that wait the newest is %+v", waiting.Runs)
	}
	const most = 200
	memory := d.memory()
	if memory > most {
		t.Errorf("dockbell has %d MB in memory", memory)
	}
	if n := calls.called(); n > 0 {
		t.Errorf("%d calls were made outside of the window", n)
	}
	// It opens in a moment. Who sleeps learns of a clock that was set when the
	// next push comes, or after a minute.
	at(27*time.Hour - 2*time.Second)
	began := time.Now()
	l.push(0, each+1)
	l.checkOff(d)
	t.Logf("%d MB in memory while they waited; %d calls within %s of the opening", memory, calls.called(), time.Since(began).Round(time.Second))
	if want, n := repositories*each+1+repositories, calls.called(); n != want {
		t.Errorf("%d calls were made, want %d", n, want)
	}
}
