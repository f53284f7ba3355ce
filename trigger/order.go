package trigger

import (
	"fmt"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
)

// Release is what the order guard compares: a tag and when it was pushed. A
// zero time is not compared.
type Release struct {
	Tag string
	At  time.Time
}

// Backwards reports why going from one release to the other would be a step
// back, or too far, under the given order, or "" when it is neither.
func Backwards(from, to Release, order Order) string {
	if order == OrderAny {
		return ""
	}
	if order != OrderTime {
		a, b := version(from.Tag), version(to.Tag)
		if a != nil && b != nil {
			switch {
			case b.LessThan(a):
				return fmt.Sprintf("%s is a lower version than %s", to.Tag, from.Tag)
			case b.Major() != a.Major() && (order == OrderMinor || order == OrderPatch):
				return fmt.Sprintf("%s is of another major version than %s", to.Tag, from.Tag)
			case b.Minor() != a.Minor() && order == OrderPatch:
				return fmt.Sprintf("%s is of another minor version than %s", to.Tag, from.Tag)
			case b.GreaterThan(a):
				return ""
			}
		}
		if order != OrderDefault {
			return ""
		}
	}
	if from.At.IsZero() || to.At.IsZero() || !to.At.Before(from.At) {
		return ""
	}
	return fmt.Sprintf("it was pushed at %s, before %s at %s", to.At.UTC().Format(time.RFC3339), from.Tag, from.At.UTC().Format(time.RFC3339))
}

// IsVersion reports whether a tag is a version, which by custom is pushed once.
func IsVersion(tag string) bool { return version(tag) != nil }

// version reads MAJOR.MINOR.PATCH with an optional "v". Anything shorter is
// left to time: short git hashes and build numbers of digits alone would
// otherwise be taken for versions.
func version(tag string) *semver.Version {
	v, err := semver.StrictNewVersion(strings.TrimPrefix(tag, "v"))
	if err != nil {
		return nil
	}
	return v
}
