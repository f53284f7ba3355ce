package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/dockbell/dockbell/trigger"
)

// intervention is what a person wants of a run, and who it is.
type intervention struct {
	By string `json:"by"`
}

// maxIntervention bounds the body of such a request.
const maxIntervention = 4 << 10

// may lets only those change something who know the token of the API: whoever
// can reach the address may read.
func (s *Server) may(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.Token == nil {
			fail(w, http.StatusForbidden, "nothing can be changed by the API: set server.token to a secret, and send it as a bearer token")
			return
		}
		token, err := s.Token()
		if err != nil {
			s.Log.Error("the token of the API cannot be read", "error", err)
			fail(w, http.StatusServiceUnavailable, "the token cannot be checked now; see the log")
			return
		}
		given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		g, want := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(token))
		if !ok || subtle.ConstantTimeCompare(g[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			fail(w, http.StatusUnauthorized, "wrong or missing bearer token")
			return
		}
		next(w, r)
	}
}

// intervene does something about a run for a person.
func (s *Server) intervene(what string, do func(ctx context.Context, id int64, why string, now time.Time) error) http.HandlerFunc {
	return s.may(func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.ParseInt(mux.Vars(r)["id"], 10, 64)
		if err != nil {
			fail(w, http.StatusBadRequest, "the id of a run is a number")
			return
		}
		var i intervention
		if err := json.NewDecoder(io.LimitReader(r.Body, maxIntervention)).Decode(&i); err != nil || printable(i.By) == "" {
			fail(w, http.StatusBadRequest, `say who you are: {"by": "NAME"}`)
			return
		}
		by := printable(i.By)
		var refused *trigger.RefusedError
		switch err := do(r.Context(), id, what+" by "+by, time.Now()); {
		case errors.Is(err, trigger.ErrNotFound):
			fail(w, http.StatusNotFound, "there is no run "+strconv.FormatInt(id, 10))
		case errors.As(err, &refused):
			fail(w, http.StatusConflict, refused.Error())
		case err != nil:
			s.broken(w, r, err)
		default:
			s.Log.Info("run "+what, "run", id, "by", by)
			s.showRun(w, r)
		}
	})
}

// printable keeps a name on one short, visible line.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return -1
		}
		return r
	}, strings.TrimSpace(s))
	const most = 100
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}
