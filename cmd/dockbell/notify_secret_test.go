package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The address of a chat is a secret: whatever a service answers, it is neither on
// disk, nor in the log, nor in what the API tells.
func TestAddressesOfChatsAreKeptNowhere(t *testing.T) {
	const planted = "planted-key-of-a-chat"
	chat := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.String())
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte("nothing to see at " + r.URL.String()))
	}))
	defer chat.Close()
	host := strings.TrimPrefix(chat.URL, "http://")
	t.Setenv("HUB_TOKEN", "hunter2")
	t.Setenv("CHAT_URL", chat.URL+"/"+planted+"?sig="+planted)
	t.Setenv("NTFY_URL", "ntfy://ci:"+planted+"@"+host+"/"+planted+"?scheme=http")
	d := startDaemon(t, `
sources: {hub: {type: dockerhub, auth: {token: {env: HUB_TOKEN}}}}
rules: [{name: web, repo: shop/web, actions: [command: {argv: ["true"]}]}]
notify:
- {on: succeeded, slack: {url: {env: CHAT_URL}}}
- {on: succeeded, teams: {url: {env: CHAT_URL}}}
- {on: succeeded, discord: {url: {env: CHAT_URL}}}
- {on: succeeded, shoutrrr: {url: {env: NTFY_URL}}}
`, "127.0.0.1:1")
	d.post("hub?token=hunter2", map[string]any{"push_data": map[string]any{"tag": "v1"}, "repository": map[string]any{"repo_name": "shop/web"}})
	failed := 0
	until(t, func() bool {
		failed = 0
		for _, r := range d.runs() {
			if r.State == "failed" && strings.Contains(r.Reason, "403") {
				failed++
			}
		}
		return failed == 4
	})
	told, err := json.Marshal(d.runs())
	if err != nil {
		t.Fatal(err)
	}
	d.stop() // and so everything is in the file
	kept := map[string]string{"the API": string(told), "the log": d.log.String()}
	files, err := os.ReadDir(d.dir)
	for _, f := range files {
		var data []byte
		if data, err = os.ReadFile(filepath.Join(d.dir, f.Name())); err != nil {
			break
		}
		kept[f.Name()] = string(data)
	}
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range kept {
		if strings.Contains(text, "planted-key") {
			t.Errorf("the secret is in %s", where)
		}
	}
	if len(kept["dockbell.db"]) == 0 {
		t.Error("there is no store to look into")
	}
}
