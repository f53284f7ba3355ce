package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// daemon is a running dockbell with a folder of its own.
type daemon struct {
	t     *testing.T
	dir   string
	argv  []string // the program, behind what it is started by
	env   []string
	hooks string // URL of the intake
	admin string
	cmd   *exec.Cmd
	exit  <-chan error // how the program ended, once
	log   *logBuffer
}

// serve starts dockbell with a configuration; %s in it is not touched. It is
// stopped with the test, and its log shown when the test failed.
func serve(t *testing.T, config string, env ...string) *daemon {
	t.Helper()
	d := prepare(t, config, env...)
	d.start()
	return d
}

// prepare is serve without the start.
func prepare(t *testing.T, config string, env ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: t.TempDir(), argv: []string{program}, log: &logBuffer{}, env: append(os.Environ(), append(env, "KUBECONFIG="+cluster.Kubeconfig)...)}
	if err := os.WriteFile(filepath.Join(d.dir, "dockbell.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("log of dockbell:\n%s", d.log.tail(150))
		}
	})
	return d
}

var listening = regexp.MustCompile(`msg=listening hooks=(\S+) admin=(\S+)`)

// start starts it, again after kill or stop, and waits until it listens.
func (d *daemon) start() {
	d.t.Helper()
	if !d.starts() {
		d.t.Fatalf("dockbell does not start:\n%s", d.log.tail(50))
	}
}

// starts is start for one that may refuse to; it reports whether it listens.
func (d *daemon) starts() bool {
	d.t.Helper()
	cmd := d.command("serve", "--config", "dockbell.yaml", "--allow-commands")
	d.log.expect(listening)
	cmd.Stderr = d.log
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	exit := make(chan error, 1)
	go func() { exit <- cmd.Wait(); close(exit) }()
	d.cmd, d.exit = cmd, exit
	select {
	case m := <-d.log.found:
		d.hooks, d.admin = "http://"+m[1]+"/hooks/", "http://"+m[2]
		return true
	case err := <-exit:
		if err == nil {
			d.t.Error("it ended with status 0")
		}
		return false
	case <-time.After(patience):
		d.t.Fatalf("dockbell does not listen:\n%s", d.log.tail(50))
		return false
	}
}

// command is a call of the program, not started.
func (d *daemon) command(args ...string) *exec.Cmd {
	cmd := exec.Command(d.argv[0], append(slices.Clip(d.argv[1:]), args...)...)
	cmd.Dir, cmd.Env = d.dir, d.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// kill ends it as a crash would.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill() // ended already is fine
	<-d.exit
}

func (d *daemon) stop() {
	if d.cmd == nil {
		return // it was never started
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // ended already is fine
	<-d.exit
}

// memory is how many megabytes it has in memory.
func (d *daemon) memory() (megabytes int) {
	d.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		d.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	if _, err := fmt.Sscanf(rest, "%d kB", &megabytes); err != nil {
		d.t.Fatal(err)
	}
	return megabytes >> 10
}

// reply is what the intake answers.
type reply struct {
	Status   int
	Delivery string
	Events   []struct {
		Event, Registry, Repository, Tag, Digest, Action, Ignored string
		Runs                                                      []string
	}
	Ignored    []struct{ Reason string }
	Error      string
	RetryAfter string `json:"-"` // the header
}

// post sends a delivery. The error is that of the connection: whether it was
// acknowledged is in the status.
func (d *daemon) post(source string, body []byte, headers ...string) (reply, error) {
	req, err := http.NewRequest(http.MethodPost, d.hooks+source, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return reply{}, err
	}
	r := reply{Status: resp.StatusCode, RetryAfter: resp.Header.Get("Retry-After")}
	if err := json.Unmarshal(data, &r); err != nil {
		return reply{}, fmt.Errorf("%s: %w", data, err)
	}
	return r, nil
}

var client = &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

// mustPost sends a delivery that is to be acknowledged with a status.
func (d *daemon) mustPost(want int, source string, body []byte, headers ...string) reply {
	d.t.Helper()
	r, err := d.post(source, body, headers...)
	if err != nil {
		d.t.Fatal(err)
	}
	if r.Status != want {
		d.t.Fatalf("answered %d, want %d: %+v", r.Status, want, r)
	}
	return r
}

// aRun is a run as the API shows it.
type aRun struct {
	ID, Event, Rule, Kind, Target, Mode, State, Reason, Image string
	Index, Attempt                                            int
	Tries                                                     []struct {
		State, Reason, Log string
	}
}

func (d *daemon) get(path string, into any) {
	d.t.Helper()
	resp, err := client.Get(d.admin + path)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		data, _ := io.ReadAll(resp.Body)
		d.t.Fatalf("%s: %s: %s", path, resp.Status, data)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		d.t.Fatal(err)
	}
}

// runs gives all runs, newest first.
func (d *daemon) runs(query string) []aRun {
	d.t.Helper()
	var all []aRun
	for before := ""; ; {
		var page struct {
			Runs []aRun
			Next string
		}
		d.get("/api/v1/runs?limit=1000"+query+before, &page)
		all = append(all, page.Runs...)
		if page.Next == "" {
			return all
		}
		before = "&before=" + page.Next
	}
}

// ended waits until no run is live, and gives them all. One that is taken up
// again is waiting and running in turn, and may be neither to those who ask for
// one after the other.
func (d *daemon) ended() []aRun {
	d.t.Helper()
	var all []aRun
	eventually(d.t, "all runs ended", func() error {
		for _, state := range []string{"waiting", "running"} {
			var live struct{ Runs []aRun }
			if d.get("/api/v1/runs?limit=1&state="+state, &live); len(live.Runs) > 0 {
				r := live.Runs[0]
				return fmt.Errorf("run %s of %s is %s: %s", r.ID, r.Target, r.State, r.Reason)
			}
		}
		all = d.runs("")
		if i := slices.IndexFunc(all, func(r aRun) bool { return r.State == "waiting" || r.State == "running" }); i >= 0 {
			return fmt.Errorf("run %s of %s is %s: %s", all[i].ID, all[i].Target, all[i].State, all[i].Reason)
		}
		return nil
	})
	return all
}

// show gives one run with its tries.
func (d *daemon) show(id string) aRun {
	d.t.Helper()
	var r aRun
	d.get("/api/v1/runs/"+id, &r)
	return r
}

// patience is for how long the tests wait for what must happen soon. In a soak
// there is more to do.
var patience = time.Duration(soak(1, 10)) * time.Minute

// eventually asks until there is no error.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(30 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %s: %v", what, patience, err)
}

// logBuffer keeps what is written and tells when an expected line comes.
type logBuffer struct {
	mu    sync.Mutex
	text  []byte
	from  int // where to look for what is expected
	re    *regexp.Regexp
	found chan []string
}

func (b *logBuffer) expect(re *regexp.Regexp) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.re, b.from, b.found = re, len(b.text), make(chan []string, 1)
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	if b.re != nil {
		if m := b.re.FindSubmatch(b.text[b.from:]); m != nil {
			b.found <- []string{string(m[0]), string(m[1]), string(m[2])}
			b.re = nil
		}
	}
	return len(p), nil
}

func (b *logBuffer) tail(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(b.text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// count is how many lines match so far.
func (b *logBuffer) count(pattern string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(regexp.MustCompile(pattern).FindAll(b.text, -1))
}
