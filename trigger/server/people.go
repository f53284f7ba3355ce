package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"unicode"
)

// Role is what somebody may do by the API.
type Role string

const (
	Approver Role = "approver" // approve, reject, hold, release
	Admin    Role = "admin"    // everything
)

// Person is somebody with a token of their own: who sends it is that person.
// That several people approved a run means something only where each of them
// has one, for who knows the token of all can give any name.
type Person struct {
	Token func() (string, error)
	Role  Role
}

// Caller is who sends a request. The Name is "" for who knows the token of
// all; such a request says itself who it is from.
type Caller struct {
	Name string `json:"name"`
	Role Role   `json:"role"`
}

// change is a request to change something, by somebody who may.
type change func(w http.ResponseWriter, r *http.Request, who Caller) error

// may lets only those through whose token gives them the role that is needed:
// whoever can reach the address may read.
func (s *Server) may(needed Role, do change) http.HandlerFunc {
	return s.api(func(w http.ResponseWriter, r *http.Request) error {
		who, err := s.caller(r)
		if err != nil {
			return err
		}
		if who.Role != needed && who.Role != Admin {
			return deny(http.StatusForbidden, "%s may not do this: it takes the role %s in server.people", who.Name, needed)
		}
		return do(w, r, who)
	})
}

// caller finds whose token a request carries. All are compared, so that the
// time it takes tells nothing.
func (s *Server) caller(r *http.Request) (Caller, error) {
	if s.Token == nil && len(s.People) == 0 {
		return Caller{}, deny(http.StatusForbidden, "nothing can be changed by the API: set server.token or server.people to secrets, and send one as a bearer token")
	}
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		given = "" // as good as none
	}
	var found []Caller
	unreadable := false
	compare := func(who Caller, token func() (string, error)) {
		want, err := token()
		if err != nil {
			s.Log.Error("a token of the API cannot be read", "of", who.Name, "error", err)
			unreadable = true
		} else if sameSecret(given, want) {
			found = append(found, who)
		}
	}
	if s.Token != nil {
		compare(Caller{Role: Admin}, s.Token)
	}
	for name, p := range s.People {
		compare(Caller{Name: name, Role: p.Role}, p.Token)
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return Caller{}, deny(http.StatusForbidden, "this token is that of several: give server.token and each of server.people one of their own")
	case unreadable:
		return Caller{}, deny(http.StatusServiceUnavailable, "the token cannot be checked now; see the log")
	}
	return Caller{}, deny(http.StatusUnauthorized, "wrong or missing bearer token")
}

// sameSecret compares in a time that tells nothing of either. What is empty is
// no secret.
func sameSecret(given, want string) bool {
	g, w := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(want))
	return subtle.ConstantTimeCompare(g[:], w[:]) == 1 && want != ""
}

func (s *Server) showCaller(w http.ResponseWriter, _ *http.Request, who Caller) error {
	reply(w, http.StatusOK, who)
	return nil
}

// understand reads what is asked for and says who is on record for it. by
// points to where the body names a person.
func (s *Server) understand(r *http.Request, who Caller, body any, by *string) (string, error) {
	dec := json.NewDecoder(io.LimitReader(r.Body, maxChange))
	dec.DisallowUnknownFields() // a misspelt condition must not be left out
	if err := dec.Decode(body); err != nil && !errors.Is(err, io.EOF) {
		return "", deny(http.StatusBadRequest, `the body must be JSON as {"by": "NAME"}, of at most %d bytes: %v`, maxChange, err)
	}
	name := oneLine(*by, mostName)
	_, known := s.People[name]
	switch {
	case name == "" && who.Name == "":
		return "", deny(http.StatusBadRequest, `say who you are: {"by": "NAME"}`)
	case name != "" && who.Name != "" && name != who.Name:
		return "", deny(http.StatusForbidden, "this is the token of %s, not of %s: leave `by` out, or send the other's token", who.Name, name)
	case known && who.Name == "":
		return "", deny(http.StatusForbidden, "%s has a token, which this is not", name)
	case who.Name != "":
		return who.Name, nil
	}
	return name, nil
}

// oneLine keeps what somebody wrote on one visible line of bounded length.
func oneLine(s string, most int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}
