package k8s

import (
	"cmp"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/dockbell/dockbell/trigger"
)

// keelTags says which tags a policy of keel lets follow a tag.
type keelTags struct {
	tag    string // expression for the whole tag; "" for any
	semver string // constraint; "" for none
	order  trigger.Order
	poll   string // expression for the tags that keel asks a registry for
	notes  []string
}

// latest is the tag of an image that names none.
const latest = "latest"

// tags translates the policy for an image that now has a tag; "" when it is
// pinned to a digest. An error says why keel never updates it.
func (w *KeelWorkload) tags(current string) (t keelTags, err error) {
	policy := w.policy()
	kind, pattern, _ := strings.Cut(policy, ":")
	switch {
	case policy == "all" || policy == "major" || policy == "minor" || policy == "patch":
		same, given := w.value("matchPreRelease")
		t, err = semverTags(policy, current, !given || same == "true")
	case policy == "force":
		t, err = forceTags(current, w.is("matchTag") || w.isOldMatchTag())
	case kind == "glob" && pattern != "" && !strings.Contains(pattern, ":"):
		t.tag = globTags(pattern)
		t.poll = t.tag
	case kind == "regexp" || kind == "newest":
		if t.tag, err = unanchored(pattern); err != nil {
			return t, fmt.Errorf("policy %s: %w", policy, err)
		}
		t.poll = t.tag
		if kind == "newest" {
			t.order = trigger.OrderTime
			t.notes = append(t.notes, "the newest is what was pushed last; keel goes by when the image was built")
		} else if re := regexp.MustCompile(pattern); re.SubexpIndex("compare") >= 0 {
			t.notes = append(t.notes, "the group compare is not looked at: the newest is what was pushed last")
		}
	default:
		return t, fmt.Errorf("keel does not know the policy %q", policy)
	}
	return t, err
}

// isOldMatchTag: the older spelling counts where the newer is missing.
func (w *KeelWorkload) isOldMatchTag() bool {
	_, newer := w.value("matchTag")
	return !newer && w.is("match-tag")
}

// Expressions for versions. keel wants a dot at the least.
const (
	threeNumbers = `v?\d+\.\d+\.\d+`
	twoNumbers   = `v?\d+\.\d+(\.\d+)?`
	anyPre       = `(-[0-9A-Za-z.-]+)?`
)

// semverTags is for the policies that compare versions. samePre: the
// pre-release must stay as it is.
func semverTags(policy, current string, samePre bool) (keelTags, error) {
	if current == latest {
		return keelTags{tag: latest, poll: latest, notes: []string{
			"the image has the tag latest, and keel takes the first tag of any kind that is pushed in its place; this follows latest, until you give the image a version and import again",
		}}, nil
	}
	v, err := semver.NewVersion(current)
	if current == "" {
		return keelTags{}, fmt.Errorf("the image is pinned to a digest, which is no version, so keel never updates it by policy %s", policy)
	} else if err != nil {
		return keelTags{}, fmt.Errorf("the tag %q is no version, so keel never updates it by policy %s", current, policy)
	}
	t := keelTags{tag: twoNumbers}
	if strings.Count(strings.TrimSuffix(current, "-"+v.Prerelease()), ".") == 2 {
		t.tag = threeNumbers
	}
	exact := trigger.IsVersion(current)
	if exact {
		t.order = map[string]trigger.Order{"minor": trigger.OrderMinor, "patch": trigger.OrderPatch}[policy]
		t.order = cmp.Or(t.order, trigger.OrderSemver)
	} else {
		t.notes = append(t.notes, fmt.Sprintf("%s is no version of three numbers, so which of two is newer is told by when they were pushed", current))
	}
	pre := v.Prerelease()
	withPre := pre != ""
	switch {
	case policy == "all" || !samePre:
		t.tag += anyPre
		withPre = true
	case pre != "":
		t.tag += regexp.QuoteMeta("-" + pre)
	}
	t.poll = t.tag
	// What runs at the time can say how far to go where it is a version to us.
	// Else it is said now, in ranges by hand: in ^0.2 the minor version of 0.x counts like a major one,
	// and 1.x leaves out all that have a pre-release.
	switch {
	case exact:
	case policy == "minor" && withPre:
		t.semver = fmt.Sprintf(">=%d.0.0-0, <%d.0.0-0", v.Major(), v.Major()+1)
	case policy == "minor":
		t.semver = fmt.Sprintf("%d.x", v.Major())
	case policy == "patch" && withPre:
		t.semver = fmt.Sprintf(">=%d.%d.0-0, <%d.%d.0-0", v.Major(), v.Minor(), v.Major(), v.Minor()+1)
	case policy == "patch":
		t.semver = fmt.Sprintf("%d.%d.x", v.Major(), v.Minor())
	}
	return t, nil
}

// forceTags is for the policy that takes any tag, or the one that is there.
func forceTags(current string, sameTag bool) (t keelTags, err error) {
	if sameTag && current == "" {
		return t, fmt.Errorf("the image is pinned to a digest, which no tag matches, so keel never updates it")
	}
	t.poll = regexp.QuoteMeta(current)
	if sameTag {
		t.tag = t.poll
		return t, nil
	}
	t.notes = append(t.notes, "any tag that is pushed is deployed, of whatever branch: say which by `tag`")
	if current == "" {
		t.notes = append(t.notes, "the image is pinned to a digest, and what is deployed next is a tag")
	}
	return t, nil
}

// globTags is for a pattern in which a star is anything.
func globTags(pattern string) string {
	parts := strings.Split(pattern, "*")
	for i, part := range parts {
		parts[i] = regexp.QuoteMeta(part)
	}
	return strings.Join(parts, ".*")
}

// unanchored writes an expression that is found anywhere in a tag as one for
// the whole tag. Anchors at its ends are left out where they are those of the
// whole: not so in ^a|b$.
func unanchored(expr string) (string, error) {
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return "", fmt.Errorf("keel cannot read the expression: %w", err)
	}
	same := func(other string) bool {
		t, err := syntax.Parse(other, syntax.Perl)
		return err == nil && t.Equal(tree)
	}
	after, begins := strings.CutPrefix(expr, "^")
	before, ends := strings.CutSuffix(expr, "$")
	inside := strings.TrimPrefix(before, "^")
	switch {
	case strings.Contains(expr, `\Q`): // may quote what is put behind it, too
		return ".*(?:" + tree.String() + ").*", nil
	case begins && ends && inside != "" && same("^(?:"+inside+")$"):
		return inside, nil
	case begins && same("^(?:"+after+")"):
		return group(after) + ".*", nil
	case ends && same("(?:"+before+")$"):
		return ".*" + group(before), nil
	}
	return ".*(?:" + expr + ").*", nil
}

// group keeps alternatives together.
func group(expr string) string {
	if strings.Contains(expr, "|") {
		return "(?:" + expr + ")"
	}
	return expr
}
