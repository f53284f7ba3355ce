package server

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// intervene does something about a run for a person.
func (s *Server) intervene(what string, do func(ctx context.Context, id int64, why string, now time.Time) error) change {
	return func(w http.ResponseWriter, r *http.Request, who Caller) error {
		id, err := pathID(r, "a run")
		if err != nil {
			return err
		}
		var body struct {
			By string `json:"by"`
		}
		by, err := s.understand(r, who, &body, &body.By)
		if err != nil {
			return err
		}
		if err := do(r.Context(), id, what+" by "+by, time.Now()); err != nil {
			return missing(err, "run", id)
		}
		s.Log.Info("run "+what, "run", id, "by", by)
		return s.showRun(w, r)
	}
}

// vote approves or rejects a run. The digest is part of what is approved: the
// store refuses a vote on another one than the run has.
func (s *Server) vote(yes bool) change {
	what := "rejected"
	if yes {
		what = "approved"
	}
	return func(w http.ResponseWriter, r *http.Request, who Caller) error {
		id, err := pathID(r, "a run")
		if err != nil {
			return err
		}
		var body struct {
			By     string `json:"by"`
			Digest string `json:"digest"`
			Reason string `json:"reason"`
		}
		by, err := s.understand(r, who, &body, &body.By)
		if err != nil {
			return err
		}
		v := trigger.Vote{By: by, Yes: yes, Digest: body.Digest, Reason: oneLine(body.Reason, mostReason)}
		if !yes && v.Reason == "" {
			return deny(http.StatusBadRequest, `say why: {"reason": "…"}`)
		}
		if err := s.Store.Vote(r.Context(), id, v, time.Now()); err != nil {
			return missing(err, "run", id)
		}
		s.Log.Info("run "+what, "run", id, "by", by, "reason", v.Reason)
		return s.showRun(w, r)
	}
}

// HoldList is an answer of the API.
type HoldList struct {
	Holds []trigger.Hold `json:"holds"`
}

func (s *Server) listHolds(w http.ResponseWriter, r *http.Request) error {
	q := newQuery(r)
	released := q.flag("released")
	if err := q.check(); err != nil {
		return err
	}
	holds, err := s.Store.Holds(r.Context(), released)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, HoldList{Holds: append([]trigger.Hold{}, holds...)})
	return nil
}

func (s *Server) hold(w http.ResponseWriter, r *http.Request, who Caller) error {
	var body struct {
		By     string `json:"by"`
		Lane   string `json:"lane"`
		Digest string `json:"digest"`
		Reason string `json:"reason"`
	}
	by, err := s.understand(r, who, &body, &body.By)
	if err != nil {
		return err
	}
	h := trigger.Hold{Lane: body.Lane, Digest: body.Digest, Reason: oneLine(body.Reason, mostReason), By: by, At: time.Now()}
	switch {
	case h.Lane == "" && h.Digest == "":
		return deny(http.StatusBadRequest, `say what to hold: {"digest": "sha256:…"}, {"lane": "…"} or both`)
	case h.Digest != "" && !trigger.IsDigest(h.Digest):
		return deny(http.StatusBadRequest, "digest must be sha256: and 64 hexadecimal digits, or sha512: and 128, not %q", h.Digest)
	case h.Reason == "":
		return deny(http.StatusBadRequest, `say why: {"reason": "…"}`)
	}
	if h.ID, err = s.Store.Hold(r.Context(), h); err != nil {
		return err
	}
	s.Log.Info("held", "hold", h.ID, "lane", h.Lane, "digest", h.Digest, "by", by, "reason", h.Reason)
	reply(w, http.StatusCreated, h)
	return nil
}

func (s *Server) release(w http.ResponseWriter, r *http.Request, who Caller) error {
	id, err := pathID(r, "a hold")
	if err != nil {
		return err
	}
	var body struct {
		By string `json:"by"`
	}
	by, err := s.understand(r, who, &body, &body.By)
	if err != nil {
		return err
	}
	if err := s.Store.Release(r.Context(), id, by, time.Now()); err != nil {
		return missing(err, "hold", id)
	}
	s.Log.Info("released", "hold", id, "by", by)
	reply(w, http.StatusOK, map[string]string{"id": strconv.FormatInt(id, 10), "releasedBy": by})
	return nil
}

// missing names what is not there.
func missing(err error, what string, id int64) error {
	if errors.Is(err, trigger.ErrNotFound) {
		return deny(http.StatusNotFound, "there is no %s %d", what, id)
	}
	return err
}
