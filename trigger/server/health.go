package server

import (
	"cmp"
	"net/http"
	"time"
)

// Loaded is how it stands with the configuration.
type Loaded struct {
	At       time.Time `json:"loadedAt,omitzero"`  // when that was loaded which is in force
	Warnings []string  `json:"warnings,omitempty"` // what of it needs a restart
	TriedAt  time.Time `json:"triedAt,omitzero"`   // when a newer one was refused
	Faults   []string  `json:"faults,omitempty"`   // why it was; none when the last one is in force
}

// readiness is the answer to who asks whether deliveries can be taken. A newer
// configuration that cannot be used is no reason against it.
type readiness struct {
	Status        string  `json:"status"`
	Configuration *Loaded `json:"configuration,omitempty"`
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]string{"status": "ok"})
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	if err := s.Store.Ping(r.Context()); err != nil {
		s.Log.Error("not ready: the store does not answer", "error", err)
		fail(w, http.StatusServiceUnavailable, "the store does not answer; see the log")
		return
	}
	if s.NotYet != "" {
		fail(w, http.StatusServiceUnavailable, s.NotYet)
		return
	}
	out := readiness{Status: "ready"}
	if s.Loaded != nil {
		loaded := s.Loaded()
		out.Configuration = &loaded
	}
	reply(w, http.StatusOK, out)
}

// reload has the configuration loaded anew, and tells what is wrong with it.
func (s *Server) reload(w http.ResponseWriter, r *http.Request, who Caller) error {
	loaded := s.Reload(r.Context(), cmp.Or(who.Name, "server.token"))
	if len(loaded.Faults) == 0 {
		reply(w, http.StatusOK, loaded)
		return nil
	}
	reply(w, http.StatusBadRequest, struct {
		Error string `json:"error"`
		Loaded
	}{"the configuration cannot be used; that from before stays in force", loaded})
	return nil
}
