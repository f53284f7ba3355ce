package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/dockbell/dockbell/trigger/source"
)

// The README's tables name what there is.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		heading string
		want    []string
	}{
		{"### Senders", source.Types()},
		{"### Actions", slices.Sorted(maps.Keys(offlineKinds(t.Context(), true)(nil, nil, nil)))},
	} {
		if got := firstColumn(t, string(text), tt.heading); !slices.Equal(got, tt.want) {
			t.Errorf("%s: the table has %q, the program %q", tt.heading, got, tt.want)
		}
	}
}

var row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")

// firstColumn gives the words in the first column of the first table below a
// heading, sorted.
func firstColumn(t *testing.T, text, heading string) []string {
	t.Helper()
	_, section, ok := strings.Cut(text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("there is no heading %q", heading)
	}
	_, table, _ := strings.Cut(section, "|---")
	table, _, _ = strings.Cut(table, "\n\n")
	var words []string
	for _, m := range row.FindAllStringSubmatch(table, -1) {
		words = append(words, m[1])
	}
	slices.Sort(words)
	return words
}
