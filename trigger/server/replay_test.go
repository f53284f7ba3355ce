package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

func (s *station) replay(path, body string) ReplayView {
	s.t.Helper()
	code, text := s.change(path+"/replay", body, "hunter2")
	var v ReplayView
	if err := json.Unmarshal([]byte(text), &v); err != nil || code != http.StatusOK {
		s.t.Fatalf("%s: %d %s", path, code, text)
	}
	return v
}

// told sums up what a replay says.
func (v ReplayView) told() string {
	var events []string
	for _, e := range v.Events {
		words := []string{e.Image, e.Ignored}
		for _, r := range e.Runs {
			words = append(words, r.Rule, map[bool]string{true: "new", false: "stands"}[r.New], r.Run, r.State)
		}
		events = append(events, strings.Join(strings.Fields(strings.Join(words, " ")), " "))
	}
	return strings.Join(events, "; ")
}

func (s *station) count() (events, runs int) {
	return len(get[EventPage](s.t, s, "/api/v1/events").Events), len(get[RunPage](s.t, s, "/api/v1/runs").Runs)
}

// What was done for a push is not done again, a rehearsal keeps nothing, and
// fire does what the rehearsal said.
func TestReplay(t *testing.T) {
	s := fill(t)
	s.token = secretly("hunter2")
	s.use(s.store)
	for path, want := range map[string]string{
		"deliveries/1": "docker.io/shop/web:v1 web stands 1 succeeded",
		"deliveries/2": "docker.io/shop/two:v1 web stands 2 waiting second stands 3 waiting",
		"deliveries/3": "docker.io/other/web:v1 no rule is for the repository docker.io/other/web",
		"events/1":     "docker.io/shop/web:v1 web stands 1 succeeded",
	} {
		v := s.replay(path, by)
		if got := v.told(); got != want || v.Delivery != "" || v.Events[0].Event != "" {
			t.Errorf("%s: %s, %+v; want %s", path, got, v, want)
		}
	}
	if events, runs := s.count(); events != 5 || runs != 5 {
		t.Errorf("a rehearsal left %d events and %d runs", events, runs)
	}
	if v := s.replay("events/1", `{"by": "anna", "fire": true}`); v.told() != "docker.io/shop/web:v1 web stands 1 succeeded" || v.Of != "event 1" || v.Delivery != "6" || v.Events[0].Event != "6" {
		t.Errorf("%+v", v)
	}
	if events, runs := s.count(); events != 6 || runs != 5 {
		t.Errorf("there are %d events and %d runs", events, runs)
	}
	if text := s.log.String(); !strings.Contains(text, `msg=replayed of="event 1" delivery=6 by=anna force=false`) {
		t.Error(text)
	}
}

// The rules of today decide: a push that none wanted can be replayed when one
// does.
func TestReplayOfWhatNoRuleWanted(t *testing.T) {
	s := fill(t)
	s.token = secretly("hunter2")
	s.match = func(e trigger.Event, now time.Time) ([]trigger.Run, string) {
		e.Repository = "shop/web"
		return match(e, now)
	}
	s.use(s.store)
	for path, image := range map[string]string{"deliveries/3": "docker.io/other/web:v1", "events/3": "docker.io/other/web:v1"} {
		if got := s.replay(path, by).told(); got != image+" web new" {
			t.Errorf("%s: %s", path, got)
		}
	}
	if v := s.replay("deliveries/3", `{"by": "anna", "fire": true}`); v.told() != "docker.io/other/web:v1 web new 6" || v.Delivery != "6" {
		t.Errorf("%+v", v)
	}
	d := get[DeliveryView](t, s, "/api/v1/deliveries/6")
	if d.Body != hubPush("other/web", "v1") || fmt.Sprint(d.Header["Dockbell-Replay-Of"], d.Header["Dockbell-Replayed-By"]) != "[delivery 3] [anna]" {
		t.Errorf("%+v", d)
	}
	// The event keeps the sender's time, so it is known again.
	e := get[EventView](t, s, "/api/v1/events/6")
	if first := get[EventView](t, s, "/api/v1/events/3"); !e.OccurredAt.Equal(first.OccurredAt) || !e.ReceivedAt.After(first.ReceivedAt) {
		t.Errorf("%+v", e)
	}
	if got := s.replay("deliveries/6", by).told(); got != "docker.io/other/web:v1 web stands 6 waiting" {
		t.Errorf("the replay of a replay: %s", got)
	}
	if got := s.replay("events/3", by).told(); got != "docker.io/other/web:v1 web stands 6 waiting" {
		t.Errorf("the event after its delivery: %s", got)
	}
}

