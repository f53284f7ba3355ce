package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// Output is what a try of a run is writing.
type Output interface {
	// Since gives what was written after the first n bytes and how much has
	// been written by then. More is closed when there may be more, and nil when
	// there never will be.
	Since(n int) (text string, next int, more <-chan struct{})
}

// Missed says how many changes a reader has not been told of; 0 when nobody
// knows.
type Missed struct {
	Changes int64 `json:"changes,omitzero"`
}

// Written is a piece of what a try of a run wrote.
type Written struct {
	Try  int    `json:"try"`
	Text string `json:"text"`
}

// Told is a chapter of the story of a run. Log is what its try wrote, unless
// that was sent while it was written.
type Told struct {
	Chapter
	Log string `json:"log,omitempty"`
}

// watchAll follows all runs: an event "run" for each [Change].
func (s *Server) watchAll(r *http.Request) (func(context.Context, *stream) error, error) {
	q := newQuery(r)
	rule, repo := q.text("rule"), q.text("repo")
	if err := q.check(); err != nil {
		return nil, err
	}
	at, err := s.changes.end(r.Context(), time.Now())
	if err != nil {
		return nil, err
	}
	var last position
	back, _ := fmt.Sscanf(r.Header.Get("Last-Event-ID"), "%d.%d", &last.life, &last.n)
	lost := back == 2 && !s.changes.knows(last) // a restart came between, or another replica answers
	if back == 2 && !lost {
		at = last
	}
	return func(ctx context.Context, st *stream) error {
		for goOn := true; goOn; {
			list, missed, next, err := s.changes.after(ctx, at, time.Now())
			if err != nil {
				s.Log.Debug("a watcher sees nothing new: the store cannot be read", "error", err)
			}
			if lost || missed > 0 {
				if err := st.send("missed", "", Missed{missed}); err != nil {
					return err
				}
				lost = false
			}
			for _, c := range list {
				if rule != "" && c.Rule != rule || repo != "" && c.Event.Repository != repo {
					continue
				}
				if err := st.send("run", fmt.Sprintf("%d.%d", next.life, c.n+1), c.Change); err != nil {
					return err
				}
			}
			at = next
			if _, goOn, err = st.wait(nil); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// watchRun follows one run to its end: an event "run" for each state of it,
// "chapter" for each [Told] part of its story, "output" for what is [Written]
// meanwhile, and "end" with the run as it ended.
func (s *Server) watchRun(r *http.Request) (func(context.Context, *stream) error, error) {
	id, err := pathID(r, "a run")
	if err != nil {
		return nil, err
	}
	q := newQuery(r)
	if err := q.check(); err != nil {
		return nil, err
	}
	if _, ok, err := oneRun(r.Context(), s.Store, id); err != nil {
		return nil, err
	} else if !ok {
		return nil, deny(http.StatusNotFound, "there is no run %d", id)
	}
	w := &runWatch{s: s, id: id, told: map[int64][]string{}, live: map[int]bool{}}
	w.comeBack(r.Header.Get("Last-Event-ID"))
	return w.follow, nil
}

// runWatch is one who watches a run.
type runWatch struct {
	s  *Server
	st *stream
	id int64

	shown trigger.Run        // as it was last sent
	told  map[int64][]string // the chapters that were sent, by their time
	last  int64              // of those times
	upTo  int64              // the last of them when the reader went away

	out  Output       // of the try that is followed; nil for none
	try  int          // the one that is followed, or was last
	at   int          // how much of what it wrote was sent
	live map[int]bool // tries that were followed
	away int          // looks that found the run running, and not here
}

// lastID is where a reader may come back to.
func (w *runWatch) lastID() string { return fmt.Sprintf("%d.%d.%d", w.last, w.try, w.at) }

// comeBack goes on behind the event with an id, if it is one.
func (w *runWatch) comeBack(id string) {
	var last int64
	var try, at int
	if n, _ := fmt.Sscanf(id, "%d.%d.%d", &last, &try, &at); n == 3 {
		w.upTo, w.last, w.try, w.at = last, last, try, at
	}
}

func (w *runWatch) follow(ctx context.Context, st *stream) error {
	w.st = st
	for {
		if over, err := w.look(ctx); over || err != nil {
			return err
		}
		if goOn, err := w.listen(); !goOn || err != nil {
			return err
		}
	}
}

// listen sends what is written until it is time for another look, and reports
// whether to go on.
func (w *runWatch) listen() (goOn bool, err error) {
	for {
		followed := w.out != nil
		more, err := w.sendOutput()
		if err != nil {
			return false, err
		}
		if followed && w.out == nil {
			return true, nil // the try has ended, and the store knows how
		}
		look, goOn, err := w.st.wait(more)
		if look || !goOn || err != nil {
			return goOn, err
		}
		time.Sleep(gather)
	}
}

// look sends what has happened since the last look, and reports whether there
// is nothing more to come.
func (w *runWatch) look(ctx context.Context) (over bool, err error) {
	run, ok, err := oneRun(ctx, w.s.Store, w.id)
	if err != nil {
		w.s.Log.Debug("a watcher sees nothing new: the store cannot be read", "run", w.id, "error", err)
		return false, nil
	}
	if !ok {
		return true, nil // forgotten meanwhile
	}
	if w.shown.ID == 0 || !run.NotBefore.Equal(w.shown.NotBefore) || len(between(w.shown, run, time.Time{})) > 0 {
		if err := w.show(ctx); err != nil || w.shown.State.Ended() {
			return true, err
		}
	}
	return false, w.findOutput(run)
}

// show sends how the run stands and what is new in its story.
func (w *runWatch) show(ctx context.Context) error {
	run, tries, ok, err := w.s.Store.Run(ctx, w.id)
	if err != nil || !ok {
		return nil // the next look finds out
	}
	notes, err := w.s.Store.Notes(ctx, w.id)
	if err != nil {
		return nil
	}
	// What was written comes before what became of it.
	if _, err := w.sendOutput(); err != nil {
		return err
	}
	if err := w.st.send("run", "", viewRun(run)); err != nil {
		return err
	}
	news := slices.DeleteFunc(story(run, tries, notes), w.knows)
	for i, c := range news {
		w.told[c.At.UnixNano()] = append(w.told[c.At.UnixNano()], c.Text)
		w.last = max(w.last, c.At.UnixNano())
		id := "" // what happened together is told together
		if i == len(news)-1 {
			id = w.lastID()
		}
		if err := w.st.send("chapter", id, Told{c, w.unseen(c.Try, tries)}); err != nil {
			return err
		}
	}
	if w.shown = run; run.State.Ended() {
		return w.st.send("end", "", viewRun(run))
	}
	return nil
}

// findOutput makes what the run writes be followed, if that is done here.
func (w *runWatch) findOutput(run trigger.Run) error {
	if run.State != trigger.Running || w.out != nil || w.s.Output == nil {
		return nil
	}
	if w.out = w.s.Output(run.ID, run.Attempt); w.out != nil {
		if w.try != run.Attempt {
			w.try, w.at = run.Attempt, 0
		}
		w.live[w.try], w.away = true, 0
		return nil
	}
	if w.away++; w.away == 2 { // once may be the moment in which it begins or ends
		return w.st.send("elsewhere", "", map[string]string{"reason": "another dockbell carries it out; what it writes is shown when the try has ended"})
	}
	return nil
}

// sendOutput sends what was written since the last time, if a try is followed.
// At its end it is not, any more; else more is closed when there is more.
func (w *runWatch) sendOutput() (more <-chan struct{}, err error) {
	if w.out == nil {
		return nil, nil
	}
	text, next, more := w.out.Since(w.at)
	if w.at = next; text != "" {
		err = w.st.send("output", w.lastID(), Written{w.try, text})
	}
	if more == nil {
		w.out = nil
	}
	return more, err
}

// knows reports whether a part of the story was sent. Some are told again with
// less, when what they waited for is over.
func (w *runWatch) knows(c Chapter) bool {
	at := c.At.UnixNano()
	return at <= w.upTo || slices.ContainsFunc(w.told[at], func(text string) bool { return strings.HasPrefix(text, c.Text) })
}

// unseen is what a try wrote, unless it was sent while it was written.
func (w *runWatch) unseen(try int, tries []trigger.Attempt) string {
	i := slices.IndexFunc(tries, func(a trigger.Attempt) bool { return a.N == try })
	if i < 0 || w.live[try] {
		return ""
	}
	return tries[i].Log
}
