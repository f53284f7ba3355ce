package source

import (
	"net/http"
	"testing"
)

func TestNotHarbor(t *testing.T) {
	bodies := map[string]string{
		"empty object":         `{}`,
		"a list":               `[]`,
		"no type":              `{"occur_at": 1772600767, "event_data": {"resources": []}}`,
		"type no text":         `{"type": 1, "event_data": {}}`,
		"no event_data":        `{"type": "PUSH_ARTIFACT"}`,
		"event_data null":      `{"type": "PUSH_ARTIFACT", "event_data": null}`,
		"event_data no object": `{"type": "pushImage", "event_data": []}`,
		"no data":              `{"specversion": "1.0", "type": "harbor.artifact.pushed"}`,
		"resources no list":    `{"type": "DELETE_ARTIFACT", "event_data": {"resources": {}}}`,
		"no object in it":      `{"type": "PUSH_ARTIFACT", "event_data": {"resources": [1, "x", null]}}`,
		"only one, illtyped":   `{"type": "PUSH_ARTIFACT", "event_data": {"resources": [{"tag": 1}]}}`,
		"distribution":         `{"events": [{"action": "push", "target": {"repository": "a/b", "tag": "1"}}]}`,
	}
	for _, kind := range []string{"harbor", "tencent-tcr", "huawei-swr"} {
		refused(t, kind, bodies)
	}
}

func TestRecogniseHarborForms(t *testing.T) {
	const push = `{"type": "PUSH_ARTIFACT", "event_data": {"resources": [{"tag": "1", "resource_url": "`
	tests := map[string]string{
		push + `dockyard-gz.tencentcloudcr.com/a/b:1"}]}}`:               "tencent-tcr",
		push + `https://Dockyard.TencentCloudCR.com/a/b:1"}]}}`:          "tencent-tcr",
		push + `tencentcloudcr.com.evil.example/a/b:1"}]}}`:              "harbor",
		push + `swr-ee.cn-north-4.myhuaweicloud.com/a/b:1"}]}}`:          "huawei-swr",
		push + `localhost/a/b:1"}], "repository": {"name": "b"}}}`:       "harbor",
		`{"type": "REPLICATION", "occur_at": 1, "event_data": {}}`:       "harbor",
		`{"type": "testEndpoint", "occur_at": 1}`:                        "harbor",
		`{"event_type": "pushImage", "events": []}`:                      "harbor",
		`{"specversion": "1.0", "type": "harbor.scan.failed"}`:           "harbor",
		`{"specversion": "1.0", "type": "dev.harbor", "data": {}}`:       "",
		`{"specversion": "1.0", "type": "x", "event_data": {}}`:          "",
		`[{"type": "PUSH_ARTIFACT", "event_data": {}}]`:                  "",
		`{"type": "PUSH_ARTIFACT"}`:                                      "",
		`{"events": [{"action": "push"}]}`:                               "",
		`{"event_data": {"resources": []}}`:                              "",
		`{"domain": "docker", "event_type": "pushed", "data": {"a": 1}}`: "",
	}
	for body, want := range tests {
		l := glance(http.Header{}, []byte(body))
		for kind, recognise := range map[string]func(look) bool{"harbor": recogniseHarbor, "tencent-tcr": recogniseTCR, "huawei-swr": recogniseSWR} {
			if got := recognise(l); got != (kind == want) {
				t.Errorf("%s recognises %s: %v", kind, body, got)
			}
		}
	}
}

func TestTakeApart(t *testing.T) {
	tests := []struct{ address, repository, registry, name, tag string }{
		{"yard.example/a/b:1", "a/b", "yard.example", "a/b", "1"},
		{"yard.example:5000/a/b", "a/b", "yard.example:5000", "a/b", ""},
		{"https://yard.example/a/b:1", "", "yard.example", "a/b", "1"},
		{"yard/a/b@sha256:00", "a/b", "yard", "a/b", ""},
		{"yard/a/b:1@sha256:00", "b", "", "yard/a/b", "1"},
		{"yard.example/a/b:1", "c", "yard.example", "a/b", "1"},
		{"a/b:1", "a/b", "", "a/b", "1"},
		{"/a/b:1", "a/b", "", "a/b", "1"},
		{"localhost/b", "", "localhost", "b", ""},
		{"", "a/b", "", "", ""},
	}
	for _, tt := range tests {
		registry, name, tag := takeApart(tt.address, tt.repository)
		if registry != tt.registry || name != tt.name || tag != tt.tag {
			t.Errorf("%q with %q: got %q, %q, %q", tt.address, tt.repository, registry, name, tag)
		}
	}
}

func FuzzParseHarbor(f *testing.F) { fuzzParse(f, "harbor") }
