package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A thousand calls to a receiver that begins to answer and then takes its time
// are under way at once, hold up nothing else, and take little memory.
func TestThousandSlowCalls(t *testing.T) {
	const calls, most = 1000, 100 // megabytes
	var middle, done atomic.Int64
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("x"), 0))
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
	before := d.memory()
	push := func(repository string, n int) {
		d.mustPost(http.StatusAccepted, "registry", distribution(fmt.Sprint(repository, n), "registry.example.com", fmt.Sprintf("%s/app%d", repository, n), "v1", digestOf(n), time.Now().UTC().Format(time.RFC3339Nano)))
	}
	for n := range calls {
		push("slow", n)
	}
	eventually(t, "all calls are under way", func() error {
		if n := middle.Load(); n < calls {
			return fmt.Errorf("%d of %d", n, calls)
		}
		return nil
	})
	peak := d.memory()
	t.Logf("%d MB before, %d MB with %d calls under way", before, peak, calls)
	if peak >= most {
		t.Errorf("%d MB with %d calls under way, want less than %d", peak, calls, most)
	}
	push("fast", 0)
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
	if after := d.memory(); after >= most {
		t.Errorf("%d MB afterwards", after)
	}
}
