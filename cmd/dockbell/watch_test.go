package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// watched runs `dockbell runs watch` beside a test. It gives what that has
// written so far, and how it ends.
func watched(t *testing.T, d *daemon, args ...string) (out *logBuffer, ended <-chan error) {
	t.Helper()
	out = &logBuffer{}
	end := make(chan error, 1)
	root := rootCommand()
	root.SetArgs(append([]string{"runs", "watch", "--server", d.admin}, args...))
	root.SetOut(out)
	root.SetErr(out)
	go func() { end <- root.ExecuteContext(t.Context()) }()
	return out, end
}

// seen waits until a text has a line that matches.
func seen(t *testing.T, out *logBuffer, pattern string) {
	t.Helper()
	line := regexp.MustCompile(pattern)
	until(t, func() bool { return line.MatchString(out.String()) })
}

const watchedConfig = `sources: {hub: {type: dockerhub, auth: none}}
rules:
- name: web
  repo: shop/web
  actions:
  - command: {shell: 'echo begun; until test -e go-$DOCKBELL_TAG; do sleep 0.01; done; printf "the end"; test $DOCKBELL_TAG = good', dir: DIR}
`

func push(d *daemon, tag string) {
	d.t.Helper()
	body := map[string]any{"push_data": map[string]any{"tag": tag, "pusher": "crane"}, "repository": map[string]any{"repo_name": "shop/web"}}
	if status, reply := d.post("hub", body); status != 202 {
		d.t.Fatalf("%d %q", status, reply)
	}
}

// goOn lets the command for a tag come to its end.
func goOn(d *daemon, tag string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, "go-"+tag), nil, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func TestWatchRun(t *testing.T) {
	d := startDaemon(t, watchedConfig, "127.0.0.1:1")
	push(d, "good")
	out, ended := watched(t, d, "1")
	seen(t, out, `(?m)^.*  try 1 began\n    begun\n`)
	if strings.Contains(out.String(), "the end") {
		t.Errorf("it tells of what has not happened: %s", out)
	}
	goOn(d, "good")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	want := `^\S.*  received from source hub: .*\n\S.*  accepted by rule web.*\n\S.*  try 1 began\n    begun\n    the end\n\S.*  try 1 took .*: succeeded\n$`
	if !regexp.MustCompile(want).MatchString(out.String()) {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}

	push(d, "bad")
	out, ended = watched(t, d, "2", "-o", "json")
	seen(t, out, `"text":"begun\\n"`)
	goOn(d, "bad")
	if err := <-ended; !errors.Is(err, errSilent) {
		t.Errorf("a run that failed ends with %v", err)
	}
	last := event{}
	for line := range strings.Lines(out.String()) {
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
	if last.Name != "end" || !bytes.Contains(last.Data, []byte(`"state":"failed"`)) {
		t.Errorf("the last event is %s %s", last.Name, last.Data)
	}
}

func TestWatchAll(t *testing.T) {
	d := startDaemon(t, watchedConfig, "127.0.0.1:1")
	goOn(d, "good")
	out, _ := watched(t, d, "--rule", "web", "--repo", "shop/web")
	none, _ := watched(t, d, "--repo", "shop/other")
	until(t, func() bool { // until it watches
		push(d, "good")
		return out.String() != ""
	})
	seen(t, out, `(?m)^\d\d:\d\d:\d\d\.\d{3} +\d+  running      web  /bin/sh  docker.io/shop/web:good$`)
	seen(t, out, `(?m)^\d\d:\d\d:\d\d\.\d{3} +\d+  succeeded    web  /bin/sh  docker.io/shop/web:good$`)
	if none.String() != "" {
		t.Errorf("what was not asked for: %s", none)
	}
}

// A watch outlives a restart.
func TestWatchGoesOn(t *testing.T) {
	t.Setenv("API_TOKEN", "hunter2")
	t.Setenv("DOCKBELL_TOKEN", "hunter2")
	d := startDaemon(t, strings.Replace(watchedConfig, "shop/web\n", "shop/web\n  approve: 1\n", 1), "127.0.0.1:1")
	push(d, "good")
	out, ended := watched(t, d, "1")
	seen(t, out, `accepted by rule web`)
	// It is to come back at the address that it has now.
	admin := strings.TrimPrefix(d.admin, "http://")
	text, err := os.ReadFile(d.options.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.options.config, []byte(strings.Replace(string(text), "admin: '127.0.0.1:0'", "admin: '"+admin+"'", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	d.stop()
	seen(t, out, `waiting for it to come back`)
	d.start()
	if _, errs, ok := dockbell(t, "", "runs", "reject", "1", "--by", "ann", "--reason", "no", "--server", d.admin); !ok {
		t.Fatal(errs)
	}
	if err := <-ended; !errors.Is(err, errSilent) {
		t.Errorf("a run that was rejected ends with %v", err)
	}
	if got := out.String(); strings.Count(got, "accepted by rule web") != 1 || !strings.Contains(got, "rejected by ann: no") {
		t.Errorf("got\n%s", got)
	}
}

func TestWatchRefused(t *testing.T) {
	d := startDaemon(t, watchedConfig, "127.0.0.1:1")
	for line, want := range map[string]string{
		"7":           "there is no run 7",
		"x":           `"x" is not the id of a run`,
		"7 --rule y":  "--rule and --repo choose among all runs",
		"7 8":         "accepts at most 1 arg(s), received 2",
		"7 -o yaml":   `--output "yaml": must be table or json`,
		"--repo= --x": "unknown flag: --x",
	} {
		out, errs, ok := dockbell(t, "", append([]string{"runs", "watch", "--server", d.admin}, strings.Fields(line)...)...)
		if ok || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%s: %t, %q, %q", line, ok, out, errs)
		}
	}
	d.stop()
	if _, errs, ok := dockbell(t, "", "runs", "watch", "--server", d.admin); ok || !strings.Contains(errs, "no dockbell answers") {
		t.Errorf("%t, %q", ok, errs)
	}
}
