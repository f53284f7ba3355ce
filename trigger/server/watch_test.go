package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// pipes is a listener whose connections have no buffers, in fake time.
type pipes struct {
	conns chan net.Conn
	end   chan struct{}
	close func()
}

func newPipes() *pipes {
	p := &pipes{conns: make(chan net.Conn), end: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.end) })
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.end:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.end:
		return nil, net.ErrClosed
	}
}

// gallery is a station whose admin side is served to those who watch.
type gallery struct {
	*station
	at      *pipes
	stop    context.CancelFunc
	stopped chan error
	output  *page

	watchers []*watcher
}

// watching runs a test in fake time with a server that somebody may watch.
func watching(t *testing.T, test func(g *gallery)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := &gallery{station: newStation(t), at: newPipes(), stopped: make(chan error, 1)}
		g.server.Output = func(_ int64, try int) Output {
			if g.output == nil || g.output.try != try {
				return nil
			}
			return g.output
		}
		ctx, stop := context.WithCancel(context.Background())
		g.stop = stop
		go func() { g.stopped <- Serve(ctx, g.at, g.admin, nil, g.server.Log) }()
		defer func() {
			for _, w := range g.watchers {
				w.resp.Body.Close()
			}
			g.stop()
			if err := <-g.stopped; err != nil {
				t.Error(err)
			}
		}()
		test(g)
	})
}

// page is the output of a try.
type page struct {
	try  int
	mu   sync.Mutex
	text string
	end  bool
	more chan struct{}
}

func (p *page) write(text string, end bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text, p.end = p.text+text, end
	if p.more != nil {
		close(p.more)
		p.more = nil
	}
}

func (p *page) Since(n int) (text string, next int, more <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.end {
		if p.more == nil {
			p.more = make(chan struct{})
		}
		more = p.more
	}
	return p.text[n:], len(p.text), more
}

// watcher is somebody who watches.
type watcher struct {
	t    testing.TB
	resp *http.Response
	in   *bufio.Reader
	id   string // of the last event
}

func (g *gallery) watch(target, lastID string) *watcher {
	g.t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: g.at.dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://dockbell/api/v1"+target, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := client.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	w := &watcher{t: g.t, resp: resp, in: bufio.NewReader(resp.Body)}
	g.watchers = append(g.watchers, w)
	return w
}

// next is the next event in short, "" at the end.
func (w *watcher) next() string {
	w.t.Helper()
	name, data := "", ""
	for beats := 0; beats < 10; {
		line, err := w.in.ReadString('\n')
		if err != nil {
			return ""
		}
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case key == "id":
			w.id = value
		case key == "event":
			name = value
		case key == "data":
			data = value
		case line == "\n" && name != "":
			return short(w.t, name, data)
		case value == "nothing new":
			beats++
		}
	}
	return "nothing"
}

func short(t testing.TB, name, data string) string {
	t.Helper()
	var v struct {
		ID, State, Reason, Text, Log string
		Try                          int
		Changes                      int64
	}
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	switch name {
	case "run", "end":
		return strings.TrimSpace(name + " " + v.ID + " " + v.State + " " + v.Reason)
	case "chapter":
		text, _, _ := strings.Cut(v.Text, " took ")
		return strings.TrimSpace("chapter " + text + " " + v.Log)
	case "output":
		return fmt.Sprintf("output %d %s", v.Try, v.Text)
	case "missed":
		return "missed " + strconv.FormatInt(v.Changes, 10)
	}
	return name
}

func (w *watcher) want(want ...string) {
	w.t.Helper()
	for _, event := range want {
		if got := w.next(); !strings.HasPrefix(got, event) || event == "" && got != "" {
			w.t.Fatalf("event %q, want %q", got, event)
		}
	}
}

// push makes runs, which the store gives ids from 1.
func (g *gallery) push(repository, tag string) {
	g.t.Helper()
	if w := g.post("/hooks/open", hubPush(repository, tag)); w.Code != http.StatusAccepted {
		g.t.Fatalf("%d %s", w.Code, w.Body)
	}
}

// begin starts the next run, finish writes back how it went.
func (g *gallery) begin() trigger.Run {
	g.t.Helper()
	runs, _, err := g.store.Claim(context.Background(), time.Now(), func() int { return 1 })
	if err != nil || len(runs) != 1 {
		g.t.Fatalf("claimed %v, %v", runs, err)
	}
	return runs[0]
}

func (g *gallery) finish(r trigger.Run, res trigger.Result) {
	g.t.Helper()
	res.At = time.Now()
	if _, err := g.store.Finish(context.Background(), r, res); err != nil {
		g.t.Fatal(err)
	}
}

