package strictyaml

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"gopkg.in/yaml.v3"
)

// What is stored as JSON is read as the YAML that it is, too.
func TestParseJSON(t *testing.T) {
	for _, doc := range []string{
		`{}`, `[]`, `null`, `"x"`, `{"url":"http://x/?a=b&c","json":{"n":1.10,"big":12345678901234567890,"e":1e3,"neg":-7,"t":true,"f":false,"nil":null,"s":"yes","d":"2026-03-04","q":"a \"b\" \\ ü \u0007"},"argv":["a",["b",{}],[]]}`,
		`{"<<":{"a":1},"a":2,"a":3,"*x":"&y"}`,
	} {
		want, err := Parse("x", strings.NewReader(doc))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseJSON("x", []byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.yaml, got.yaml, cmpopts.IgnoreFields(yaml.Node{}, "Column", "Style")); diff != "" {
			t.Errorf("%s:\n%s", doc, diff)
		}
	}
	for _, doc := range []string{``, `{`, `{"a":}`, `[1`} {
		if _, err := ParseJSON("x", []byte(doc)); err == nil {
			t.Errorf("%s: no error", doc)
		}
	}
}
