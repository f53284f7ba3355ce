package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

// stopping is the key under which the context of a request has the channel that
// is closed when the server stops. The context itself goes on then, for
// requests that are in the middle.
type stopping struct{}

// stream is an answer that goes on: server-sent events, as browsers read them.
// https://html.spec.whatwg.org/multipage/server-sent-events.html
type stream struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	gone <-chan struct{} // the reader
	stop <-chan struct{} // the server
	look *time.Ticker    // when to see what has changed
	beat *time.Ticker
}

// watch makes a handler of a function that sends events until there are no
// more, the reader has gone or the server stops. Prepare says what is wrong
// with a request before anything is sent.
func (s *Server) watch(prepare func(r *http.Request) (follow func(context.Context, *stream) error, err error)) http.HandlerFunc {
	return s.api(func(w http.ResponseWriter, r *http.Request) error {
		select {
		case s.watching <- struct{}{}:
			defer func() { <-s.watching }()
		default:
			return deny(http.StatusServiceUnavailable, "%d are watching already, as many as may; try again later", mostWatching)
		}
		follow, err := prepare(r)
		if err != nil {
			return err
		}
		st, err := newStream(w, r)
		if err != nil {
			return err
		}
		defer st.look.Stop()
		defer st.beat.Stop()
		if err := follow(r.Context(), st); errors.Is(err, os.ErrDeadlineExceeded) {
			s.Log.Info("cut off who watches and does not read", "path", r.URL.Path, "from", r.RemoteAddr)
		} // any other error means that the reader has gone
		return nil
	})
}

func newStream(w http.ResponseWriter, r *http.Request) (*stream, error) {
	stop, _ := r.Context().Value(stopping{}).(<-chan struct{})
	st := &stream{w: w, rc: http.NewResponseController(w), gone: r.Context().Done(), stop: stop}
	// It is as long as it is; what bounds it is how long a reader takes.
	if err := st.rc.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // of nginx
	st.look, st.beat = time.NewTicker(lookEvery), time.NewTicker(heartbeat)
	return st, st.write(": dockbell\n\n")
}

// send sends an event. Its id is what a reader that comes back gives as
// Last-Event-ID; "" when it is no place to go on from.
func (st *stream) send(event, id string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	if id != "" {
		id = "id: " + id + "\n"
	}
	return st.write(fmt.Sprintf("%sevent: %s\ndata: %s\n\n", id, event, text))
}

func (st *stream) write(text string) error {
	if err := st.rc.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	if _, err := st.w.Write([]byte(text)); err != nil {
		return err
	}
	return st.rc.Flush()
}

// wait waits until more is closed, or it is time to look at the store again.
// It reports whether to go on, and which of the two it was.
func (st *stream) wait(more <-chan struct{}) (look, goOn bool, err error) {
	for {
		select {
		case <-st.gone:
			return false, false, nil
		case <-st.stop:
			return false, false, st.send("stop", "", map[string]string{"reason": "dockbell stops; come back with the id of the last event"})
		case <-st.beat.C:
			if err := st.write(": nothing new\n\n"); err != nil {
				return false, false, err
			}
		case <-st.look.C:
			return true, true, nil
		case <-more:
			return false, true, nil
		}
	}
}