func TestWatchRun(t *testing.T) {
	watching(t, func(g *gallery) {
		g.push("shop/web", "v1")
		w := g.watch("/runs/1/watch", "")
		if w.resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Error(w.resp.Header)
		}
		w.want("run 1 waiting", "chapter received from source open", "chapter accepted by rule web")
		g.output = &page{try: 1}
		run := g.begin()
		w.want("run 1 running", "chapter try 1 began")
		g.output.write("one\n", false)
		w.want("output 1 one\n")
		g.output.write("two\n", false)
		w.want("output 1 two\n")
		g.output.write("three\n", false)
		g.finish(run, trigger.Result{State: trigger.Waiting, Reason: "not now", Log: "one\ntwo\nthree\n", NotBefore: time.Now()})
		g.output.write("", true)
		w.want("output 1 three\n", "run 1 waiting not now", "chapter try 1")

		// The second try is over before anybody has seen it.
		run = g.begin()
		g.finish(run, trigger.Result{State: trigger.Succeeded, Log: "at last"})
		w.want("run 1 succeeded", "chapter try 2 at last", "end 1 succeeded", "")
	})
}

// A run that has ended is told as it was.
func TestWatchEndedRun(t *testing.T) {
	watching(t, func(g *gallery) {
		g.push("shop/web", "v1")
		g.finish(g.begin(), trigger.Result{State: trigger.Failed, Reason: "no", Log: "what it wrote"})
		g.watch("/runs/1/watch", "").want("run 1 failed no", "chapter received", "chapter accepted", "chapter try 1 what it wrote", "end 1 failed no", "")
	})
}

// What another dockbell carries out is told, but for what it writes.
func TestWatchRunElsewhere(t *testing.T) {
	watching(t, func(g *gallery) {
		g.push("shop/web", "v1")
		run := g.begin()
		w := g.watch("/runs/1/watch", "")
		w.want("run 1 running", "chapter received", "chapter accepted", "chapter try 1 began", "elsewhere")
		g.finish(run, trigger.Result{State: trigger.Succeeded, Log: "what it wrote"})
		w.want("run 1 succeeded", "chapter try 1 what it wrote", "end 1 succeeded")
	})
}

// Who comes back hears what came meanwhile, and nothing twice.
func TestWatchRunAgain(t *testing.T) {
	watching(t, func(g *gallery) {
		g.push("shop/web", "v1")
		time.Sleep(time.Second)
		g.output = &page{try: 1}
		run := g.begin()
		w := g.watch("/runs/1/watch", "")
		w.want("run 1 running", "chapter received", "chapter accepted", "chapter try 1 began")
		g.output.write("one ", false)
		w.want("output 1 one ")
		w.resp.Body.Close()
		g.output.write("two ", false)
		again := g.watch("/runs/1/watch", w.id)
		again.want("run 1 running", "output 1 two ")
		again.resp.Body.Close()
		time.Sleep(time.Second)
		g.finish(run, trigger.Result{State: trigger.Succeeded, Log: "one two three"})
		// It was not there for the end, so it is given all.
		g.watch("/runs/1/watch", again.id).want("run 1 succeeded", "chapter try 1 one two three", "end 1 succeeded")
	})
}

// An action that writes without end is sent in few pieces.
func TestWatchGathers(t *testing.T) {
	watching(t, func(g *gallery) {
		g.push("shop/web", "v1")
		g.output = &page{try: 1}
		g.begin()
		w := g.watch("/runs/1/watch", "")
		w.want("run", "chapter", "chapter", "chapter")
		go func() {
			for range 1000 {
				g.output.write("x", false)
				time.Sleep(time.Millisecond)
			}
		}()
		pieces := 0
		for written := 0; written < 1000; pieces++ {
			text, ok := strings.CutPrefix(w.next(), "output 1 ")
			if !ok {
				t.Fatal(text)
			}
			written += len(text)
		}
		if most := int(time.Second/gather) + 5; pieces > most {
			t.Errorf("%d pieces in a second, want at most %d", pieces, most)
		}
	})
}

