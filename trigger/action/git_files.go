package action

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/action/git"
	"github.com/dockbell/dockbell/trigger/action/git/manifest"
)

// gitFiles are the files that a commit changes.
type gitFiles struct {
	*gitState
	now map[string][]byte // their new text
}

// add makes the changes of an order. An error is its outcome: nothing of it is
// in the commit. Without one it may still change nothing, and then its commit
// is there already.
func (f *gitFiles) add(o *gitOrder) error {
	for _, at := range []*git.Commit{f.base, f.on} {
		p, err := o.plan(at, nil)
		if err != nil {
			return err
		}
		if why := p.backwards(o.run); why != "" {
			return trigger.Skip("%s: nothing is changed", why)
		}
		if p.empty() {
			return f.already(o, at)
		}
	}
	p, err := o.plan(f.on, f.now)
	if err != nil {
		return err
	}
	if why := p.backwards(o.run); why != "" {
		return trigger.Skip("%s: nothing is changed", why) // another order of this commit goes further
	}
	texts := map[string][]byte{}
	for _, name := range p.names() {
		text, err := p[name].file.Apply(p[name].edits)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		texts[name] = text
	}
	maps.Copy(f.now, texts)
	o.changes = p.lines()
	return nil
}

// already says what it means that a commit has what an order wants: there is
// nothing to do, or a pull request is still to be opened.
func (f *gitFiles) already(o *gitOrder, at *git.Commit) error {
	pushed := strings.Contains(at.Message, trailers(o.run))
	if pushed {
		fmt.Fprintf(&o.log, "an earlier try has pushed commit %s\n", at.Hash)
	}
	switch {
	case at == f.base && pushed && o.action.spec.Request == nil: // it is done
	case at == f.base:
		return trigger.Skip("%s has it already", o.action.spec.Branch)
	case o.action.spec.Request == nil && !pushed:
		return trigger.Skip("%s has it already", f.pushTo)
	case f.request.State == requestOpen && !pushed:
		return trigger.Skip("%s has it already", f.request.URL)
	case f.request.State == requestClosed:
		return trigger.Skip("somebody closed %s, which has it; it is not opened again", f.request.URL)
	}
	return nil
}

// diff shows all changes.
func (f *gitFiles) diff() string {
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(f.now)) {
		before, err := f.on.Files(name)
		if err == nil { // it was read before
			out.WriteString(manifest.Diff(name, before[name], f.now[name]))
		}
	}
	return out.String()
}

// gitPlan is what an order changes in each file.
type gitPlan map[string]*gitEdits

type gitEdits struct {
	file  *manifest.File
	edits []manifest.Edit
}

// plan finds what there is to change in the files of a commit, or in their
// text as it is now.
func (o *gitOrder) plan(at *git.Commit, now map[string][]byte) (gitPlan, error) {
	p := gitPlan{}
	image := manifest.Image{Image: o.run.Event.Image, Pin: o.action.spec.Pin == pinDigest, Aliases: o.action.world.aliases}
	for _, place := range o.action.places {
		files, err := at.Files(place.file)
		if err != nil {
			return nil, err
		}
		found := false
		var missing *manifest.MissingError
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if text, ok := now[name]; ok {
				files[name] = text
			}
			err := p.place(name, files[name], place.find, image)
			if err != nil && !(git.IsPattern(place.file) && errors.As(err, &missing)) {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			found = found || err == nil
		}
		if !found {
			return nil, fmt.Errorf("no file of %s has it: the last one %w", place.file, missing)
		}
	}
	return p, nil
}

func (p gitPlan) place(name string, text []byte, find manifest.Place, image manifest.Image) error {
	e := p[name]
	if e == nil {
		file, err := manifest.Parse(text)
		if err != nil {
			return err
		}
		e = &gitEdits{file: file}
	}
	edits, err := find(e.file, image)
	if err != nil {
		return err
	}
	e.edits = append(e.edits, edits...)
	p[name] = e
	return nil
}

// names are the files that change.
func (p gitPlan) names() (names []string) {
	for _, name := range slices.Sorted(maps.Keys(p)) {
		if len(p[name].edits) > 0 {
			names = append(names, name)
		}
	}
	return names
}

func (p gitPlan) empty() bool { return len(p.names()) == 0 }

// backwards says why a run would be a step back in one of its places. Then it
// is none in the others either: they belong together.
func (p gitPlan) backwards(run trigger.Run) string {
	if !run.Ordered {
		return ""
	}
	for _, name := range p.names() {
		for _, e := range p[name].edits {
			if why := e.Backwards(run.Order); why != "" {
				return name + ": " + why
			}
		}
	}
	return ""
}

func (p gitPlan) lines() (lines []string) {
	for _, name := range p.names() {
		for _, e := range p[name].edits {
			lines = append(lines, name+": "+e.String())
		}
	}
	return lines
}

// message is that of a commit: what the user wants it to say, what changes,
// and which runs did it, in the form of git's trailers.
func message(orders []*gitOrder) string {
	var subjects, changes []string
	marks := ""
	for _, o := range orders {
		subjects = append(subjects, strings.TrimSpace(cmp.Or(o.action.spec.Message, "Set "+o.run.Event.Image.String())))
		changes = append(changes, o.changes...)
		marks += trailers(o.run)
	}
	text := subjects[0]
	if len(orders) > 1 {
		text = fmt.Sprintf("Set %d images\n\n%s", len(orders), strings.Join(subjects, "\n"))
	}
	return text + "\n\n" + strings.Join(changes, "\n") + "\n\n" + marks
}

func trailers(run trigger.Run) string {
	return fmt.Sprintf("Dockbell-Image: %s\nDockbell-Rule: %s\nDockbell-Event: %d\nDockbell-Run: %d\n",
		run.Event.Image.Pinned(), oneLine(run.Rule), run.EventID, run.ID)
}
