package source

import (
	"net/http"
	"testing"
)

func TestNotNexus(t *testing.T) {
	bodies := map[string]string{
		"empty object":    `{}`,
		"a list":          `[]`,
		"neither":         `{"timestamp": "2026-03-04T05:06:07.123+0000", "action": "CREATED"}`,
		"no action":       `{"component": {"format": "docker", "name": "a", "version": "1"}}`,
		"no format":       `{"action": "CREATED", "component": {"name": "a", "version": "1"}}`,
		"no object":       `{"action": "CREATED", "component": "a"}`,
		"version no text": `{"action": "CREATED", "component": {"format": "docker", "name": "a", "version": 1}}`,
		"component null":  `{"action": "CREATED", "component": null}`,
	}
	refused(t, "nexus", bodies)
	h := http.Header{}
	h.Set("X-Nexus-Webhook-ID", "rm:repository:component")
	for name, body := range bodies {
		if events, err := open(t, "nexus").Parse(h, []byte(body)); err == nil {
			t.Errorf("%s: no error, but %+v", name, events)
		}
	}
}

func FuzzParseNexus(f *testing.F) { fuzzParse(f, "nexus") }
