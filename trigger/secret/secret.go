// Package secret refers to secrets without holding them: a configuration, a
// stored run or a log line carries only the name of the environment variable
// or file, and the value is read when it is used, so that a rotated file
// counts at once.
package secret

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
)

// Ref names where a secret is kept: {env: NAME} or {file: PATH}.
type Ref struct {
	Env  string
	File string
}

// UnmarshalYAML refuses a value written in place: configurations end up in
// repositories and tickets.
func (r *Ref) UnmarshalYAML(n *yaml.Node) error {
	fault := func(line int, format string, args ...any) error {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: ", line) + fmt.Sprintf(format, args...)}}
	}
	if n.Kind != yaml.MappingNode || len(n.Content) != 2 {
		return fault(n.Line, "a secret is a reference, {env: NAME} or {file: PATH}, never the value itself")
	}
	key, name := n.Content[0], n.Content[1]
	into := map[string]*string{"env": &r.Env, "file": &r.File}[key.Value]
	switch {
	case into == nil:
		return fault(key.Line, "unknown key %q in a secret; it is {env: NAME} or {file: PATH}", key.Value)
	case name.Kind != yaml.ScalarNode || name.Value == "" || name.ShortTag() == "!!null":
		return fault(name.Line, "%s of a secret must be a name", key.Value)
	}
	*into = name.Value
	return nil
}

// IsZero reports whether nothing is referred to.
func (r Ref) IsZero() bool { return r == Ref{} }

// Read gives the secret without its final newline. One that is unset,
// unreadable or empty is an error that names the reference only, and worth
// another try ([trigger.Retry]): files are away for a moment when a secret is
// rotated.
func (r Ref) Read() (string, error) {
	switch {
	case r.Env != "":
		if v := os.Getenv(r.Env); v != "" {
			return v, nil
		}
		return "", trigger.Retry(fmt.Errorf("environment variable %s is not set", r.Env))
	case r.File != "":
		b, err := os.ReadFile(r.File)
		if err != nil {
			return "", trigger.Retry(fmt.Errorf("secret file: %w", err))
		}
		if v := strings.TrimRight(string(b), "\r\n"); v != "" {
			return v, nil
		}
		return "", trigger.Retry(fmt.Errorf("secret file %s is empty", r.File))
	}
	return "", errors.New("no secret is given: name one with {env: NAME} or {file: PATH}")
}

// String names the reference.
func (r Ref) String() string {
	if r.Env != "" {
		return "<secret env " + r.Env + ">"
	}
	if r.File != "" {
		return "<secret file " + r.File + ">"
	}
	return "<no secret>"
}
