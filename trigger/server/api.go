package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gorilla/mux"

	"github.com/dockbell/dockbell/trigger"
)

// RunView is a run as the API shows it.
type RunView struct {
	trigger.Run
	Image        string `json:"image"`
	Timeout      string `json:"timeout,omitempty"`
	Deadline     string `json:"deadline,omitempty"`
	FirstBackoff string `json:"firstBackoff,omitempty"`
	MostBackoff  string `json:"mostBackoff,omitempty"`

	// Of a single run.
	Push  *trigger.Event    `json:"push,omitempty"`
	Tries []trigger.Attempt `json:"tries,omitempty"`
	Story []Chapter         `json:"story,omitempty"`
	Holds []trigger.Hold    `json:"holds,omitempty"` // that keep it from starting
}

// EventView is an event as the API shows it.
type EventView struct {
	trigger.EventRecord
	SenderID string   `json:"senderId,omitempty"` // the sender's own id of it
	Runs     []string `json:"runs"`
}

// DeliveryView is a delivery as the API shows it. A body that is no text is in
// Base64.
type DeliveryView struct {
	ID         int64               `json:"id,string"`
	Source     string              `json:"source"`
	ReceivedAt time.Time           `json:"receivedAt"`
	Header     map[string][]string `json:"header,omitempty"`
	Body       string              `json:"body,omitempty"`
	Base64     []byte              `json:"base64,omitempty"`
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

// api makes a handler of a function that answers or says what is wrong.
func (s *Server) api(do func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := do(w, r)
		var p *problem
		var refused *trigger.RefusedError
		switch {
		case err == nil:
		case errors.As(err, &p):
			if p.status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", "Bearer")
			}
			fail(w, p.status, p.why)
		case errors.As(err, &refused):
			fail(w, http.StatusConflict, refused.Error())
		default:
			s.Log.Error("API request failed", "path", r.URL.Path, "error", err)
			fail(w, http.StatusInternalServerError, "the store could not be read or written; see the log")
		}
	}
}

// problem is an error that the caller is told as it stands.
type problem struct {
	status int
	why    string
}

func (p *problem) Error() string { return p.why }

func deny(status int, format string, args ...any) error {
	return &problem{status, fmt.Sprintf(format, args...)}
}

// pathID is the id in the path of a request about one thing.
func pathID(r *http.Request, what string) (int64, error) {
	id, err := strconv.ParseInt(mux.Vars(r)["id"], 10, 64)
	if err != nil {
		return 0, deny(http.StatusBadRequest, "the id of %s is a number", what)
	}
	return id, nil
}

func (s *Server) listRuns(w http.ResponseWriter, r *http.Request) error {
	q := newQuery(r)
	f := trigger.RunFilter{
		Before: q.id("before"), Limit: q.limit(), Event: q.id("event"),
		State: q.state("state"), Rule: q.text("rule"), Repository: q.text("repo"),
	}
	if err := q.check(); err != nil {
		return err
	}
	most := f.Limit
	f.Limit++ // one more tells whether there is another page
	runs, err := s.Store.Runs(r.Context(), f)
	if err != nil {
		return err
	}
	page := RunPage{Runs: []RunView{}}
	for _, run := range runs[:min(most, len(runs))] {
		page.Runs = append(page.Runs, viewRun(run))
	}
	if len(runs) > most {
		page.Next = strconv.FormatInt(runs[most-1].ID, 10)
	}
	reply(w, http.StatusOK, page)
	return nil
}

func (s *Server) showRun(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "a run")
	if err != nil {
		return err
	}
	run, tries, ok, err := s.Store.Run(r.Context(), id)
	if err != nil {
		return err
	}
	if !ok {
		return deny(http.StatusNotFound, "there is no run %d", id)
	}
	notes, err := s.Store.Notes(r.Context(), id)
	if err != nil {
		return err
	}
	view := viewRun(run)
	view.Push, view.Tries, view.Story = &run.Event, tries, story(run, tries, notes)
	if !run.State.Ended() {
		if view.Holds, err = s.holdsOn(r.Context(), run); err != nil {
			return err
		}
	}
	reply(w, http.StatusOK, view)
	return nil
}

