package strictyaml

import "gopkg.in/yaml.v3"

// Strings is a list that may be written as a single string.
type Strings []string

// UnmarshalYAML takes a string or a sequence of strings.
func (s *Strings) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.SequenceNode {
		return n.Decode((*[]string)(s))
	}
	var one string
	if err := n.Decode(&one); err != nil {
		return err
	}
	*s = Strings{one}
	return nil
}
