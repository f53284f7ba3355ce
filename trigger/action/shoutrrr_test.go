package action

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// TestMain lets the tests be couriers, too.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "deliver" {
		if err := Deliver(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func shoutrrr(client *Client) trigger.Builder { return Shoutrrr(client, os.Args[0], "deliver") }

// ntfy is the address of a topic on a server of that name.
func ntfy(server string) string {
	return "ntfy://" + url.UserPassword("ci", plantedToken).String() + "@" + strings.TrimPrefix(server, "http://") + "/alerts?scheme=http"
}

// A process that sends a message keeps the contract, too, whatever the library
// in it makes of answers.
func TestContractOfShoutrrr(t *testing.T) {
	plant(t)
	k := httpKind{
		name: "shoutrrr", harmless: true, build: shoutrrr, missing: []string{"url: no secret is given", "text: is missing"},
		spec: func(server string) string {
			t.Setenv("PLANTED_HEADER", ntfy(server))
			return "{url: {env: PLANTED_HEADER}, " + someMessage + "}"
		},
	}
	t.Run("statuses", k.statuses)
	t.Run("retry after", k.retryAfter)
	t.Run("nothing sent", k.nothingSent)
	t.Run("connection cut", k.connectionCut)
	t.Run("context ends", k.contextEnds)
	t.Run("specification", k.specification)
}

// The library gets the message as text, and what it calls is called like
// everything else: an address of metadata is not, and a redirect to elsewhere is
// not followed.
func TestShoutrrr(t *testing.T) {
	t.Setenv("CHAT_URL", "ntfy://169.254.169.254/topic?scheme=http")
	do := func() error {
		return mustBuild(t, shoutrrr(aClient()), "{url: {env: CHAT_URL}, "+someMessage+"}").Do(t.Context(), aRun, io.Discard)
	}
	err := do()
	if _, again := trigger.Retryable(err); again || err == nil || !strings.Contains(err.Error(), "ntfy <secret env CHAT_URL>: was not sent: <secret> is a link-local") {
		t.Errorf("a metadata address: %v", err)
	}
	var got string
	strays := 0
	other := serve(t, func(http.ResponseWriter, *http.Request) { strays++ })
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if got = string(body); r.URL.Path == "/moved" {
			w.Header().Set("Location", other)
			w.WriteHeader(http.StatusTemporaryRedirect)
			return
		}
		_, _ = io.WriteString(w, `{"id":"1"}`)
	})
	t.Setenv("CHAT_URL", "ntfy://"+strings.TrimPrefix(server, "http://")+"/topic?scheme=http")
	if err := do(); err != nil || !strings.Contains(got, "deployment prod/web failed\nv1 → v2\nno such image\nhttps://dockbell.example.com/42") {
		t.Errorf("%v, got %q", err, got)
	}
	t.Setenv("CHAT_URL", "ntfy://"+strings.TrimPrefix(server, "http://")+"/moved?scheme=http")
	if err := do(); err == nil || !strings.Contains(err.Error(), "answered 307") || strays > 0 {
		t.Errorf("%v, %d requests went to another host", err, strays)
	}
}

// What the service answered counts, not what the library made of it.
func TestShoutrrrReceipts(t *testing.T) {
	a := &shoutrrrAction{service: "telegram"}
	const address = "telegram://110201543:planted-token@telegram?chats=@planted-channel"
	for _, tt := range []struct {
		name    string
		receipt receipt
		again   bool
		want    string // "": it was sent
	}{
		{"sent", receipt{Status: 200}, false, ""},
		{"sent by a client of its own", receipt{}, false, ""},
		{"refused, and the library is content", receipt{Status: 401, Says: "Unauthorized planted-token"}, false, "answered 401 Unauthorized. It says: Unauthorized <secret>"},
		{"busy, and the library is content", receipt{Status: 429, RetryAfter: "7"}, true, "answered 429"},
		{"nobody there, and the library is content", receipt{Broken: "no such host"}, true, "got no answer: no such host"},
		{"said no with a yes", receipt{Status: 200, Error: "chat not found: @planted-channel"}, false, "answered, but not that it took the message: chat not found: <secret>"},
		{"failed where nobody watched", receipt{Error: "dial tcp: refused"}, true, "dial tcp: refused"},
		{"was no address", receipt{Unusable: true, Error: "failed to parse telegram://110201543:planted-token@telegram"}, false, "does not understand the address"},
	} {
		var log strings.Builder
		err := a.judge(tt.receipt, address, &log)
		after, again := trigger.Retryable(err)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) || again != tt.again {
			t.Errorf("%s: repeatable is %t, %v", tt.name, again, err)
		}
		if tt.receipt.RetryAfter != "" && after != 7*time.Second {
			t.Errorf("%s: after %s", tt.name, after)
		}
		if said := fmt.Sprint(err, log.String()); strings.Contains(said, "planted") {
			t.Errorf("%s shows a secret: %s", tt.name, said)
		}
	}
}

// An address that the library does not know, or dockbell knows better, is found
// while loading, and not shown.
func TestShoutrrrAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"slack://planted":         "url: is one of slack: take the action slack, which does that itself",
		"smtp://planted":          "url: is one of smtp: take the action email",
		"generic+https://planted": "url: is one of generic: take the action http",
		"pigeon://planted":        "url: must begin with a service and ://, one of bark, googlechat, gotify,",
		"planted":                 "url: must begin with a service",
		":planted:":               "url: is not a well-formed URL",
	} {
		t.Setenv("CHAT_URL", address)
		if _, err := build(shoutrrr(aClient()), "{url: {env: CHAT_URL}, text: hello}"); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v", address, err)
		}
	}
	t.Setenv("CHAT_URL", "ntfy:///?planted=planted")
	err := mustBuild(t, shoutrrr(aClient()), "{url: {env: CHAT_URL}, text: hello}").Do(t.Context(), aRun, io.Discard)
	if _, again := trigger.Retryable(err); err == nil || again && !errors.As(err, new(*trigger.RetryError)) || strings.Contains(err.Error(), "planted") {
		t.Errorf("an address that says nothing: %v", err)
	}
}

// A courier that breaks down is no message that was sent.
func TestShoutrrrWithoutCourier(t *testing.T) {
	t.Setenv("CHAT_URL", "ntfy://127.0.0.1:1/topic")
	for _, courier := range [][]string{{"/nowhere"}, {"true"}, {"false"}} {
		a := mustBuild(t, Shoutrrr(aClient(), courier...), "{url: {env: CHAT_URL}, text: hello}")
		if err := a.Do(t.Context(), aRun, io.Discard); err == nil || !strings.Contains(err.Error(), "the process that sends it broke down") {
			t.Errorf("%s: %v", courier, err)
		}
	}
}

// A courier gets what leads to others, and nothing else of the environment.
func TestCourierEnvironment(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://usual:1")
	t.Setenv("NO_PROXY", "near")
	plant(t)
	env := strings.Join(courierEnvironment(""), " ")
	own := strings.Join(courierEnvironment("http://own:1"), " ")
	if !strings.Contains(env, "HTTPS_PROXY=http://usual:1") || !strings.Contains(env, "NO_PROXY=near") || !strings.HasSuffix(own, "HTTPS_PROXY=http://own:1") {
		t.Errorf("%s; %s", env, own)
	}
	noSecret(t, "the environment", env)
}
