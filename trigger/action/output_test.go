package action

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// veiled gives what a veil makes of a text that comes in pieces.
func veiled(t *testing.T, secrets []string, pieces ...string) string {
	t.Helper()
	var out strings.Builder
	v := newVeil(&out, secrets)
	for _, p := range pieces {
		if _, err := io.WriteString(v, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.end(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// However a text is cut into pieces, no secret is seen, nor a part of one.
func TestVeil(t *testing.T) {
	secrets := []string{"PLANTED-1", "PLANTED-1-AND-2", "two\nlines", "ABAB", "a b/c&d", "D-1"}
	text := "begin PLANTED-1, PLANTED-1-AND-2, PLANTED-1-AND- ABAB ABA\nPLANTED-\ntwo\nlines two\nlin a+b%2Fc%26d PLANTED-1"
	want := hide(text, secrets) + "\n"
	if strings.Contains(want, "PLANTED-1,") || strings.Count(want, hidden) != 7 {
		t.Fatalf("the test hides nothing: %q", want)
	}
	for i := range len(text) + 1 {
		for j := i; j <= len(text); j++ {
			if got := veiled(t, secrets, text[:i], text[i:j], text[j:]); got != want {
				t.Fatalf("cut at %d and %d:\n%q, want\n%q", i, j, got, want)
			}
		}
	}
	if got := veiled(t, secrets, strings.Split(text, "")...); got != want {
		t.Errorf("byte by byte:\n%q, want\n%q", got, want)
	}
}

func TestVeilLines(t *testing.T) {
	for _, tt := range []struct {
		pieces []string
		want   string
	}{
		{nil, ""},
		{[]string{"done"}, "done\n"},
		{[]string{"do", "ne\n"}, "done\n"},
		{[]string{"done\n\n"}, "done\n\n"},
		{[]string{"done\nPLAN"}, "done\nPLAN\n"},
		{[]string{"done PLAN", "\n"}, "done PLAN\n"},
	} {
		if got := veiled(t, []string{"PLANTED"}, tt.pieces...); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.pieces, got, tt.want)
		}
	}
}

// What cannot be the beginning of a secret is passed on at once.
func TestVeilKeepsLittleBack(t *testing.T) {
	var out bytes.Buffer
	v := newVeil(&out, []string{"PLANTED"})
	for _, step := range []struct{ write, want string }{
		{"step 1 of 2", "step 1 of 2"},
		{"\nPLAN", "\n"},
		{"E", "PLANE"},
		{" PLANTE", " "},
		{"D", hidden},
	} {
		out.Reset()
		if _, err := io.WriteString(v, step.write); err != nil || out.String() != step.want {
			t.Errorf("%q: passed on %q, want %q; %v", step.write, out.String(), step.want, err)
		}
	}
	// It has a bound even where each piece may go on.
	v = newVeil(io.Discard, []string{"aa"})
	for range 100 {
		if _, err := v.Write(bytes.Repeat([]byte("a"), 32<<10)); err != nil {
			t.Fatal(err)
		}
		if len(v.held) > 2*veilLimit {
			t.Fatalf("%d bytes are held", len(v.held))
		}
	}
}
