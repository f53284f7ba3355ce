package trigger

import "regexp"

// TagPattern is an expression that matches a tag as a whole or not at all.
type TagPattern struct {
	*regexp.Regexp
	written string
}

// CompileTag compiles an expression and anchors it.
func CompileTag(expr string) (*TagPattern, error) {
	// The expression alone first, so that a stray parenthesis is not closed
	// by the ones put around it.
	if _, err := regexp.Compile(expr); err != nil {
		return nil, err
	}
	re, err := regexp.Compile("^(?:" + expr + ")$")
	if err != nil {
		// It ends within \Q, which would quote the parenthesis, too.
		re, err = regexp.Compile("^(?:" + expr + `\E)$`)
	}
	if err != nil {
		return nil, err
	}
	return &TagPattern{re, expr}, nil
}

// String is the expression as the user wrote it.
func (p *TagPattern) String() string { return p.written }
