package server

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/source"
)

// deliveryReply is what a sender, and whoever reads its log, is told. The
// parts of a name that the sender did not tell are null.
type deliveryReply struct {
	Delivery string         `json:"delivery"`
	Events   []eventReply   `json:"events"`
	Ignored  []ignoredReply `json:"ignored,omitempty"`
}

type eventReply struct {
	Event      string   `json:"event"`
	Registry   *string  `json:"registry"`
	Repository *string  `json:"repository"`
	Tag        *string  `json:"tag"`
	Digest     *string  `json:"digest"`
	Action     string   `json:"action"`
	Runs       []string `json:"runs"`
	Ignored    string   `json:"ignored,omitempty"`
	Reason     string   `json:"reason,omitempty"` // why a run waits, or has ended already
}

type ignoredReply struct {
	Reason     string `json:"reason"`
	Repository string `json:"repository,omitempty"`
	Tag        string `json:"tag,omitempty"`
}

// Verdicts on deliveries, as the metric counts them.
const (
	verdictAccepted     = "accepted"  // runs were made
	verdictIgnored      = "ignored"   // understood, nothing to do
	verdictHandshake    = "handshake" // the sender checked the endpoint
	verdictUnauthorized = "unauthorized"
	verdictMalformed    = "malformed"
	verdictUnavailable  = "unavailable" // the store could not write
	verdictUnknown      = "unknown source"
)

// verdicts are those that each source can get, and polled those of what a
// poller finds.
var (
	verdicts = []string{verdictAccepted, verdictIgnored, verdictHandshake, verdictUnauthorized, verdictMalformed, verdictUnavailable}
	polled   = []string{verdictAccepted, verdictIgnored}
)

// expect makes the counters of deliveries to come: one that begins with its
// first count hides that from who asks how much it has grown.
func (s *Server) expect() {
	s.deliveries.WithLabelValues("", verdictUnknown)
	for name := range s.Sources {
		for _, verdict := range verdicts {
			s.deliveries.WithLabelValues(name, verdict)
		}
	}
	for _, name := range s.Pollers {
		for _, verdict := range polled {
			s.deliveries.WithLabelValues(name, verdict)
		}
	}
}

// deliver is the way of a delivery: 202 when runs were made, 200 when not. The order matters: nothing is parsed that
// was not authenticated, nothing is acknowledged that is not on disk.
func (s *Server) deliver(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	name := mux.Vars(r)["source"]
	configured, ok := s.Sources[name]
	if !ok {
		s.refuse(w, r, "", verdictUnknown, http.StatusNotFound, "there is no such source in the configuration")
		return
	}
	if r.Method == http.MethodGet {
		if !configured.TakesGet() || !r.URL.Query().Has("payload") {
			s.onlyPost(w, r, name)
			return
		}
		fromQuery(r)
	}
	if s.NotYet != "" {
		s.unavailable(w, name, s.NotYet)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), acceptTimeout)
	defer cancel()
	req := s.request(r)
	if err := configured.Admit(ctx, req); err != nil {
		s.unauthorized(w, r, name, err)
		return
	}
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
	default:
		s.logUnavailable("too many deliveries at once", name, "most", mostReading)
		s.unavailable(w, name, "too many deliveries are being received")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.MaxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		s.refuse(w, r, name, verdictMalformed, http.StatusRequestEntityTooLarge, "the body is larger than "+strconv.FormatInt(s.MaxBody, 10)+" bytes; server.maxBody allows more")
		return
	}
	if err != nil {
		s.refuse(w, r, name, verdictMalformed, http.StatusBadRequest, "the body could not be read to its end")
		return
	}
	req.Body = body
	src, err := configured.Verify(ctx, req)
	if err != nil {
		s.unauthorized(w, r, name, err)
		return
	}
	if r.Method == http.MethodGet && !src.TakesGet() {
		s.onlyPost(w, r, name)
		return
	}
	if h := src.Handshake(r.Header, body); h != nil {
		s.handshake(ctx, w, src, req, h)
		return
	}
	events, err := src.Parse(r.Header, body)
	if err != nil {
		s.refuse(w, r, name, verdictMalformed, http.StatusBadRequest, err.Error())
		return
	}
	d := trigger.Delivery{Source: name, ReceivedAt: began, Header: recorded(r.Header, src.Hidden()), Body: body}
	out, verdict, err := s.accept(ctx, d, events)
	if err != nil {
		s.logUnavailable("delivery not accepted: the store cannot write", name, "error", err)
		s.unavailable(w, name, "the store cannot write now")
		return
	}
	s.took.Observe(time.Since(began).Seconds())
	status := http.StatusOK
	if verdict == verdictAccepted {
		status = http.StatusAccepted
	}
	reply(w, status, out)
}