func TestWatchAll(t *testing.T) {
	watching(t, func(g *gallery) {
		g.push("shop/old", "v1") // before anybody watches
		all, two, second := g.watch("/watch", ""), g.watch("/watch?repo=shop/two", ""), g.watch("/watch?rule=second", "")
		synctest.Wait()
		g.finish(g.begin(), trigger.Result{State: trigger.Succeeded})
		time.Sleep(time.Millisecond)
		g.push("shop/two", "v1")
		all.want("run 1 running", "run 1 succeeded", "run 2 waiting", "run 3 waiting")
		two.want("run 2 waiting", "run 3 waiting")
		second.want("run 3 waiting")
		second.resp.Body.Close()

		run := g.begin()
		all.want("run 2 running")
		g.finish(run, trigger.Result{State: trigger.Waiting, Reason: "not now", NotBefore: time.Now()})
		all.want("run 2 waiting not now")
		if err := g.store.Cancel(context.Background(), 3, "cancelled by ann", time.Now()); err != nil {
			t.Fatal(err)
		}
		all.want("run 3 skipped cancelled by ann")
		run = g.begin()
		all.want("run 2 running")
		g.finish(run, trigger.Result{State: trigger.Failed, Reason: "no"})
		all.want("run 2 failed no")
		if err := g.store.Retry(context.Background(), 2, "tried again by ann", time.Now()); err != nil {
			t.Fatal(err)
		}
		all.want("run 2 waiting tried again by ann")
		// The one who came back has missed nothing.
		g.watch("/watch?rule=second", second.id).want("run 3 skipped", "nothing")
	})
}

// Who comes back after a restart, or to another replica, is told that there may
// be a gap; so is who has been away for too long.
func TestWatchMissed(t *testing.T) {
	watching(t, func(g *gallery) {
		w := g.watch("/watch", "1234.5")
		w.want("missed 0")
		g.push("shop/web", "v1")
		w.want("run 1 waiting")
		w.resp.Body.Close()
		for i := range mostRecent + 10 {
			g.push("shop/web", fmt.Sprint("v1.", i))
		}
		again := g.watch("/watch", w.id)
		again.want("missed 10", "run 12 waiting")
	})
}

func TestWatchRefuses(t *testing.T) {
	watching(t, func(g *gallery) {
		for target, want := range map[string]string{
			"/runs/7/watch":       "404 there is no run 7",
			"/runs/x/watch":       "400 the id of a run is a number",
			"/runs/1/watch?all=1": `400 unknown parameter "all"`,
			"/watch?repository=x": `400 unknown parameter "repository"`,
			"/watch?rule=":        "400 rule must be given once",
		} {
			w := g.watch(target, "")
			body, err := io.ReadAll(w.resp.Body)
			if got := fmt.Sprintf("%d %s", w.resp.StatusCode, strings.TrimPrefix(string(body), `{"error":"`)); err != nil || !strings.HasPrefix(strings.ReplaceAll(got, `\"`, `"`), want) {
				t.Errorf("%s: %s, want %s", target, got, want)
			}
		}
		var all []*watcher
		for range mostWatching {
			all = append(all, g.watch("/watch", ""))
		}
		if w := g.watch("/watch", ""); w.resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("one more is answered %s", w.resp.Status)
		}
		all[3].resp.Body.Close()
		synctest.Wait()
		if w := g.watch("/watch", ""); w.resp.StatusCode != http.StatusOK {
			t.Errorf("when one has left, another is answered %s", w.resp.Status)
		}
	})
}

// The server does not wait for those who watch.
func TestWatchEndsWithServer(t *testing.T) {
	watching(t, func(g *gallery) {
		g.push("shop/web", "v1")
		one, all := g.watch("/runs/1/watch", ""), g.watch("/watch", "")
		one.want("run", "chapter", "chapter")
		synctest.Wait()
		began := time.Now()
		g.stop()
		one.want("stop", "")
		all.want("stop", "")
		g.stopped <- <-g.stopped
		if took := time.Since(began); took > shutdownTimeout/2 {
			t.Errorf("it took %s to stop", took)
		}
	})
}

// A watch outlasts the limits of other requests, and who does not read is cut
// off, and let go of.
func TestWatchEndsWithReader(t *testing.T) {
	watching(t, func(g *gallery) {
		g.push("shop/web", "v1")
		reads, sleeps := g.watch("/runs/1/watch", ""), g.watch("/runs/1/watch", "")
		reads.want("run", "chapter", "chapter")
		go func() {
			time.Sleep(2 * writeTimeout)
			g.output = &page{try: 1}
			g.begin()
		}()
		reads.want("run 1 running", "chapter try 1 began")
		synctest.Wait()
		if n := len(g.server.watching); n != 1 {
			t.Errorf("%d watch, want the one who reads", n)
		}
		if text, err := io.ReadAll(sleeps.in); err == nil || strings.Contains(string(text), "running") {
			t.Errorf("who slept was waited for: %q, %v", text, err)
		}
		if n := strings.Count(g.log.String(), "cut off who watches"); n != 1 {
			t.Errorf("%d were cut off, by the log: %s", n, g.log.String())
		}
	})
}
