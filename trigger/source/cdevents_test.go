package source

import "testing"

func TestNotCDEvents(t *testing.T) {
	refused(t, "cdevents", map[string]string{
		"empty object":    `{}`,
		"no type":         `{"context": {}, "subject": {"id": "pkg:oci/a@1"}}`,
		"no subject":      `{"context": {"type": "dev.cdevents.artifact.published.0.2.0"}}`,
		"subject no text": `{"context": {"type": "dev.cdevents.artifact.published.0.2.0"}, "subject": {"id": 1}}`,
		"envelope only":   `{"specversion": "1.0", "type": "dev.cdevents.artifact.published.0.2.0"}`,
		"no objects":      `[1, "x", null]`,
	})
}

// What an artifact's id looks like has changed with the versions: one that
// names no image starts nothing, and its sender is not to blame.
func TestCDEventsOtherIDs(t *testing.T) {
	for id, want := range map[string]string{
		"dockyard/pilot:1":              "subject.id: not a package URL",
		"pilot-1.14.0-py2.py3-none.whl": "subject.id: not a package URL",
		"pkg:oci":                       "subject.id: a package URL without a name",
		"pkg:oci/a%zz@1":                "subject.id: a package URL that is escaped wrongly",
	} {
		body := `{"context": {"type": "dev.cdevents.artifact.published.0.1.0"}, "subject": {"id": "` + id + `"}}`
		events, err := open(t, "cdevents").Parse(nil, []byte(body))
		if err != nil || len(events) != 1 || events[0].Ignored != want {
			t.Errorf("%s: %+v, %v", id, events, err)
		}
	}
}

func FuzzParseCDEvents(f *testing.F) { fuzzParse(f, "cdevents") }
