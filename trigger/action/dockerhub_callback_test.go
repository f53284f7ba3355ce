package action

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/dockbell/dockbell/trigger"
)

func TestDockerHubVerdict(t *testing.T) {
	for _, c := range []struct {
		states []trigger.State
		err    error
		want   string // of the body; "" for an error that is repeatable
	}{
		{[]trigger.State{trigger.Succeeded, trigger.Skipped, trigger.Superseded}, nil, `{"context":"dockbell","description":"1 succeeded, 1 superseded, 1 skipped","state":"success"}`},
		{[]trigger.State{trigger.Succeeded, trigger.Failed, trigger.Unknown}, nil, `{"context":"dockbell","description":"1 succeeded, 1 failed, 1 unknown","state":"failure"}`},
		{[]trigger.State{trigger.Succeeded, trigger.Unknown}, nil, `{"context":"dockbell","description":"1 succeeded, 1 unknown","state":"error"}`},
		{nil, nil, `{"context":"dockbell","description":"nothing to do","state":"success"}`},
		{[]trigger.State{trigger.Running}, nil, ""},
		{nil, errors.New("disk is gone"), ""},
	} {
		var body, path string
		server := serve(t, func(_ http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			body, path = string(b), r.URL.Path
		})
		b := DockerHubCallback(clientTo(server), func(_ context.Context, event int64) ([]trigger.State, error) {
			if event != aRun.EventID {
				t.Errorf("asked for event %d", event)
			}
			return c.states, c.err
		})
		err := mustBuild(t, b, "{url: 'https://hub.docker.com/u/shop/hook/1/'}").Do(t.Context(), aRun, io.Discard)
		if _, again := trigger.Retryable(err); again != (c.want == "") {
			t.Errorf("%v: %v", c.states, err)
		}
		if body != c.want || c.want != "" && path != "/u/shop/hook/1/" {
			t.Errorf("%v: sent %s to %s", c.states, body, path)
		}
	}
}

func TestDockerHubHosts(t *testing.T) {
	b := DockerHubCallback(aClient(), nil)
	for _, address := range []string{
		"http://registry.hub.docker.com/u/x", "https://registry.hub.docker.com.example.com/u/x", "https://example.com/registry.hub.docker.com",
		"https://registry.hub.docker.com:8443/u/x", "https://registry.hub.docker.com:443@example.com/", "https://a@hub.docker.com/u/x",
		"https://hub.docker.com./u", "//hub.docker.com/u", "https:hub.docker.com/u", "https://127.0.0.1/u",
	} {
		if _, err := build(b, "{url: '"+address+"'}"); err == nil || !strings.Contains(err.Error(), "url: must") {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"https://registry.hub.docker.com/u/x/hook/1/", "https://hub.docker.com/u/x"} {
		if _, err := build(b, "{url: '"+address+"'}"); err != nil {
			t.Error(err)
		}
	}
}
