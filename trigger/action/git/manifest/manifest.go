// Package manifest changes values in YAML files and nothing else in them: it
// finds the bytes of a value and puts others in their place, so that comments,
// order, indentation, line ends and quotes stay as somebody wrote them. JSON
// is YAML too. It reads and writes no files.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
)

// File is a file as it was read.
type File struct {
	text []byte
	mark string // the byte order mark that it began with
	docs []*yaml.Node
}

// Edit is what is to become of one value.
type Edit struct {
	Where    string // the way to the value, for people
	From, To string
	node     *yaml.Node

	// The tags that From and To stand for; "" where they do not tell.
	tag, newTag string
}

func (e Edit) String() string { return e.Where + ": " + e.From + " -> " + e.To }

// Backwards says why an edit would be a step back from what the file holds,
// and "" when it is not.
func (e Edit) Backwards(order trigger.Order) string {
	why := trigger.Backwards(trigger.Release{Tag: e.tag}, trigger.Release{Tag: e.newTag}, order)
	if why == "" {
		return ""
	}
	return e.Where + " is at " + e.From + ", and " + why
}

// MissingError says what a file has not.
type MissingError struct{ text string }

func (e *MissingError) Error() string { return e.text }

func missing(format string, args ...any) error { return &MissingError{fmt.Sprintf(format, args...)} }

// byteOrderMark is what some editors begin a file with.
const byteOrderMark = "\ufeff"

// Parse reads a file of one or several documents.
func Parse(text []byte) (*File, error) {
	f := &File{text: text}
	if rest, ok := bytes.CutPrefix(text, []byte(byteOrderMark)); ok {
		f.text, f.mark = rest, byteOrderMark
	}
	if !utf8.Valid(f.text) {
		return nil, errors.New("is not UTF-8")
	}
	for dec := yaml.NewDecoder(bytes.NewReader(f.text)); ; {
		var doc yaml.Node
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			return f, nil
		} else if err != nil {
			return nil, fmt.Errorf("is not YAML: %w", err)
		}
		f.docs = append(f.docs, &doc)
	}
}

// Apply gives the text of the file with the values changed. Where it cannot be
// sure to change these values alone, it changes nothing and says so.
func (f *File) Apply(edits []Edit) ([]byte, error) {
	type cut struct {
		start, end int
		text       string
	}
	var cuts []cut
	want := map[*yaml.Node]string{}
	for _, e := range edits {
		if to, twice := want[e.node]; twice && to != e.To {
			return nil, fmt.Errorf("%s would be set to %q and to %q: let one change set it", e.Where, to, e.To)
		} else if twice {
			continue
		}
		want[e.node] = e.To
		start, end, err := f.span(e.node)
		if err != nil {
			return nil, fmt.Errorf("%s %w", e.Where, err)
		}
		text, err := write(e.To, e.node.Style)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Where, err)
		}
		cuts = append(cuts, cut{start, end, text})
	}
	slices.SortFunc(cuts, func(a, b cut) int { return b.start - a.start }) // from the end, so that places stay
	text := slices.Clone(f.text)
	for _, c := range cuts {
		text = slices.Replace(text, c.start, c.end, []byte(c.text)...)
	}
	if err := f.differs(text, want); err != nil {
		return nil, err
	}
	return append([]byte(f.mark), text...), nil
}

// differs checks that a new text says the same as the file, but for what is
// wanted.
func (f *File) differs(text []byte, want map[*yaml.Node]string) error {
	after, err := Parse(text)
	if err != nil {
		return fmt.Errorf("what would come of it %w; nothing is changed", err)
	}
	same := len(after.docs) == len(f.docs)
	for i := 0; same && i < len(f.docs); i++ {
		same = equal(f.docs[i], after.docs[i], want)
	}
	if !same {
		return errors.New("it cannot be told where the value ends; write it in quotes; nothing is changed")
	}
	return nil
}

