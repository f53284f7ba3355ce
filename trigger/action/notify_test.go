package action

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// chats are the kinds that post messages to secret addresses.
var chats = map[string]func(*Client) trigger.Builder{"slack": Slack, "discord": Discord, "teams": Teams}

const someMessage = `title: "deployment prod/web failed", text: "v1 → v2\nno such image", link: "https://dockbell.example.com/42", state: failed`

// Kinds that write to people keep the contract of all that call over HTTP. A
// message may come twice.
func TestContractOfMessages(t *testing.T) {
	plant(t)
	kinds := []httpKind{{
		name: "grafana", harmless: true, build: Grafana, missing: []string{"url: is missing", "token: is missing", "text: is missing"},
		spec: func(server string) string {
			return fmt.Sprintf(`{url: %s/grafana, token: {env: PLANTED_TOKEN}, %s}`, server, someMessage)
		},
	}}
	for name, build := range chats {
		kinds = append(kinds, httpKind{
			name: name, harmless: true, build: build, missing: []string{"url: no secret is given", "text: is missing"},
			spec: func(server string) string {
				// The address is the secret, so it changes with the server.
				t.Setenv("PLANTED_HEADER", server+plantedHub+"?sig="+plantedQuery)
				return "{url: {env: PLANTED_HEADER}, " + someMessage + "}"
			},
		})
	}
	for _, k := range kinds {
		t.Run(k.name, k.contract)
	}
}

// sent is what a server gets of an action.
func sent(t *testing.T, build func(*Client) trigger.Builder, spec func(server string) string) (r *http.Request, body string) {
	t.Helper()
	got := make(chan struct{})
	server := serve(t, func(_ http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		r, body = req, string(b)
		close(got)
	})
	a := mustBuild(t, build(aClient()), spec(server))
	if err := a.Do(t.Context(), aRun, io.Discard); err != nil {
		t.Fatal(err)
	}
	<-got
	return r, body
}

