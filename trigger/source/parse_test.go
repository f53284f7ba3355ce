package source

import (
	"testing"
	"time"

	"github.com/go-json-experiment/json/v1"
)

func TestMoment(t *testing.T) {
	tests := []struct{ raw, want string }{
		{`"2026-03-04T05:06:07.123456789Z"`, "2026-03-04T05:06:07.123456789Z"},
		{`"2026-03-04T05:06:07+08:00"`, "2026-03-03T21:06:07Z"},
		{`"2026-03-04 13:06:07"`, "2026-03-04T05:06:07Z"},
		{`"2026-03-04T13:06:07"`, "2026-03-04T05:06:07Z"},
		{`1772600767`, "2026-03-04T05:06:07Z"},
		{`1.772600767e+09`, "2026-03-04T05:06:07Z"},
		{`1772600767.25`, "2026-03-04T05:06:07.25Z"},
		{`"1772600767"`, "2026-03-04T05:06:07Z"},
		{``, ""}, {`null`, ""}, {`""`, ""}, {`"`, ""}, {`"soon"`, ""}, {`{}`, ""}, {`true`, ""}, {`"NaN"`, ""}, {`"Inf"`, ""},
		{`0`, ""}, {`-1`, ""}, {`1e300`, ""}, {`1772600767000`, ""}, {`"0001-01-01T00:00:00Z"`, ""}, {`"9999-12-31T23:59:59-23:00"`, ""},
	}
	for _, tt := range tests {
		got := ""
		if at := moment(json.RawMessage(tt.raw), chinaTime); !at.IsZero() {
			got = at.Format(time.RFC3339Nano)
		}
		if got != tt.want {
			t.Errorf("moment(%s) = %q, want %q", tt.raw, got, tt.want)
		}
	}
}

// A string is read as encoding/json reads it, whatever the way.
func TestReadText(t *testing.T) {
	for _, raw := range []string{`"plain"`, `""`, `"Größe"`, `"a\"b"`, `"a\\"`, `"\u00e4"`, "\"\xff\"", "\"a\xc3\"", `null`, `7`, `{}`, `["a"]`, `"`, ``} {
		var want string
		err := json.Unmarshal([]byte(raw), &want)
		if got, ok := readText([]byte(raw)); got != want || ok != (err == nil) {
			t.Errorf("readText(%s) = %q, %t, want %q, %v", raw, got, ok, want, err)
		}
	}
}
