package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// AutoType is the type of a source that takes deliveries of several senders
// and tells them apart by what they send.
const AutoType = "auto"

// loadAuto reads what only a source of type auto has: `senders`, and below the
// type of each what a source of that type says.
func (s *Source) loadAuto(n strictyaml.Node, ok bool, out Outside) *Source {
	for _, key := range []string{"auth", "registry"} {
		if n.Has(key) {
			n.Key(key).Faultf("belongs to each of the senders")
			ok = false
		}
	}
	at := n.Key("senders")
	var kinds []string
	if n.Has("senders") {
		var once map[string]yaml.Node // a sender that is there twice is a fault
		ok = at.Decode(&once) && ok
		kinds = slices.Compact(slices.Sorted(slices.Values(at.Keys())))
	}
	if len(kinds) == 0 {
		at.Faultf("senders are missing: name each type that may send here, with its auth, as `senders: {github: {auth: {signature: …}}}`")
		return nil
	}
	for _, kind := range kinds {
		if _, known := senders[kind]; !known {
			at.Key(kind).Faultf("unknown type %q; known are %s", kind, strings.Join(Types(), ", "))
			continue
		}
		if sender := loadAs(s.Name, kind, at.Key(kind), out); sender != nil {
			s.senders = append(s.senders, sender)
		}
	}
	if !ok || len(s.senders) < len(kinds) {
		return nil
	}
	return s
}

// recognise finds among several senders the one that a request comes from, by
// what it looks like and then by its credentials: it must carry those of the
// sender that it looks like.
func recognise(ctx context.Context, senders []*Source, r Request) (*Source, error) {
	refused := fmt.Errorf("%w: it looks like nothing that the senders of this source send", ErrUnauthorized)
	for _, s := range candidates(senders, glance(r.Header, r.Body)) {
		found, err := s.Verify(ctx, r)
		if err == nil {
			return found, nil
		}
		if errors.Is(refused, ErrUnauthorized) { // else it may yet turn out right
			refused = fmt.Errorf("as %s: %w", s.Type, err)
		}
	}
	return nil, refused
}

// LooksLike gives the sender that a request seems to be from, whatever its
// credentials: this source, or one of its senders; nil when it looks like none
// of them.
func (s *Source) LooksLike(h http.Header, body []byte) *Source {
	if s.senders == nil {
		return s
	}
	if found := candidates(s.senders, glance(h, body)); len(found) > 0 {
		return found[0]
	}
	return nil
}

// candidates are the senders that a request may be from. One without a form of
// its own takes what looks like nobody's.
func candidates(senders []*Source, l look) []*Source {
	var known, generic []*Source
	for _, s := range senders {
		switch {
		case s.sender.Recognise == nil:
			generic = append(generic, s)
		case s.sender.Recognise(l):
			known = append(known, s)
		}
	}
	if len(known) > 0 {
		return known
	}
	return generic
}