// Polled accepts what a poller found as a delivery. It returns when that is on
// disk.
func (s *Server) Polled(ctx context.Context, name string, body []byte, events []trigger.Event) error {
	if s.NotYet != "" {
		return errors.New(s.NotYet)
	}
	_, _, err := s.accept(ctx, trigger.Delivery{Source: name, ReceivedAt: time.Now(), Body: body}, events)
	return err
}

// accept puts a delivery on disk with the runs that the rules make of it.
func (s *Server) accept(ctx context.Context, d trigger.Delivery, events []trigger.Event) (out deliveryReply, verdict string, err error) {
	planned, ignored := s.plan(events, d.ReceivedAt)
	receipt, err := s.Store.Accept(ctx, d, planned)
	if err != nil {
		return out, verdictUnavailable, err
	}
	out, verdict = s.acknowledge(d.Source, receipt, planned, ignored)
	return out, verdict, nil
}

// unauthorized answers a request whose credentials are wrong, or cannot be
// checked now. What exactly was wrong is for the log.
func (s *Server) unauthorized(w http.ResponseWriter, r *http.Request, name string, err error) {
	if !errors.Is(err, source.ErrUnauthorized) {
		s.logUnavailable("cannot check the credentials of a delivery", name, "error", err)
		s.unavailable(w, name, "the credentials of this source cannot be checked now")
		return
	}
	s.deliveries.WithLabelValues(name, verdictUnauthorized).Inc()
	s.logRefusal(r, name, http.StatusUnauthorized, err)
	fail(w, http.StatusUnauthorized, "wrong or missing credentials for source "+name)
}

func (s *Server) onlyPost(w http.ResponseWriter, r *http.Request, name string) {
	w.Header().Set("Allow", http.MethodPost)
	s.refuse(w, r, name, verdictMalformed, http.StatusMethodNotAllowed, "this source takes POST only")
}

// fromQuery makes the payload in a query what a POST would have had for its
// body.
func fromQuery(r *http.Request) {
	query := r.URL.Query()
	r.Body = io.NopCloser(strings.NewReader(query.Get("payload")))
	r.Header.Set("Content-Type", "application/json")
	query.Del("payload")
	r.URL.RawQuery = query.Encode()
}

// request is a delivery with all by which its sender can be known, but for the
// body.
func (s *Server) request(r *http.Request) source.Request {
	req := source.Request{Query: r.URL.Query(), Header: r.Header, From: sender(r, s.TrustedProxies)}
	if r.TLS != nil {
		req.Certificates = r.TLS.PeerCertificates
	}
	return req
}

// handshake answers the vendor's check of the endpoint.
func (s *Server) handshake(ctx context.Context, w http.ResponseWriter, src *source.Source, req source.Request, h *source.Reply) {
	err := src.Confirm(ctx, req, h)
	switch {
	case errors.Is(err, source.ErrUnproven):
		s.refusals.add(slog.LevelWarn, cause{"endpoint not confirmed", src.Name, http.StatusOK}, "reason", err, "address", h.Confirm)
		s.deliveries.WithLabelValues(src.Name, verdictIgnored).Inc()
		reply(w, http.StatusOK, deliveryReply{Events: []eventReply{}, Ignored: []ignoredReply{{Reason: err.Error()}}})
	case err != nil:
		s.logUnavailable("endpoint not confirmed", src.Name, "error", err)
		s.unavailable(w, src.Name, "the address that confirms the endpoint cannot be visited now")
	default:
		s.Log.Info("endpoint validated by its sender", "source", src.Name)
		s.deliveries.WithLabelValues(src.Name, verdictHandshake).Inc()
		answer(w, h)
	}
}

// plan asks the rules about each event. Deletes that no rule wants are
// ignored like everything else that is no push.
func (s *Server) plan(events []trigger.Event, now time.Time) (planned []trigger.Planned, ignored []ignoredReply) {
	for _, e := range events {
		e.ReceivedAt = now
		if e.Ignored == "" {
			runs, reason := s.Match(e, now)
			if len(runs) > 0 || e.Action == trigger.Push {
				planned = append(planned, trigger.Planned{Event: e, Runs: runs, Reason: reason})
				continue
			}
			e.Ignored = e.Action
		}
		ignored = append(ignored, ignoredReply{Reason: e.Ignored, Repository: e.Repository, Tag: e.Tag})
	}
	return planned, ignored
}

