package trigger

import (
	"regexp"
	"testing"
)

func TestCompileTag(t *testing.T) {
	for _, test := range []struct {
		expr, tag string
		want      bool
	}{
		{"a|ab", "ab", true},
		{"a|ab", "abc", false},
		{"(?m)^a$", "a\nb", false},
		{`\Q1.0`, "1.0", true},
		{`\Q1.0`, "1x0", false},
		{`\Q1.0`, "1.0)$", false},
		{`v\Q1.0\E-.*|\Q2.0\`, `2.0\`, true},
		{`v\Q1.0\E-.*|\Q2.0\`, "v1.0-rc1", true},
		{"", "", true},
		{"", "a", false},
	} {
		p, err := CompileTag(test.expr)
		if err != nil {
			t.Errorf("%s: %v", test.expr, err)
		} else if got := p.MatchString(test.tag); got != test.want || p.String() != test.expr {
			t.Errorf("%s, shown as %s, on %q: %t", test.expr, p, test.tag, got)
		}
	}
	for _, expr := range []string{"a)(b", "(", "[", `\`, `\E`, `\Qa\E\E`} {
		if p, err := CompileTag(expr); err == nil {
			t.Errorf("%s is taken, as %s", expr, p.Regexp)
		}
	}
}

// What is anchored is the expression itself: it matches the tags of which the
// expression alone, asked for its longest match, matches all.
func FuzzCompileTag(f *testing.F) {
	for _, expr := range []string{`v(?P<version>\d+\.\d+\.\d+)`, "a|b", "a)(b", "(?m)^a$", `\Qv1.2`, `\Qv1\`, `v1|\Q.`, `a{2`, "[^\\x00-\\x{10FFFF}]", "(((a)?){2}){3}", "(?U)v.*"} {
		f.Add(expr, "v1.2.3")
	}
	f.Fuzz(func(t *testing.T, expr, tag string) {
		alone, wrong := regexp.Compile(expr)
		p, err := CompileTag(expr)
		if err != nil {
			if wrong == nil {
				t.Fatalf("%q is refused: %v", expr, err)
			}
			return
		}
		alone.Longest()
		m := alone.FindStringIndex(tag)
		want := m != nil && m[0] == 0 && m[1] == len(tag)
		if got := p.MatchString(tag); got != want || p.String() != expr {
			t.Fatalf("%q, shown as %q, on %q: %t, and it matches %v of it", expr, p, tag, got, m)
		}
	})
}