// holdsOn gives the holds that a run falls under.
func (s *Server) holdsOn(ctx context.Context, run trigger.Run) ([]trigger.Hold, error) {
	holds, err := s.Store.Holds(ctx, false)
	return slices.DeleteFunc(holds, func(h trigger.Hold) bool {
		return h.Lane != "" && h.Lane != run.Lane || h.Digest != "" && h.Digest != run.Event.Digest
	}), err
}

func (s *Server) listEvents(w http.ResponseWriter, r *http.Request) error {
	q := newQuery(r)
	f := trigger.EventFilter{Before: q.id("before"), Limit: q.limit(), Repository: q.text("repo")}
	if err := q.check(); err != nil {
		return err
	}
	most := f.Limit
	f.Limit++ // one more tells whether there is another page
	events, err := s.Store.Events(r.Context(), f)
	if err != nil {
		return err
	}
	page := EventPage{Events: []EventView{}}
	for _, e := range events[:min(most, len(events))] {
		page.Events = append(page.Events, viewEvent(e))
	}
	if len(events) > most {
		page.Next = strconv.FormatInt(events[most-1].ID, 10)
	}
	reply(w, http.StatusOK, page)
	return nil
}

func (s *Server) showEvent(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "an event")
	if err != nil {
		return err
	}
	e, err := s.event(r.Context(), id)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, viewEvent(e))
	return nil
}

func (s *Server) showDelivery(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "a delivery")
	if err != nil {
		return err
	}
	d, err := s.delivery(r.Context(), id)
	if err != nil {
		return err
	}
	view := DeliveryView{ID: id, Source: d.Source, ReceivedAt: d.ReceivedAt, Header: d.Header}
	if utf8.Valid(d.Body) {
		view.Body = string(d.Body)
	} else {
		view.Base64 = d.Body
	}
	reply(w, http.StatusOK, view)
	return nil
}

// event gives a recorded event, and delivery a recorded delivery, or says that
// it is not there.
func (s *Server) event(ctx context.Context, id int64) (trigger.EventRecord, error) {
	e, ok, err := s.Store.Event(ctx, id)
	if err == nil && !ok {
		err = deny(http.StatusNotFound, "there is no event %d, or it is not kept any more", id)
	}
	return e, err
}

func (s *Server) delivery(ctx context.Context, id int64) (trigger.Delivery, error) {
	d, ok, err := s.Store.Delivery(ctx, id)
	if err == nil && !ok {
		err = deny(http.StatusNotFound, "there is no delivery %d, or it is not kept any more: keep.deliveries says for how long", id)
	}
	return d, err
}

func viewRun(r trigger.Run) RunView {
	if r.State == trigger.Waiting && r.Reason == "" {
		r.Reason = "waits for its turn in the lane"
	}
	return RunView{
		Run: r, Image: r.Event.Image.String(), Timeout: span(r.Timeout), Deadline: span(r.Deadline),
		FirstBackoff: span(r.FirstBackoff), MostBackoff: span(r.MostBackoff),
	}
}

func viewEvent(e trigger.EventRecord) EventView {
	view := EventView{EventRecord: e, SenderID: e.Event.ID, Runs: []string{}}
	for _, id := range e.Runs {
		view.Runs = append(view.Runs, strconv.FormatInt(id, 10))
	}
	return view
}

// span is a duration for people; "" for none.
func span(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
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

func (q *query) flag(key string) bool {
	v := q.text(key)
	if v != "" && v != "true" && v != "false" {
		q.err = fmt.Errorf("%s must be true or false, not %q", key, v)
	}
	return v == "true"
}

// states are what runs can be listed by.
var states = []string{
	string(trigger.Waiting), string(trigger.Running), string(trigger.Succeeded), string(trigger.Failed), string(trigger.Superseded),
	string(trigger.Skipped), string(trigger.Rejected), string(trigger.Expired), string(trigger.RolledBack), string(trigger.Unknown),
}

func (q *query) state(key string) trigger.State {
	v := q.text(key)
	if v != "" && !slices.Contains(states, v) {
		q.err = fmt.Errorf("%s must be one of %s, not %q", key, strings.Join(states, ", "), v)
	}
	return trigger.State(v)
}

// check says what is wrong with the parameters.
func (q *query) check() error {
	if unknown := slices.Sorted(maps.Keys(q.values)); len(unknown) > 0 {
		return deny(http.StatusBadRequest, "unknown parameter %q", unknown[0])
	}
	if q.err != nil {
		return deny(http.StatusBadRequest, "%v", q.err)
	}
	return nil
}
