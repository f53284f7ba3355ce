package source

import "testing"

func TestNotCDEvents(t *testing.T) {
	refused(t, "cdevents", map[string]string{
		"empty object":       `{}`,
		"no type":            `{"context": {}, "subject": {"id": "pkg:oci/a@1"}}`,
		"no subject":         `{"context": {"type": "dev.cdevents.artifact.published.0.2.0"}}`,
		"subject no text":    `{"context": {"type": "dev.cdevents.artifact.published.0.2.0"}, "subject": {"id": 1}}`,
		"subject no purl":    `{"context": {"type": "dev.cdevents.artifact.published.0.2.0"}, "subject": {"id": "dockyard/pilot:1"}}`,
		"purl without name":  `{"context": {"type": "dev.cdevents.artifact.published.0.2.0"}, "subject": {"id": "pkg:oci"}}`,
		"purl badly escaped": `{"context": {"type": "dev.cdevents.artifact.published.0.2.0"}, "subject": {"id": "pkg:oci/a%zz@1"}}`,
		"envelope only":      `{"specversion": "1.0", "type": "dev.cdevents.artifact.published.0.2.0"}`,
		"no objects":         `[1, "x", null]`,
	})
}

func FuzzParseCDEvents(f *testing.F) { fuzzParse(f, "cdevents") }
