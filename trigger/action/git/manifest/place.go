package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/fieldpath"
)

// Image is what a file is to say.
type Image struct {
	trigger.Image
	Pin     bool // write the digest beside the tag
	Aliases trigger.Aliases
}

// Place finds the values in a file that tell of an image, and says what is to
// become of each. Those that say it already are not among them.
type Place func(f *File, image Image) ([]Edit, error)

// Kustomize is an element of `images` in a kustomization, by its name. Of
// newName, newTag and digest those are set that are there.
func Kustomize(name string) Place {
	return func(f *File, image Image) ([]Edit, error) {
		var edits edits
		var names []string
		for _, doc := range f.docs {
			images, err := child(doc.Content[0], "images")
			if err != nil {
				return nil, err
			}
			if images == nil || images.Kind != yaml.SequenceNode {
				continue
			}
			for _, element := range images.Content {
				n, err := child(element, "name")
				if err != nil || n == nil {
					continue
				}
				if n.Value != name {
					names = append(names, n.Value)
					continue
				}
				if err := edits.parts(element, "images[name="+name+"]", keys{repository: "newName", tag: "newTag", digest: "digest"}, image); err != nil {
					return nil, err
				}
			}
		}
		if !edits.found {
			return nil, missing("has no element with `name: %s` in `images`, only %q: add it, with the newTag that runs now", name, names)
		}
		return edits.list, nil
	}
}

// Helm is an image in Helm values: a whole reference, or a mapping with
// repository, tag, and where the chart has them registry and digest.
func Helm(path fieldpath.Path) Place {
	return func(f *File, image Image) ([]Edit, error) {
		n, err := f.find(path)
		if err != nil {
			return nil, err
		}
		var edits edits
		if n.Kind == yaml.ScalarNode {
			err = edits.whole(n, path.String(), image)
		} else {
			err = edits.parts(n, path.String(), keys{registry: "registry", repository: "repository", tag: "tag", digest: "digest"}, image)
		}
		return edits.list, err
	}
}

// What a field can hold of an image.
const (
	Whole      = "image" // the reference
	Tag        = "tag"
	Digest     = "digest"
	Repository = "repository"
)

// Field is one field that holds a part of an image.
func Field(path fieldpath.Path, part string) Place {
	return func(f *File, image Image) ([]Edit, error) {
		n, err := f.find(path)
		if err != nil {
			return nil, err
		}
		var edits edits
		err = edits.part(n, path.String(), part, image)
		return edits.list, err
	}
}

// Text is one field that holds a text.
func Text(path fieldpath.Path, text string) Place {
	return func(f *File, _ Image) ([]Edit, error) {
		n, err := f.find(path)
		if err != nil {
			return nil, err
		}
		var edits edits
		err = edits.set(n, path.String(), text, n.Value, text)
		return edits.list, err
	}
}

// Marked are all fields that a comment on their line marks as Flux has it:
//
//	image: registry.example.com/shop/web:v1 # {"$imagepolicy": "flux-system:web"}
//	tag: v1 # {"$imagepolicy": "flux-system:web:tag"}
func Marked(policy string) Place {
	return func(f *File, image Image) ([]Edit, error) {
		var edits edits
		var walk func(n *yaml.Node, way string) error
		walk = func(n *yaml.Node, way string) error {
			for i, c := range n.Content {
				if n.Kind == yaml.MappingNode && i%2 == 0 {
					continue
				}
				at := way
				if n.Kind == yaml.MappingNode {
					at = strings.TrimPrefix(way+"."+n.Content[i-1].Value, ".")
				} else if n.Kind == yaml.SequenceNode {
					at = fmt.Sprintf("%s[%d]", way, i)
				}
				if part, ok := marks(c.LineComment, policy); ok && c.Kind != yaml.MappingNode && c.Kind != yaml.SequenceNode {
					if err := edits.part(c, at, part, image); err != nil {
						return err
					}
				}
				if err := walk(c, at); err != nil {
					return err
				}
			}
			return nil
		}
		for _, doc := range f.docs {
			if err := walk(doc, ""); err != nil {
				return nil, err
			}
		}
		if !edits.found {
			return nil, missing("has no field with the comment # {\"$imagepolicy\": %q}", policy)
		}
		return edits.list, nil
	}
}

// marks reads a comment, and says what part of the policy's image the field
// beside it holds.
func marks(comment, policy string) (part string, ok bool) {
	_, text, _ := strings.Cut(comment, "#")
	var mark struct {
		Policy string `json:"$imagepolicy"`
	}
	if json.Unmarshal([]byte(text), &mark) != nil {
		return "", false
	}
	rest, ok := strings.CutPrefix(mark.Policy, policy)
	part, known := map[string]string{"": Whole, ":tag": Tag, ":name": Repository, ":digest": Digest}[rest]
	return part, ok && known
}

