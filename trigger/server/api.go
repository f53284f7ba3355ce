package server

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
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
	q := newQuery(r)
	f := trigger.RunFilter{
		Before: q.id("before"), Limit: q.limit(), Event: q.id("event"),
		State: q.state("state"), Rule: q.text("rule"), Repository: q.text("repo"),
	}
	if err := q.check(); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	most := f.Limit
	f.Limit++ // one more tells whether there is another page
	runs, err := s.Store.Runs(r.Context(), f)
	if err != nil {
		s.broken(w, r, err)
		return
	}
	page := RunPage{Runs: []RunView{}}
	for _, run := range runs[:min(most, len(runs))] {
		page.Runs = append(page.Runs, viewRun(run))
	}
	if len(runs) > most {
		page.Next = strconv.FormatInt(runs[most-1].ID, 10)
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
	q := newQuery(r)
	f := trigger.EventFilter{Before: q.id("before"), Limit: q.limit(), Repository: q.text("repo")}
	if err := q.check(); err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	most := f.Limit
	f.Limit++ // one more tells whether there is another page
	events, err := s.Store.Events(r.Context(), f)
	if err != nil {
		s.broken(w, r, err)
		return
	}
	page := EventPage{Events: []EventView{}}
	for _, e := range events[:min(most, len(events))] {
		view := EventView{EventRecord: e, Runs: []string{}}
		for _, id := range e.Runs {
			view.Runs = append(view.Runs, strconv.FormatInt(id, 10))
		}
		page.Events = append(page.Events, view)
	}
	if len(events) > most {
		page.Next = strconv.FormatInt(events[most-1].ID, 10)
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

// query reads the parameters of a list and refuses those it does not know, or
// that are empty or there twice: a misspelt filter must not list everything.
type query struct {
	values url.Values
	err    error
}

func newQuery(r *http.Request) query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	return query{values, err}
}

func (q *query) text(key string) string {
	v, ok := q.values[key]
	delete(q.values, key)
	if ok && (len(v) != 1 || v[0] == "") {
		q.err = fmt.Errorf("%s must be given once and not be empty", key)
	}
	if len(v) == 0 {
		return ""
	}
	return v[0]
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
	if unknown := slices.Sorted(maps.Keys(q.values)); len(unknown) > 0 {
		return fmt.Errorf("unknown parameter %q", unknown[0])
	}
	return q.err
}
