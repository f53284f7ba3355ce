package source

import (
	"net/http"
	"testing"
)

func TestNotZot(t *testing.T) {
	const push = `{"name": "dockyard/pilot", "reference": "1", "mediaType": ""}`
	refused(t, "zot", map[string]string{
		"empty object":      `{}`,
		"headers are gone":  push,
		"a list":            `[1, "x", null]`,
		"no data":           `{"specversion": "1.0", "type": "zotregistry.image.updated"}`,
		"data no object":    `{"specversion": "1.0", "type": "zotregistry.image.updated", "data": []}`,
		"no name":           `{"specversion": "1.0", "type": "zotregistry.image.updated", "data": {"reference": "1"}}`,
		"reference no text": `{"specversion": "1.0", "type": "zotregistry.image.updated", "data": {"name": "a", "reference": 1}}`,
		"type no text":      `{"specversion": "1.0", "type": 1, "data": ` + push + `}`,
	})
	h := http.Header{"Ce-Type": {"zotregistry.image.updated"}}
	for _, body := range []string{``, `null`, `{}`, `[]`, `{"name": 1}`, `{"name": "a", "reference": ["1"]}`} {
		if events, err := open(t, "zot").Parse(h, []byte(body)); err == nil {
			t.Errorf("%s: no error, but %+v", body, events)
		}
	}
}

func FuzzParseZot(f *testing.F) { fuzzParse(f, "zot") }
