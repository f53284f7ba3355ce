package main

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
)

// A push that no rule wanted is replayed when one does: first as a rehearsal,
// then in earnest, and not twice.
func TestReplay(t *testing.T) {
	t.Setenv("API_TOKEN", "hunter2")
	t.Setenv("DOCKBELL_TOKEN", "hunter2")
	t.Setenv("USER", "anna")
	receiver := newReceiver(t, nil)
	const config = `
sources: {hub: {type: dockerhub, auth: none}}
rules: [{name: web, repo: shop/NAME, actions: [http: {url: 'http://RECEIVER/x'}]}]
`
	d := startDaemon(t, strings.NewReplacer("RECEIVER", receiver.address, "NAME", "wbe").Replace(config), receiver.address)
	push := `{"push_data":{"pushed_at":1772600767,"pusher":"crane","tag":"v1"},"repository":{"repo_name":"shop/web"}}`
	if status, reply := d.post("hub", json.RawMessage(push)); status != http.StatusOK {
		t.Fatal(status, reply)
	}
	replay := func(line, want string) {
		t.Helper()
		out, errs, ok := dockbell(t, "", append([]string{"replay", "--server", d.admin}, strings.Fields(line)...)...)
		if !ok || !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("replay %s: %v\n%s%s\nwant %s", line, ok, out, errs, want)
		}
	}
	replay("delivery/1", `^push docker.io/shop/web:v1\n  starts nothing: no rule is for .*\n\nNothing was done, and nothing would be.\n$`)

	d.stop()
	text, err := os.ReadFile(d.options.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.options.config, []byte(strings.Replace(string(text), "wbe", "web", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start()
	const rehearsed = `^push docker.io/shop/web:v1\n  rule web  http POST http://\S+/x  would start\n\nNothing was done. `
	replay("delivery/1", rehearsed+"`dockbell replay delivery/1 --fire` does it.\n$")
	replay("event/1", rehearsed+"`dockbell replay event/1 --fire` does it.\n$")
	if calls := receiver.all(); len(calls) != 0 || len(d.runs()) != 0 {
		t.Fatalf("a rehearsal called %q", calls)
	}
	replay("event/1 --fire", `^push docker.io/shop/web:v1\n  rule web  http POST http://\S+/x  run 1\n\nReplayed as delivery 2; new runs: 1.\n$`)
	step{Ended: 1}.do(t, d, receiver)
	replay("delivery/1", `  stands already: run 1, succeeded\n\nNothing was done, and nothing would be. `+"`dockbell replay delivery/1 --force` tells what would be done all the same.\n$")
	replay("delivery/1 --fire", `  stands already: run 1, succeeded\n\nReplayed as delivery 3; new runs: 0.\n$`)
	replay("delivery/1 --force", "  would start\n\nNothing was done. `dockbell replay delivery/1 --fire --force` does it.\n$")
	replay("delivery/1 --fire --force -o json", `(?s)^\{\n  "of": "delivery 1",\n  "delivery": "4",.*"new": true,\n +"run": "2"`)
	step{Ended: 2}.do(t, d, receiver)
	if calls := receiver.all(); len(calls) != 2 {
		t.Errorf("%q", calls)
	}
	if _, errs, ok := dockbell(t, "", "replay", "delivery/9", "--server", d.admin); ok || !strings.Contains(errs, "there is no delivery 9") {
		t.Error(errs)
	}
}
