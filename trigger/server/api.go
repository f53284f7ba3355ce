package server

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/gorilla/mux"

	"github.com/dockbell/dockbell/trigger"
)

// RunView is a run as the API shows it.
type RunView struct {
	trigger.Run
	Image   string            `json:"image"`
	Timeout string            `json:"timeout,omitempty"`
	Push    *trigger.Event    `json:"push,omitempty"`  // of a single run
	Tries   []trigger.Attempt `json:"tries,omitempty"` // of a single run
}

// EventView is an event as the API shows it.
type EventView struct {
	trigger.EventRecord
	Runs []string `json:"runs"`
}

// RunPage and EventPage are answers of the API. Next is the value of `before`
// that gives the next page; "" at the end.
type (
	RunPage struct {
		Runs []RunView `json:"runs"`
		Next string    `json:"next,omitempty"`
	}
	EventPage struct {
		Events []EventView `json:"events"`
		Next   string      `json:"next,omitempty"`
	}
)

func (s *Server) listRuns(w http.ResponseWriter, r *http.Request) {
	q := query{values: r.URL.Query()}
	f := trigger.RunFilter{
		Before: q.id("before"), Limit: q.limit(), Event: q.id("event"),
		State: q.state("state"), Rule: q.text("rule"), Repository: q.text("repo"),
	}
	if err := q.check(); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	runs, err := s.Store.Runs(r.Context(), f)
	if err != nil {
		s.broken(w, r, err)
		return
	}
	page := RunPage{Runs: make([]RunView, len(runs))}
	for i, run := range runs {
		page.Runs[i] = viewRun(run)
	}
	if len(runs) == f.Limit {
		page.Next = strconv.FormatInt(runs[len(runs)-1].ID, 10)
	}
	reply(w, http.StatusOK, page)
}

func (s *Server) showRun(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseInt(mux.Vars(r)["id"], 10, 64)
	if err != nil {
		fail(w, http.StatusBadRequest, "the id of a run is a number")
		return
	}
	run, tries, ok, err := s.Store.Run(r.Context(), id)
	if err != nil {
		s.broken(w, r, err)
		return
	}
	if !ok {
		fail(w, http.StatusNotFound, fmt.Sprintf("there is no run %d", id))
		return
	}
	view := viewRun(run)
	view.Push, view.Tries = &run.Event, tries
	reply(w, http.StatusOK, view)
}

func (s *Server) listEvents(w http.ResponseWriter, r *http.Request) {
	q := query{values: r.URL.Query()}
	f := trigger.EventFilter{Before: q.id("before"), Limit: q.limit(), Repository: q.text("repo")}
	if err := q.check(); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	events, err := s.Store.Events(r.Context(), f)
	if err != nil {
		s.broken(w, r, err)
		return
	}
	page := EventPage{Events: make([]EventView, len(events))}
	for i, e := range events {
		page.Events[i] = EventView{EventRecord: e, Runs: []string{}}
		for _, id := range e.Runs {
			page.Events[i].Runs = append(page.Events[i].Runs, strconv.FormatInt(id, 10))
		}
	}
	if len(events) == f.Limit {
		page.Next = strconv.FormatInt(events[len(events)-1].ID, 10)
	}
	reply(w, http.StatusOK, page)
}

func viewRun(r trigger.Run) RunView {
	v := RunView{Run: r, Image: r.Event.Image.String()}
	if r.Timeout > 0 {
		v.Timeout = r.Timeout.String()
	}
	return v
}

func (s *Server) broken(w http.ResponseWriter, r *http.Request, err error) {
	s.Log.Error("API request failed", "path", r.URL.Path, "error", err)
	fail(w, http.StatusInternalServerError, "the store could not be read; see the log")
}

// query reads the parameters of a list and refuses those it does not know: a
// misspelt filter must not list everything.
type query struct {
	values url.Values
	err    error
}

func (q *query) text(key string) string {
	v := q.values.Get(key)
	q.values.Del(key)
	return v
}

func (q *query) id(key string) int64 {
	v := q.text(key)
	if v == "" {
		return 0
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n <= 0 {
		q.err = fmt.Errorf("%s must be an id, not %q", key, v)
	}
	return n
}

func (q *query) limit() int {
	v := q.text("limit")
	if v == "" {
		return defaultPage
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > maxPage {
		q.err = fmt.Errorf("limit must be a number from 1 to %d, not %q", maxPage, v)
	}
	return n
}

func (q *query) state(key string) trigger.State {
	v := trigger.State(q.text(key))
	switch v {
	case "", trigger.Waiting, trigger.Running, trigger.Succeeded, trigger.Failed, trigger.Superseded, trigger.Skipped, trigger.Unknown:
	default:
		q.err = fmt.Errorf("%s must be waiting, running, succeeded, failed, superseded, skipped or unknown, not %q", key, v)
	}
	return v
}

func (q *query) check() error {
	for key := range q.values {
		return fmt.Errorf("unknown parameter %q", key)
	}
	return q.err
}