// find gives the one value that a path leads to in the documents of a file.
func (f *File) find(path fieldpath.Path) (found *yaml.Node, err error) {
	for _, doc := range f.docs {
		n, err := walk(doc, path)
		if err != nil {
			return nil, err
		}
		if n != nil && found != nil {
			return nil, fmt.Errorf("has %s in several documents: mark the field with a comment, and use `marker`", path)
		}
		if n != nil {
			found = n
		}
	}
	if found == nil {
		return nil, missing("has no %s; only a field that is there is changed", path)
	}
	return found, nil
}

// edits are collected for one place.
type edits struct {
	list  []Edit
	found bool
}

// set makes a value another. Going from one tag to the other is for the order
// guard to judge.
func (e *edits) set(n *yaml.Node, where, to, tag, newTag string) error {
	e.found = true
	switch {
	case n.Kind == yaml.AliasNode:
		return fmt.Errorf("%s is *%s: give the path to the place of &%s", where, n.Value, n.Value)
	case n.Kind != yaml.ScalarNode:
		return fmt.Errorf("%s is no single value", where)
	case n.Value != to || n.ShortTag() != "!!str": // the number 1.10 is 1.1 to who reads it
		e.list = append(e.list, Edit{Where: where, From: n.Value, To: to, tag: tag, newTag: newTag, node: n})
	}
	return nil
}

func (e *edits) whole(n *yaml.Node, where string, image Image) error {
	tag := ""
	to := image.reference(image.Name())
	if image.same(n.Value) {
		current, _ := trigger.ParseImage(n.Value)
		to, tag = image.reference(name(n.Value)), current.Tag
	}
	return e.set(n, where, to, tag, image.Tag)
}

func (e *edits) part(n *yaml.Node, where, part string, image Image) error {
	switch part {
	case Tag:
		if image.Tag == "" {
			return fmt.Errorf("%s holds a tag, and the event has none", where)
		}
		return e.set(n, where, image.Tag, n.Value, image.Tag)
	case Digest:
		if image.Digest == "" {
			return fmt.Errorf("%s holds a digest, and the event has none: its sender does not tell it", where)
		}
		return e.set(n, where, image.Digest, "", "")
	case Repository:
		if image.same(n.Value) {
			return e.set(n, where, n.Value, "", "")
		}
		return e.set(n, where, image.Name(), "", "")
	}
	return e.whole(n, where, image)
}

// keys are those under which a mapping has the parts of an image.
type keys struct{ registry, repository, tag, digest string }

// parts sets what is there of the parts of an image.
func (e *edits) parts(n *yaml.Node, where string, k keys, image Image) error {
	e.found = true
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("%s is no mapping", where)
	}
	var errs []error
	get := func(key string) *yaml.Node {
		value, err := child(n, key)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %w", where, err))
		}
		return value
	}
	registry, repository, tag, digest := get(k.registry), get(k.repository), get(k.tag), get(k.digest)
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if digest != nil && (digest.Value == "" || digest.Tag == "!!null") && (!image.Pin || image.Digest == "") {
		digest = nil // the chart can have one and the user wants none
	}
	if tag == nil && digest == nil {
		return fmt.Errorf("%s has no %s that could be set: add it, with what runs now", where, k.tag)
	}
	errs = append(errs, e.names(registry, repository, where, k, image))
	if tag != nil {
		errs = append(errs, e.part(tag, where+"."+k.tag, Tag, image))
	}
	if digest != nil {
		errs = append(errs, e.part(digest, where+"."+k.digest, Digest, image))
	}
	return errors.Join(errs...)
}

// names sets registry and repository, if they are there and of another image.
func (e *edits) names(registry, repository *yaml.Node, where string, k keys, image Image) error {
	switch {
	case repository == nil:
		return nil
	case registry == nil || registry.Value == "":
		return e.part(repository, where+"."+k.repository, Repository, image)
	case image.same(registry.Value + "/" + repository.Value):
		return nil
	}
	return errors.Join(
		e.set(registry, where+"."+k.registry, image.Registry, "", ""),
		e.set(repository, where+"."+k.repository, image.Repository, "", ""))
}

// same reports whether a reference is of this image, by any name that its
// registry has.
func (i Image) same(reference string) bool {
	current, err := trigger.ParseImage(reference)
	return err == nil && current.Repository == i.Repository && (i.Registry == "" || i.Aliases.Canonical(current.Registry) == i.Registry)
}

// reference is the whole of it, under the name that a file has for it.
func (i Image) reference(name string) string {
	text := name
	if i.Tag != "" {
		text += ":" + i.Tag
	}
	if i.Digest != "" && (i.Pin || i.Tag == "") {
		text += "@" + i.Digest
	}
	return text
}

// name is a reference without tag and digest, as it is written.
func name(reference string) string {
	reference, _, _ = strings.Cut(reference, "@")
	if i := strings.LastIndexByte(reference, ':'); i > strings.LastIndexByte(reference, '/') {
		return reference[:i]
	}
	return reference
}
