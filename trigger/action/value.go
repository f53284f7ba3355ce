package action

import (
	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
)

// value is a string, written out or kept as a secret.
type value struct {
	text string
	ref  secret.Ref
}

// UnmarshalYAML takes a string or what [secret.Ref] takes.
func (v *value) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode {
		return n.Decode(&v.text)
	}
	return n.Decode(&v.ref)
}

func (v value) isSecret() bool { return !v.ref.IsZero() }

func (v value) read() (string, error) {
	if v.isSecret() {
		return v.ref.Read()
	}
	return v.text, nil
}

// present reports a secret that cannot be read, so that this is found while
// loading and not when it is needed. One that is not given is no fault here.
func present(field string, ref secret.Ref) error {
	if ref.IsZero() {
		return nil
	}
	if _, err := ref.Read(); err != nil {
		return trigger.Field(field, "%w", err)
	}
	return nil
}