func TestReplayByForce(t *testing.T) {
	s := fill(t)
	s.token = secretly("hunter2")
	s.use(s.store)
	if got := s.replay("events/1", `{"by": "anna", "force": true}`).told(); got != "docker.io/shop/web:v1 web new" {
		t.Errorf("rehearsed: %s", got)
	}
	if got := s.replay("events/1", `{"by": "anna", "fire": true, "force": true}`).told(); got != "docker.io/shop/web:v1 web new 6" {
		t.Errorf("fired: %s", got)
	}
}

// A push that told no time happened when it first arrived: it must not become
// the newest by being replayed.
func TestReplayMakesNothingNewer(t *testing.T) {
	received := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	told := received.Add(-time.Hour)
	_, events := again(trigger.Delivery{ReceivedAt: received}, []trigger.Event{{}, {OccurredAt: told}})
	if !events[0].OccurredAt.Equal(received) || !events[1].OccurredAt.Equal(told) {
		t.Errorf("%v, %v", events[0].OccurredAt, events[1].OccurredAt)
	}
}

func TestReplayOfWhatIsIgnored(t *testing.T) {
	s := fill(t)
	s.token = secretly("hunter2")
	s.use(s.store)
	s.post("/hooks/registry", envelope(registryEvent("a", "pull", "shop/web", "v1"), registryEvent("b", "push", "shop/web", "v8")), "Authorization", bearer)
	s.post("/hooks/registry", envelope(), "Authorization", bearer)
	if got, want := s.replay("deliveries/6", by).told(), "registry.example.com/shop/web:v8@"+webDigest+" web stands 6 waiting; shop/web:v1 pull"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if v := s.replay("deliveries/7", by); len(v.Events) != 0 || v.Of != "delivery 7" {
		t.Errorf("%+v", v)
	}
}

func TestReplayRefused(t *testing.T) {
	s := fill(t)
	s.token = secretly("hunter2")
	s.use(s.store)
	s.post("/hooks/several", gridPush("shop/web"))                                                             // 6
	s.post("/hooks/several?token="+token, hubPush("shop/web", "v4"))                                           // 7
	s.post("/hooks/registry", envelope(registryEvent("a", "push", "shop/web", "v9")), "Authorization", bearer) // 8
	if v := s.replay("events/1", `{"by": "anna", "fire": true}`); v.Delivery != "9" {
		t.Fatalf("%+v", v)
	}
	s.sources = "open: {type: quay, auth: none}\nseveral: {type: auto, senders: {github: {auth: none}}}\n"
	s.use(s.store)
	for path, want := range map[string]string{
		"deliveries/99": "404 there is no delivery 99, or it is not kept any more: keep.deliveries says for how long",
		"events/99":     "404 there is no event 99, or it is not kept any more",
		"deliveries/x":  "400 the id of what is replayed is a number",
		"deliveries/1":  "409 source open does not understand delivery 1 any more: ",
		"deliveries/6":  "409 delivery 6 looks like nothing that the senders of source several send",
		"deliveries/8":  "409 source registry of delivery 8 is not in the configuration any more, or polls: its events can be replayed one by one",
		"deliveries/9":  "409 delivery 9 is a replay itself: replay event 1",
	} {
		code, text := s.change(path+"/replay", by, "hunter2")
		var answer struct{ Error string }
		if err := json.Unmarshal([]byte(text), &answer); err != nil || !strings.HasPrefix(fmt.Sprint(code, " ", answer.Error), want) {
			t.Errorf("%s: %d %s, want %s", path, code, text, want)
		}
	}
	// Its event can be.
	if got := s.replay("events/8", by).told(); got != "registry.example.com/shop/web:v9@"+webDigest+" web stands 8 waiting" {
		t.Error(got)
	}
}

// No sender can make a delivery look like a replay.
func TestNobodyElseSaysReplay(t *testing.T) {
	s := newStation(t)
	s.post("/hooks/open", hubPush("shop/web", "v1"), replayOf, "event 7", replayedBy, "anna", "X-Other", "kept")
	d := get[DeliveryView](t, s, "/api/v1/deliveries/1")
	if d.Header[replayOf] != nil || d.Header[replayedBy] != nil || fmt.Sprint(d.Header["X-Other"]) != "[kept]" {
		t.Errorf("%v", d.Header)
	}
}
