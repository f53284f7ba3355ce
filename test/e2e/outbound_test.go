package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// own is how many megabytes dockbell has taken for itself: without the pages of
// its program, which the system reads from the file and may drop.
func (d *daemon) own() (megabytes int) {
	d.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		d.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	if _, err := fmt.Sscanf(rest, "%d kB", &megabytes); err != nil {
		d.t.Fatal(err)
	}
	return megabytes >> 10
}

// push sends one that rules for repositories like name/… are for.
func (d *daemon) push(name string, n int) {
	d.t.Helper()
	d.mustPost(http.StatusAccepted, "registry", distribution(fmt.Sprint(name, n), "registry.example.com", fmt.Sprintf("%s/app%d", name, n), "v1", digestOf(n), time.Now().UTC().Format(time.RFC3339Nano)))
}

// A thousand calls to a receiver that begins to answer and then takes its time
// are under way at once, hold up nothing else, and take little memory.
func TestThousandSlowCalls(t *testing.T) {
	const calls, most = 1000, 100 // megabytes
	var middle, done atomic.Int64
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("x"), 6<<10))
		_ = http.NewResponseController(w).Flush()
		middle.Add(1)
		<-release
		done.Add(1)
	}))
	defer slow.Close()
	let := sync.OnceFunc(func() { close(release) })
	defer let()
	fast := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer fast.Close()
	d := serve(t, strings.NewReplacer("SLOW", slow.URL, "FAST", fast.URL).Replace(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
sources: {registry: {type: distribution, auth: none}}
rules:
- {name: slow, repo: slow/*, actions: [http: {url: "SLOW", json: {image: "{{.Image}}"}, mode: parallel, timeout: 5m}]}
- {name: fast, repo: fast/*, actions: [http: {url: "FAST"}]}
`))
	for n := range calls {
		d.push("slow", n)
	}
	eventually(t, "all calls are under way", func() error {
		if n := middle.Load(); n < calls {
			return fmt.Errorf("%d of %d", n, calls)
		}
		return nil
	})
	own, all := d.own(), d.memory()
	t.Logf("%d MB with %d calls under way, %d with the program", own, calls, all)
	if own >= most {
		t.Errorf("%d MB with %d calls under way, want less than %d", own, calls, most)
	}
	d.push("fast", 0)
	eventually(t, "another call is made beside them", func() error {
		if runs := d.runs("&rule=fast"); len(runs) != 1 || runs[0].State != "succeeded" {
			return errors.New("it is not done")
		}
		return nil
	})
	let()
	if n := len(d.ended()); n != calls+1 || done.Load() != calls {
		t.Errorf("%d runs ended, %d calls done", n, done.Load())
	}
	if own := d.own(); own >= most {
		t.Errorf("%d MB afterwards", own)
	}
}
