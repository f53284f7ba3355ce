package k8s

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/dockbell/dockbell/trigger"
)

// isGlob reports whether a name of containers is a pattern.
func isGlob(name string) bool { return strings.ContainsAny(name, `*?[\`) }

// pick finds the slots that are meant. A name means one, whatever it runs: a
// container or an init container, else an image volume. No name means the only
// container. A pattern means all that run the repository of the event, so that
// sidecars are left alone.
func (d *deploy) pick(w *workload, image trigger.Image) ([]slot, error) {
	name := d.spec.Container
	switch {
	case d.path != nil:
		return w.slots, nil
	case name == "":
		containers := slices.DeleteFunc(slices.Clone(w.slots), func(s slot) bool { return s.role != container })
		switch len(containers) {
		case 0:
			return nil, errors.New("it has no containers")
		case 1:
			return containers, nil
		}
		return nil, fmt.Errorf("it has %d containers, %s: name one with `container`", len(containers), describe(containers, slot.named))
	case isGlob(name):
		return d.match(w, image)
	}
	if i := slices.IndexFunc(w.slots, func(s slot) bool { return s.name == name }); i >= 0 {
		return w.slots[i : i+1], nil // volumes come last
	}
	return nil, fmt.Errorf("it has no container %q; it has %s", name, describe(w.slots, slot.named))
}

func (d *deploy) match(w *workload, image trigger.Image) ([]slot, error) {
	var meant, running []slot
	for _, s := range w.slots {
		if ok, _ := path.Match(d.spec.Container, s.name); !ok { // the pattern is good, check has seen to it
			continue
		}
		meant = append(meant, s)
		if _, ok := d.repository(s.ours, image); ok {
			running = append(running, s)
		}
	}
	switch {
	case len(meant) == 0:
		return nil, fmt.Errorf("it has no container like %q; it has %s", d.spec.Container, describe(w.slots, slot.named))
	case len(running) == 0:
		return nil, trigger.Skip("nothing like %q in it runs %s: %s", d.spec.Container, image.Name(), describe(meant, slot.runs))
	}
	return running, nil
}

// repository reads a reference, and reports whether it is of the repository of
// an image. Workloads may name registries by any of their aliases.
func (d *deploy) repository(ref string, image trigger.Image) (trigger.Image, bool) {
	current, err := trigger.ParseImage(ref)
	same := err == nil && current.Repository == image.Repository && (image.Registry == "" || d.clusters.aliases.Canonical(current.Registry) == image.Registry)
	return current, same
}
