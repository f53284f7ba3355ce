package main

import (
	"strings"
	"testing"
)

func TestWindows(t *testing.T) {
	config := writeConfig(t, `
sources: {hub: {type: dockerhub, auth: none}}
rules:
- {name: day, repo: a/b, window: {cron: "0 9 * * *", for: 8h, timezone: Europe/Berlin}, actions: [http: {url: "http://127.0.0.1:1"}]}
- {name: holidays, repo: a/b, freeze: {from: 2026-12-20, to: 2027-01-02, reason: the holidays}, actions: [http: {url: "http://127.0.0.1:1"}]}
`)
	out, _, ok := dockbell(t, "", "windows", "-c", config, "--at", "2026-12-24T05:30:00Z")
	const want = `RULE      NOW     OPENS                     IN        WHY
day       closed  Thu 2026-12-24 09:00 CET  2h30m0s   outside its window
holidays  closed  Sun 2027-01-03 00:00 UTC  234h30m0s frozen for the holidays
`
	if !ok || squeeze(out) != squeeze(want) {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	out, _, ok = dockbell(t, "", "windows", "-c", config, "--at", "2026-12-10T12:00:00Z", "-o", "json")
	if !ok || squeeze(out) != `[ { "rule": "day", "open": true }, { "rule": "holidays", "open": true } ]` {
		t.Error(out)
	}
	if out, _, ok = dockbell(t, "", "windows", "-c", writeConfig(t, oneRule)); !ok || out != "No rule has a window or a freeze: runs start at any time.\n" {
		t.Error(out)
	}
	if _, errs, ok := dockbell(t, "", "windows", "-c", config, "--at", "noon"); ok || errs != "dockbell: --at \"noon\": must be a moment as 2026-12-24T12:00:00Z\n" {
		t.Error(errs)
	}
}

// squeeze makes one space of all white space.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }
