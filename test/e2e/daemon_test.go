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
	env   []string
	hooks string // URL of the intake
	admin string
	cmd   *exec.Cmd
	log   *logBuffer
}

// serve starts dockbell with a configuration; %s in it is not touched. It is
// stopped with the test, and its log shown when the test failed.
func serve(t *testing.T, config string, env ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: t.TempDir(), log: &logBuffer{}, env: append(os.Environ(), append(env, "KUBECONFIG="+cluster.Kubeconfig)...)}
	if err := os.WriteFile(filepath.Join(d.dir, "dockbell.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start()
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
	d.cmd = exec.Command(program, "serve", "--config", "dockbell.yaml", "--allow-commands")
	d.cmd.Dir, d.cmd.Env = d.dir, d.env
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	d.log.expect(listening)
	d.cmd.Stderr = d.log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	select {
	case m := <-d.log.found:
		d.hooks, d.admin = "http://"+m[1]+"/hooks/", "http://"+m[2]
	case <-time.After(20 * time.Second):
		d.t.Fatalf("dockbell does not listen:\n%s", d.log.tail(50))
	}
}

// kill ends it as a crash would.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill() // ended already is fine
	_ = d.cmd.Wait()
}

func (d *daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // ended already is fine
	_ = d.cmd.Wait()
}

// reply is what the intake answers.
type reply struct {
	Status   int
	Delivery string
	Events   []struct {
		Event, Registry, Repository, Tag, Digest, Action, Ignored string
		Runs                                                      []string
	}
	Ignored []struct{ Reason string }
	Error   string
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
	r := reply{Status: resp.StatusCode}
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
	ID, Event, Rule, Kind, Target, State, Reason, Image string
	Attempt                                             int
	Tries                                               []struct {
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

// ended waits until no run is live, and gives them all.
func (d *daemon) ended() []aRun {
	d.t.Helper()
	var runs []aRun
	eventually(d.t, "all runs ended", func() error {
		for _, state := range []string{"waiting", "running"} {
			if live := d.runs("&state=" + state); len(live) > 0 {
				return fmt.Errorf("%d are %s, as run %s of %s: %s", len(live), state, live[0].ID, live[0].Target, live[0].Reason)
			}
		}
		return nil
	})
	runs = d.runs("")
	return runs
}

// show gives one run with its tries.
func (d *daemon) show(id string) aRun {
	d.t.Helper()
	var r aRun
	d.get("/api/v1/runs/"+id, &r)
	return r
}

// eventually asks until there is no error.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(30 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within a minute: %v", what, err)
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
