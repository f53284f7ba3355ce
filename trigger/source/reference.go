package source

import (
	"strings"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// takeApart splits the address of an image as registries show it to people:
// with or without a scheme, ending in a tag, a digest or neither. The
// repository, where the sender tells it apart, shows where a host without a
// dot ends; "" when it does not tell.
func takeApart(address, repository string) (registry, name, tag string) {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	address, _, _ = strings.Cut(address, "@")
	if i := strings.LastIndexByte(address, ':'); i > strings.LastIndexByte(address, '/') {
		address, tag = address[:i], address[i+1:]
	}
	if repository != "" {
		if before, ok := strings.CutSuffix(address, "/"+repository); ok && !strings.Contains(before, "/") {
			return before, repository, tag
		}
	}
	if first, rest, ok := strings.Cut(address, "/"); ok && trigger.IsRegistry(first) {
		return first, rest, tag
	}
	return "", address, tag
}

// freeText is text that is only shown. Whatever else a sender puts in its
// place must not cost the event; a number is an account's.
type freeText string

func (f *freeText) UnmarshalJSON(b []byte) error {
	var n json.Number
	if s, ok := readText(b); ok {
		*f = freeText(s)
	} else if json.Unmarshal(b, &n) == nil {
		*f = freeText(n)
	}
	return nil
}