func equal(a, b *yaml.Node, want map[*yaml.Node]string) bool {
	if to, ok := want[a]; ok {
		return b.Kind == yaml.ScalarNode && b.ShortTag() == "!!str" && b.Value == to && a.Anchor == b.Anchor
	}
	if a.Kind != b.Kind || a.ShortTag() != b.ShortTag() || a.Value != b.Value || a.Anchor != b.Anchor || len(a.Content) != len(b.Content) {
		return false
	}
	for i := range a.Content {
		if !equal(a.Content[i], b.Content[i], want) {
			return false
		}
	}
	return true
}

// span is where the bytes of a value are, quotes included.
func (f *File) span(n *yaml.Node) (start, end int, err error) {
	start = f.offset(n.Line, n.Column)
	for start < len(f.text) && f.text[start] == '&' { // the position of a value is that of its anchor
		name := bytes.IndexAny(f.text[start:], " \t\r\n")
		if name < 0 {
			return 0, 0, errors.New("is empty: give it a value first")
		}
		start += name
		start += len(f.text[start:]) - len(bytes.TrimLeft(f.text[start:], " \t"))
	}
	rest := f.text[start:]
	switch n.Style &^ yaml.FlowStyle {
	case yaml.DoubleQuotedStyle:
		for i := 1; i < len(rest); i++ {
			if rest[i] == '\\' {
				i++
			} else if rest[i] == '"' {
				return start, start + i + 1, nil
			}
		}
	case yaml.SingleQuotedStyle:
		for i := 1; i < len(rest); i++ {
			if rest[i] != '\'' {
				continue
			}
			if i+1 == len(rest) || rest[i+1] != '\'' {
				return start, start + i + 1, nil
			}
			i++
		}
	case yaml.LiteralStyle, yaml.FoldedStyle:
		return 0, 0, errors.New("is a block of lines: write it on one line")
	case 0:
		if n.Value == "" {
			return 0, 0, errors.New(`is empty: write "" first`)
		}
		if !bytes.HasPrefix(rest, []byte(n.Value)) {
			return 0, 0, errors.New("is written over several lines: write it on one line")
		}
		return start, start + len(n.Value), nil
	}
	return 0, 0, errors.New("is written in a way that is not understood: write it as plain text or in quotes, without a !tag")
}

// offset is where a line and column are, both counted from 1 as the YAML
// library does: in characters, and with all the line ends of YAML 1.1.
func (f *File) offset(line, column int) int {
	i := 0
	for ; line > 1 && i < len(f.text); line-- {
		for i < len(f.text) {
			r, size := utf8.DecodeRune(f.text[i:])
			i += size
			if r == '\r' && i < len(f.text) && f.text[i] == '\n' {
				i++
			}
			if strings.ContainsRune("\r\n\u0085\u2028\u2029", r) {
				break
			}
		}
	}
	for ; column > 1 && i < len(f.text); column-- {
		_, size := utf8.DecodeRune(f.text[i:])
		i += size
	}
	return i
}

// write writes a value as the one before it was written, and in quotes where
// it would otherwise be taken for a number, a date, yes or no.
func write(value string, style yaml.Style) (string, error) {
	if strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(value) {
		return "", fmt.Errorf("%q is not one line of text", value)
	}
	if style&yaml.SingleQuotedStyle != 0 {
		return "'" + strings.ReplaceAll(value, "'", "''") + "'", nil
	}
	plain, err := yaml.Marshal(value)
	if style&yaml.DoubleQuotedStyle == 0 && err == nil && string(plain) == value+"\n" && !strings.ContainsAny(value, ",[]{}") {
		return value, nil
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`, nil
}

// Diff shows what became of the lines of a text, where none was added or
// taken away.
func Diff(name string, before, after []byte) string {
	a, b := strings.Split(string(before), "\n"), strings.Split(string(after), "\n")
	var out strings.Builder
	for i := range a {
		if i < len(b) && a[i] != b[i] {
			fmt.Fprintf(&out, "%s:%d\n-%s\n+%s\n", name, i+1, strings.TrimRight(a[i], "\r"), strings.TrimRight(b[i], "\r"))
		}
	}
	return out.String()
}
