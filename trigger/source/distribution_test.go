package source

import (
	"reflect"
	"testing"
)

func TestNotDistribution(t *testing.T) {
	refused(t, "distribution", map[string]string{
		"other object":       `{"push_data": {}}`,
		"events no list":     `{"events": {}}`,
		"a list":             `[]`,
		"no object":          `{"events": [1, "x", null]}`,
		"older Harbor":       `{"event_type": "pushImage", "events": [{"repo_name": "pilot", "tag": "1"}]}`,
		"only one, illtyped": `{"events": [{"action": "push", "target": {"repository": "a/b", "tag": 1}}]}`,
	})
}

func FuzzParseDistribution(f *testing.F) { fuzzParse(f, "distribution") }

// Reading all events at once gives what reading each by itself does.
func FuzzEnvelope(f *testing.F) {
	for _, d := range cases(f, "distribution") {
		f.Add(d.body)
	}
	for _, body := range []string{
		`{"events": [null, {"action": "push"}]}`,
		`{"events": [{"id": "a", "action": "push"}, {"id": "b"}], "events": [{"action": "pull"}]}`,
		`{"events": [{"id": "a"}], "events": null}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var whole distributionEnvelope[*distributionEvent]
		if readJSON(body, &whole) != nil {
			return // then each is read by itself
		}
		var parts distributionEnvelope[each[distributionEvent]]
		if err := readJSON(body, &parts); err != nil {
			t.Fatalf("by itself: %v", err)
		}
		if got := singly(whole.Events); !reflect.DeepEqual(got, parts.Events) {
			t.Errorf("at once:\n%+v\nby itself:\n%+v", got, parts.Events)
		}
	})
}
