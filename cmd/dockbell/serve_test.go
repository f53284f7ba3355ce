package main

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

const oneRule = "sources: {hub: {type: dockerhub, auth: none}}\nrules: [{name: web, repo: shop/web, actions: [http: {url: 'http://127.0.0.1:1'}]}]\n"

func TestServeSaysWhereItListens(t *testing.T) {
	d := startDaemon(t, oneRule, "")
	line := regexp.MustCompile(`level=INFO msg=listening hooks=(127\.0\.0\.1:\d+) admin=(127\.0\.0\.1:\d+) config=\S+ store=sqlite:\S+ sources=1 rules=1 version=\S+ pid=\d+`)
	m := line.FindStringSubmatch(d.log.String())
	if m == nil || "http://"+m[1] != d.hooks || "http://"+m[2] != d.admin {
		t.Fatalf("%v in\n%s", m, d.log.String())
	}
	for url, want := range map[string]int{d.admin + "/readyz": 200, d.admin + "/metrics": 200, d.hooks + "/metrics": 404, d.admin + "/hooks/hub": 404} {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", url, resp.StatusCode, want)
		}
	}
	d.stop()
	if !strings.Contains(d.log.String(), "msg=stopped") {
		t.Errorf("the end is not logged:\n%s", d.log.String())
	}
}

// What cannot work is refused before anything is received, and leaves nothing
// open behind it.
func TestServeRefuses(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	running := startDaemon(t, oneRule, "")
	for name, tt := range map[string]struct{ config, want string }{
		"address taken":       {"server: {listen: '" + busy.Addr().String() + "', admin: '127.0.0.1:0'}\nstore: sqlite:DIR/a.db\n" + oneRule, "server.listen: listen tcp " + busy.Addr().String() + ": bind: address already in use"},
		"admin address taken": {"server: {listen: '" + free.Addr().String() + "', admin: '" + busy.Addr().String() + "'}\nstore: sqlite:DIR/b.db\n" + oneRule, "server.admin: listen tcp " + busy.Addr().String() + ": bind: address already in use"},
		"store taken":         {"server: {listen: '127.0.0.1:0', admin: '127.0.0.1:0'}\nstore: sqlite:" + filepath.Join(running.dir, "dockbell.db") + "\n" + oneRule, "another dockbell is using it"},
		"no folder":           {"store: sqlite:DIR/nowhere/a.db\n" + oneRule, "no such file or directory"},
		"bad configuration":   {"rules: []\n", "cannot be used:\nDIR/dockbell.yaml:1: sources: is missing"},
		"commands":            {strings.ReplaceAll(oneRule, "http: {url: 'http://127.0.0.1:1'}", "command: {argv: [echo]}"), "command actions are off"},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeConfig(t, "")
			dir := filepath.Dir(path)
			path = writeConfig(t, strings.ReplaceAll(tt.config, "DIR", dir))
			want := strings.ReplaceAll(tt.want, "DIR", filepath.Dir(path))
			o := serveOptions{config: path, started: func(net.Addr, net.Addr) { t.Error("it has started") }}
			for range 2 { // a second time, since the first must not keep anything
				if err := serve(t.Context(), o, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			}
		})
	}
}

// The run that answers Docker Hub follows those of the rules, and there is
// none where nobody asked for it or nothing was done.
func TestCallback(t *testing.T) {
	now := time.Now()
	match := withCallback(func(e trigger.Event, _ time.Time) ([]trigger.Run, string) {
		if e.Tag == "none" {
			return nil, "no rule"
		}
		return []trigger.Run{{Rule: "web"}}, ""
	})
	const callback = "https://registry.hub.docker.com/u/hook/?a=1&b=\"\U000E0001"
	for tag, want := range map[string]int{"v1": 2, "none": 0} {
		runs, reason := match(trigger.Event{Image: trigger.Image{Tag: tag}, Source: "hub", Callback: callback}, now)
		if len(runs) != want || (reason == "") != (want > 0) {
			t.Errorf("%s: %d runs, %q", tag, len(runs), reason)
		}
		if want == 0 {
			continue
		}
		r := runs[1]
		var spec struct{ URL string }
		if err := json.Unmarshal(r.Spec, &spec); err != nil || spec.URL != callback {
			t.Errorf("%s: %v", r.Spec, err)
		}
		if !r.After || r.Kind != callbackKind || r.Rule != "source hub" || r.Mode != trigger.Parallel || r.Attempts == 0 || r.Timeout == 0 {
			t.Errorf("%+v", r)
		}
	}
	if runs, _ := match(trigger.Event{Source: "hub"}, now); len(runs) != 1 {
		t.Errorf("%d runs without a callback", len(runs))
	}
}

// No rule can name the kind that answers Docker Hub: its URL comes from events.
func TestCallbackIsNoKindOfRules(t *testing.T) {
	if _, ok := offlineKinds(t.Context(), true)(nil, nil, nil)[callbackKind]; ok {
		t.Error("it is in the table of rules")
	}
}