// pretty is JSON in the one form in which it can be compared.
func pretty(t *testing.T, s string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v: %s", err, s)
	}
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Each service gets its own form, in which nothing of the message is taken for
// formatting or a mention.
func TestMessagesOfServices(t *testing.T) {
	const spec = `title: "deployment prod/my_web failed", text: "<!channel> @everyone *a* [b](c)\nrule web & co", link: "https://dockbell.example.com/42", state: failed`
	for name, want := range map[string]string{
		"slack": `{"attachments": [{"color": "danger", "title": "deployment prod/my_web failed", "title_link": "https://dockbell.example.com/42",
			"text": "&lt;!channel&gt; @everyone *a* [b](c)\nrule web &amp; co", "mrkdwn_in": [],
			"fallback": "deployment prod/my_web failed\n&lt;!channel&gt; @everyone *a* [b](c)\nrule web &amp; co\nhttps://dockbell.example.com/42"}]}`,
		"discord": `{"allowed_mentions": {"parse": []}, "embeds": [{"color": 14687834, "title": "deployment prod/my\\_web failed", "url": "https://dockbell.example.com/42",
			"description": "<!channel\\> @everyone \\*a\\* \\[b\\](c)\nrule web & co"}]}`,
		"teams": `{"type": "message", "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "content": {
			"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4",
			"actions": [{"type": "Action.OpenUrl", "title": "More", "url": "https://dockbell.example.com/42"}],
			"body": [
				{"type": "RichTextBlock", "spacing": "small", "inlines": [{"type": "TextRun", "text": "deployment prod/my_web failed", "weight": "bolder", "color": "attention"}]},
				{"type": "RichTextBlock", "spacing": "small", "inlines": [{"type": "TextRun", "text": "<!channel> @everyone *a* [b](c)"}]},
				{"type": "RichTextBlock", "spacing": "small", "inlines": [{"type": "TextRun", "text": "rule web & co"}]}]}}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			r, body := sent(t, chats[name], func(server string) string {
				t.Setenv("CHAT_URL", server+"/hooks/abc?thread=7")
				return "{url: {env: CHAT_URL}, " + spec + "}"
			})
			if got, want := pretty(t, body), pretty(t, want); got != want {
				t.Errorf("sent\n%s\nwant\n%s", got, want)
			}
			wantURI := "/hooks/abc?thread=7"
			if name == "discord" {
				wantURI += "&wait=true"
			}
			if r.Method != http.MethodPost || r.RequestURI != wantURI || r.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s %s %v", r.Method, r.RequestURI, r.Header)
			}
		})
	}
}

// A message that no service would take is cut, and one without link, title or
// state is sent all the same.
func TestMessagesOfAllSizes(t *testing.T) {
	long := strings.Repeat("äöü", 5000)
	for name, build := range chats {
		for _, m := range []string{`text: "` + long + `", title: "` + long + `", state: succeeded`, `text: "only text"`, `title: "only a title"`} {
			_, body := sent(t, build, func(server string) string {
				t.Setenv("CHAT_URL", server+"/hooks/abc")
				return "{url: {env: CHAT_URL}, " + m + "}"
			})
			if len(body) > 2*(mostTitle+mostText)+1000 || strings.Contains(body, `\ufffd`) {
				t.Errorf("%s: %d bytes: %s", name, len(body), body)
			}
			pretty(t, body)
		}
	}
}

// What a service says is told with what to do about it, and an address that is
// no good is found while loading.
func TestChatFaults(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "no_service")
	})
	t.Setenv("CHAT_URL", server+"/services/T0/B0/planted-key")
	err := mustBuild(t, Slack(aClient()), "{url: {env: CHAT_URL}, text: hello}").Do(t.Context(), aRun, io.Discard)
	if want := "POST <secret env CHAT_URL> answered 404 Not Found: there is no such webhook or channel any more: make a new one. It says: no_service"; err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	for value, want := range map[string]string{
		"hooks.slack.com/planted": "url: must begin with https:// or http:// and a host",
		"http://169.254.169.254/": "url: 169.254.169.254 is a link-local or cloud metadata address",
	} {
		t.Setenv("CHAT_URL", value)
		if _, err := build(Slack(aClient()), "{url: {env: CHAT_URL}, text: hello}"); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%v, want %s", err, want)
		}
	}
	t.Setenv("CHAT_URL", "https://hooks.slack.com/planted")
	if _, err := build(Slack(aClient()), "{url: {env: CHAT_URL}, text: hello, link: 'javascript:alert(1)'}"); err == nil || !strings.Contains(err.Error(), "link: must begin with https://") {
		t.Error(err)
	}
}

// Every state that a notification can be on has a colour on purpose.
func TestMoods(t *testing.T) {
	for state, want := range map[string]mood{
		"succeeded": good, "failed": bad, "rolled-back": bad, "unknown": warning, "approval": warning, "expired": warning, "rejected": warning,
		"superseded": neutral, "skipped": neutral, "": neutral,
	} {
		if moods[state] != want {
			t.Errorf("%q is %d, want %d", state, moods[state], want)
		}
	}
}

func TestGrafanaAnnotation(t *testing.T) {
	t.Setenv("GRAFANA_TOKEN", "glsa_planted")
	r, body := sent(t, Grafana, func(server string) string {
		return `{url: ` + server + `/grafana/, token: {env: GRAFANA_TOKEN}, tags: [web], dashboard: abc, panel: 3, title: "a <b>", text: "c & d", link: "https://dockbell.example.com/?a=1&b=2",
			state: failed, from: "2026-01-02T03:04:05Z", until: "2026-01-02T03:06:00Z"}`
	})
	want := `{"time": 1767323045000, "timeEnd": 1767323160000, "tags": ["dockbell", "failed", "web"], "dashboardUID": "abc", "panelId": 3,
		"text": "<b>a &lt;b&gt;</b>\nc &amp; d\n<a href=\"https://dockbell.example.com/?a=1&amp;b=2\">more</a>"}`
	if got, want := pretty(t, body), pretty(t, want); got != want {
		t.Errorf("sent\n%s\nwant\n%s", got, want)
	}
	if r.RequestURI != "/grafana/api/annotations" || r.Header.Get("Authorization") != "Bearer glsa_planted" {
		t.Errorf("%s %v", r.RequestURI, r.Header)
	}
	before := time.Now().UnixMilli()
	_, body = sent(t, Grafana, func(server string) string {
		return `{url: ` + server + `, token: {env: GRAFANA_TOKEN}, text: now}`
	})
	var point struct{ Time, TimeEnd int64 }
	if err := json.Unmarshal([]byte(body), &point); err != nil || point.Time < before || point.TimeEnd != 0 {
		t.Errorf("%s, %v", body, err)
	}
	_, err := build(Grafana(aClient()), `{url: "https://grafana.example.com/?orgId=1", token: {env: GRAFANA_TOKEN}, text: x, panel: 3, from: yesterday}`)
	for _, want := range []string{"url: must be that of Grafana itself", "dashboard: is missing", `from: "yesterday" is no time`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
