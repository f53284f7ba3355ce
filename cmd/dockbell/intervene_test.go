package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

func TestCancelAndRetry(t *testing.T) {
	t.Setenv("API_TOKEN", "hunter2")
	t.Setenv("DOCKBELL_TOKEN", "hunter2")
	t.Setenv("USER", "")
	receiver := newReceiver(t, map[string][]any{"POST /fails": {404, 200}})
	d := startDaemon(t, strings.ReplaceAll(`
sources: {hub: {type: dockerhub, auth: none}}
rules:
- {name: later, repo: shop/web, settle: 1h, actions: [http: {url: 'http://RECEIVER/later'}]}
- {name: fails, repo: shop/web, actions: [http: {url: 'http://RECEIVER/fails', attempts: 1}]}
`, "RECEIVER", receiver.address), receiver.address)
	if status, reply := d.post("hub", json.RawMessage(hubPush("shop/web", "v1"))); status != http.StatusAccepted {
		t.Fatal(status, reply)
	}
	step{Ended: 1}.do(t, d, receiver)
	for _, tt := range []struct {
		line, want string
		ok         bool
	}{
		{"cancel 2 --by anna", "run 2 is failed: only one that waits can be cancelled", false},
		{"retry 1 --by anna", "run 1 is waiting: only one that has failed, or whose end is not known, can be tried again", false},
		{"retry 9 --by anna", "there is no run 9", false},
		{"retry x --by anna", `"x" is not the id of a run`, false},
		{"cancel 1 --by ", `say who you are: {"by": "NAME"}`, false},
		{"cancel 1 --by anna", "run 1 is skipped: cancelled by anna\n", true},
		{"reject 1 --reason late", `say who you are: {"by": "NAME"}`, false},
		{"retry 2 --by anna", "run 2 is ", true},
	} {
		out, errs, ok := dockbell(t, "", append([]string{"runs", "--server", d.admin}, strings.Split(tt.line, " ")...)...)
		if ok != tt.ok || !strings.Contains(out+errs, tt.want) {
			t.Errorf("%s: %v, %s%s", tt.line, ok, out, errs)
		}
	}
	step{Ended: 2}.do(t, d, receiver)
	if runs := d.runs(); runs[0].ID != 2 || runs[0].State != "succeeded" || runs[0].Attempt != 2 {
		t.Errorf("%+v", runs[0])
	}

	t.Setenv("DOCKBELL_TOKEN", "guess")
	if _, errs, ok := dockbell(t, "", "runs", "retry", "2", "--by", "anna", "--server", d.admin); ok || !strings.Contains(errs, "wrong or missing bearer token") {
		t.Error(errs)
	}
}

// Without a token in the configuration nobody changes anything.
func TestNoTokenNoChange(t *testing.T) {
	d := startDaemon(t, oneRule, "")
	t.Setenv("DOCKBELL_TOKEN", "hunter2")
	_, errs, ok := dockbell(t, "", "runs", "cancel", "1", "--by", "anna", "--server", d.admin)
	if ok || !strings.Contains(errs, "nothing can be changed by the API: set server.token") {
		t.Error(errs)
	}
	resp, err := http.Post(d.hooks+"/api/v1/runs/1/cancel", "application/json", strings.NewReader(`{"by": "anna"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("on the public side: %s", resp.Status)
	}
}