// acknowledge tells what is on disk.
func (s *Server) acknowledge(name string, receipt trigger.Receipt, planned []trigger.Planned, ignored []ignoredReply) (out deliveryReply, verdict string) {
	out = deliveryReply{Delivery: strconv.FormatInt(receipt.Delivery, 10), Events: []eventReply{}, Ignored: ignored}
	verdict = verdictIgnored
	for i, p := range planned {
		accepted := receipt.Events[i]
		er := eventReply{
			Event: strconv.FormatInt(accepted.ID, 10), Registry: told(p.Event.Registry), Repository: told(p.Event.Repository),
			Tag: told(p.Event.Tag), Digest: told(p.Event.Digest), Action: p.Event.Action, Runs: []string{}, Ignored: p.Reason,
		}
		for _, a := range accepted.Runs {
			if a.New {
				er.Runs = append(er.Runs, strconv.FormatInt(a.ID, 10))
			}
			er.Reason = cmp.Or(er.Reason, a.Reason)
		}
		level := slog.LevelDebug
		if len(accepted.Runs) > 0 {
			level = slog.LevelInfo // rules matched: what became of it is news
		}
		if len(er.Runs) == 0 {
			er.Ignored, er.Reason = cmp.Or(er.Ignored, er.Reason), ""
		} else {
			verdict, er.Ignored = verdictAccepted, ""
		}
		s.Log.Log(context.Background(), level, "event", "source", name, "delivery", receipt.Delivery, "event", accepted.ID, "image", p.Event.Image.String(), "action", p.Event.Action, "runs", er.Runs, "ignored", er.Ignored, "reason", er.Reason)
		out.Events = append(out.Events, er)
	}
	s.deliveries.WithLabelValues(name, verdict).Inc()
	return out, verdict
}

// options answers a handshake that carries no credentials, for the senders
// that make one.
func (s *Server) options(w http.ResponseWriter, r *http.Request) {
	name := mux.Vars(r)["source"]
	src, ok := s.Sources[name]
	if !ok {
		s.refuse(w, r, "", verdictUnknown, http.StatusNotFound, "there is no such source in the configuration")
		return
	}
	h := src.Options(r.Header)
	if h == nil {
		s.onlyPost(w, r, name)
		return
	}
	s.deliveries.WithLabelValues(name, verdictHandshake).Inc()
	answer(w, h)
}

func answer(w http.ResponseWriter, h *source.Reply) {
	for key, values := range h.Header {
		w.Header()[key] = values
	}
	w.WriteHeader(h.Status)
	_, _ = w.Write(h.Body) // an error here means that the client has gone
}

func (s *Server) refuse(w http.ResponseWriter, r *http.Request, source, verdict string, status int, why string) {
	s.deliveries.WithLabelValues(source, verdict).Inc()
	s.logRefusal(r, source, status, why)
	fail(w, status, why)
}

func (s *Server) logRefusal(r *http.Request, source string, status int, why any) {
	s.refusals.add(slog.LevelWarn, cause{"delivery refused", source, status}, "reason", why, "from", sender(r, s.TrustedProxies))
}

// logUnavailable is for what is no fault of the sender, who will send it again.
func (s *Server) logUnavailable(what, source string, args ...any) {
	s.refusals.add(slog.LevelError, cause{what + "; the sender is told to come back", source, http.StatusServiceUnavailable}, args...)
}

func (s *Server) unavailable(w http.ResponseWriter, source, why string) {
	s.deliveries.WithLabelValues(source, verdictUnavailable).Inc()
	w.Header().Set("Retry-After", retryAfter)
	fail(w, http.StatusServiceUnavailable, why+"; this delivery is not acknowledged, send it again")
}

// secretWords mark headers that by their name carry a secret. Proxies and
// clients repeat the URL with its query in the referer, and in what ends in url.
var secretWords = []string{"auth", "token", "secret", "signature", "password", "credential", "cookie", "key", "assertion", "referer"}

// tellsSecret reports whether a header may hold a secret, by its name.
func tellsSecret(header string) bool {
	name := strings.ToLower(header)
	return slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(name, word) }) ||
		strings.HasSuffix(name, "url") || strings.HasSuffix(name, "uri")
}

// recorded is what is kept of the headers: none that carries a secret, and none
// that says what only dockbell says.
func recorded(h http.Header, hidden []string) http.Header {
	kept := make(http.Header, len(h))
	for name, values := range h {
		if !tellsSecret(name) && name != replayOf && name != replayedBy {
			kept[name] = values
		}
	}
	for _, name := range hidden {
		kept.Del(name)
	}
	return kept
}

// told is nil for what the sender did not tell.
func told(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
