package source

import (
	"net/http"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/v1"
)

func TestCallback(t *testing.T) {
	const path = "/u/dockyard/pilot/hook/0123/"
	tests := map[string]bool{
		"https://registry.hub.docker.com" + path:        true,
		"https://hub.docker.com" + path + "?a=b":        true,
		"":                                              false,
		"http://registry.hub.docker.com" + path:         false,
		"https://registry.hub.docker.com:443" + path:    false,
		"https://registry.hub.docker.com:8080" + path:   false,
		"https://registry.hub.docker.com." + path:       false,
		"https://REGISTRY.HUB.DOCKER.COM" + path:        false,
		"https://forums.docker.com" + path:              false,
		"https://docker.com" + path:                     false,
		"https://hub.docker.com.evil.example" + path:    false,
		"https://evilhub.docker.com" + path:             false,
		"https://u:p@hub.docker.com" + path:             false,
		"https://hub.docker.com@evil.example" + path:    false,
		`https://hub.docker.com\@evil.example` + path:   false,
		"https://evil.example/#https://hub.docker.com/": false,
		"https://169.254.169.254/hub.docker.com":        false,
		"//hub.docker.com" + path:                       false,
		"https:hub.docker.com" + path:                   false,
		"https://hub.docker.com%2f" + path:              false,
		"ftp://hub.docker.com" + path:                   false,
		"https://hub.docker.com\n.evil.example" + path:  false,
		"file:///hub.docker.com":                        false,
	}
	asked, silent := open(t, "dockerhub"), mustLoad(t, "{type: dockerhub, auth: none}")
	for callback, ok := range tests {
		body, err := json.Marshal(map[string]any{
			"callback_url": callback,
			"push_data":    map[string]any{"tag": "1"},
			"repository":   map[string]any{"repo_name": "dockyard/pilot"},
		})
		if err != nil {
			t.Fatal(err)
		}
		events, err := asked.Parse(nil, body)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]string{true: callback}[ok]; events[0].Callback != want {
			t.Errorf("%q: got %q", callback, events[0].Callback)
		}
		if events, err = silent.Parse(nil, body); err != nil || events[0].Callback != "" {
			t.Errorf("%q without `callback: true`: got %q, %v", callback, events[0].Callback, err)
		}
	}
}

// Depth by itself is no fault where the nested part is not used.
func TestDeepNesting(t *testing.T) {
	deep := strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
	events, err := open(t, "dockerhub").Parse(nil, []byte(`{"x": `+deep+`, "push_data": {"tag": "1"}, "repository": {"repo_name": "a/b"}}`))
	if err != nil || len(events) != 1 || events[0].Ignored != "" {
		t.Errorf("got %+v, %v", events, err)
	}
}

func TestNotDockerHub(t *testing.T) {
	refused(t, "dockerhub", map[string]string{
		"empty object":   `{}`,
		"a list":         `[]`,
		"no repository":  `{"push_data": {"tag": "1"}}`,
		"no push_data":   `{"repository": {"repo_name": "a/b"}}`,
		"no name":        `{"push_data": {"tag": "1"}, "repository": {}}`,
		"bad tag":        `{"push_data": {"tag": "1;reboot"}, "repository": {"repo_name": "a/b"}}`,
		"bad name":       `{"push_data": {"tag": "1"}, "repository": {"repo_name": "../b"}}`,
		"tag a number":   `{"push_data": {"tag": 1.0}, "repository": {"repo_name": "a/b"}}`,
		"more than that": `{"push_data": {"tag": "\d"}, "repository": {"repo_name": "a/b"}}`,
		"escape outside": `{\d "push_data": {"tag": "1"}, "repository": {"repo_name": "a/b"}}`,
		"bad \\u":        `{"push_data": {"tag": "1", "pusher": "\uZZZZ"}, "repository": {"repo_name": "a/b"}}`,
		"cut in escape":  `{"push_data": {"tag": "\`,
	})
}

// Alibaba Cloud has borrowed the form.
func TestRecogniseDockerHubAndAliyun(t *testing.T) {
	tests := map[string]string{
		`{"push_data": {"tag": "1"}, "repository": {"repo_name": "a/b"}}`:                       "dockerhub",
		`{"callback_url": "", "push_data": {}, "repository": {"repo_url": "\]"}}`:               "dockerhub",
		`{"push_data": {"tag": "1"}, "repository": {"repo_full_name": "a/b"}}`:                  "aliyun",
		`{"push_data": {"tag": "1", "digest": "x"}, "repository": {"name": "b"}}`:               "aliyun",
		`{"push_data": {"tag": "1", "digest": "x"}, "repository": {"repo_name": "a/b"}}`:        "dockerhub",
		`{"push_data": {}, "repository": {"region": "cn-hangzhou"}}`:                            "aliyun",
		`{"specversion": "1.0", "source": "acs.cr", "type": "cr:Artifact:ScanCompleted"}`:       "aliyun",
		`{"specversion": "1.0", "source": "x", "aliyuneventbusname": "default", "type": "y"}`:   "aliyun",
		`{"specversion": "1.0", "source": "x", "type": "y", "push_data": {}, "repository": {}}`: "",
		`{"push_data": {"tag": "1"}}`:               "",
		`[{"push_data": {}, "repository": {}}]`:     "",
		`{"repository": {"repo_full_name": "a/b"}}`: "",
	}
	for body, want := range tests {
		l := glance(http.Header{}, []byte(body))
		for kind, recognise := range map[string]func(look) bool{"dockerhub": recogniseDockerHub, "aliyun": recogniseAliyun} {
			if got := recognise(l); got != (kind == want) {
				t.Errorf("%s recognises %s: %v", kind, body, got)
			}
		}
	}
}

func FuzzParseDockerHub(f *testing.F) { fuzzParse(f, "dockerhub") }
