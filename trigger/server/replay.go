package server

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// What a replayed delivery says of itself, in headers that no sender can set.
const (
	replayOf   = "Dockbell-Replay-Of"
	replayedBy = "Dockbell-Replayed-By"
)

// ReplayView is what a recorded delivery or event does with the rules of today,
// or would do.
type ReplayView struct {
	Of       string          `json:"of"`                 // "delivery 12" or "event 34"
	Delivery string          `json:"delivery,omitempty"` // as which it was accepted; "" when it was only rehearsed
	Events   []ReplayedEvent `json:"events"`
}

// ReplayedEvent is one event of it.
type ReplayedEvent struct {
	Event   string        `json:"event,omitempty"` // as which it was accepted
	Action  string        `json:"action"`
	Image   string        `json:"image"`
	Ignored string        `json:"ignored,omitempty"` // why it starts nothing
	Runs    []ReplayedRun `json:"runs,omitempty"`
}

// ReplayedRun is what a rule that matches makes of it.
type ReplayedRun struct {
	Rule   string `json:"rule"`
	Index  int    `json:"index"`
	Kind   string `json:"kind"`
	Target string `json:"target"`
	New    bool   `json:"new"`              // there is a new run, or would be
	Run    string `json:"run,omitempty"`    // the new one, or the one that stands already
	State  string `json:"state,omitempty"`  // of the one that stands already
	Reason string `json:"reason,omitempty"` // why there is none, or why it waits or has ended at once
}

// replay sends what was recorded through the rules of today: as a rehearsal,
// of which nothing is kept, unless the request says fire. What arrived before
// is not done again, unless it says force.
func (s *Server) replay(what string, load func(ctx context.Context, id int64) (trigger.Delivery, []trigger.Event, error)) change {
	return func(w http.ResponseWriter, r *http.Request, who Caller) error {
		id, err := pathID(r, "what is replayed")
		if err != nil {
			return err
		}
		if s.NotYet != "" {
			return deny(http.StatusServiceUnavailable, "%s", s.NotYet)
		}
		var body struct {
			By    string `json:"by"`
			Fire  bool   `json:"fire"`
			Force bool   `json:"force"`
		}
		by, err := s.understand(r, who, &body, &body.By)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(r.Context(), acceptTimeout)
		defer cancel()
		d, events, err := load(ctx, id)
		if err != nil {
			return err
		}
		view := ReplayView{Of: fmt.Sprintf("%s %d", what, id), Events: []ReplayedEvent{}}
		d, events = again(d, events)
		d.Header[replayOf], d.Header[replayedBy] = []string{view.Of}, []string{by}
		planned, ignored := s.plan(events, d.ReceivedAt)
		for i := range planned {
			planned[i].Force = body.Force
		}
		accept := s.Store.Rehearse
		if body.Fire {
			accept = s.Store.Accept
		}
		receipt, err := accept(ctx, d, planned)
		if err != nil {
			return err
		}
		if body.Fire {
			view.Delivery = strconv.FormatInt(receipt.Delivery, 10)
			s.Log.Info("replayed", "of", view.Of, "delivery", receipt.Delivery, "by", by, "force", body.Force)
		}
		for i, p := range planned {
			e, err := s.replayed(ctx, p, receipt.Events[i], body.Fire)
			if err != nil {
				return err
			}
			view.Events = append(view.Events, e)
		}
		for _, i := range ignored {
			image := trigger.Image{Repository: i.Repository, Tag: i.Tag}
			view.Events = append(view.Events, ReplayedEvent{Image: image.String(), Ignored: i.Reason})
		}
		reply(w, http.StatusOK, view)
		return nil
	}
}

// recordedDelivery gives a delivery with its events as its source understands
// them today.
func (s *Server) recordedDelivery(ctx context.Context, id int64) (trigger.Delivery, []trigger.Event, error) {
	d, err := s.delivery(ctx, id)
	if err != nil {
		return d, nil, err
	}
	src, ok := s.Sources[d.Source]
	if !ok {
		return d, nil, deny(http.StatusConflict, "source %s of delivery %d is not in the configuration any more, or polls: its events can be replayed one by one", d.Source, id)
	}
	if of := d.Header[replayOf]; len(d.Body) == 0 && len(of) > 0 {
		return d, nil, deny(http.StatusConflict, "delivery %d is a replay itself: replay %s", id, of[0])
	}
	if src = src.LooksLike(d.Header, d.Body); src == nil {
		return d, nil, deny(http.StatusConflict, "delivery %d looks like nothing that the senders of source %s send", id, d.Source)
	}
	events, err := src.Parse(d.Header, d.Body)
	if err != nil {
		return d, nil, deny(http.StatusConflict, "source %s does not understand delivery %d any more: %v", d.Source, id, err)
	}
	return d, events, nil
}

// recordedEvent gives an event as it was understood when it arrived.
func (s *Server) recordedEvent(ctx context.Context, id int64) (trigger.Delivery, []trigger.Event, error) {
	e, err := s.event(ctx, id)
	return trigger.Delivery{Source: e.Source, ReceivedAt: e.ReceivedAt}, []trigger.Event{e.Event}, err
}

// again makes a new delivery of a recorded one. What its sender says stays, so
// that what was done is known again. An event that told no time happened when
// it first arrived: a replay makes no push newer.
func again(d trigger.Delivery, events []trigger.Event) (trigger.Delivery, []trigger.Event) {
	for i := range events {
		if events[i].OccurredAt.IsZero() {
			events[i].OccurredAt = d.ReceivedAt
		}
	}
	header := map[string][]string{}
	maps.Copy(header, d.Header)
	d.Header, d.ReceivedAt = header, time.Now()
	return d, events
}

// replayed tells what became of an event, or would.
func (s *Server) replayed(ctx context.Context, p trigger.Planned, accepted trigger.ReceiptEvent, fired bool) (ReplayedEvent, error) {
	e := ReplayedEvent{Action: p.Event.Action, Image: p.Event.Image.Pinned(), Ignored: p.Reason}
	if fired {
		e.Event = strconv.FormatInt(accepted.ID, 10)
	}
	for i, a := range accepted.Runs {
		run := p.Runs[i]
		r := ReplayedRun{Rule: run.Rule, Index: run.Index, Kind: run.Kind, Target: run.Target, New: a.New, Reason: a.Reason}
		if a.ID != 0 && (fired || !a.New) {
			r.Run = strconv.FormatInt(a.ID, 10)
		}
		if a.ID != 0 && !a.New {
			before, _, _, err := s.Store.Run(ctx, a.ID)
			if err != nil {
				return e, err
			}
			r.State = string(before.State)
		}
		e.Runs = append(e.Runs, r)
	}
	return e, nil
}
