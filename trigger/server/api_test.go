package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/source"
)

// fill sends five deliveries: five events, five runs, of which the newest has
// failed once and the first succeeded.
func fill(t *testing.T) *station {
	s := newStation(t)
	for _, body := range []string{hubPush("shop/web", "v1"), hubPush("shop/two", "v1"), hubPush("other/web", "v1"), hubPush("shop/web", "v2"), hubPush("shop/web", "v3")} {
		if w := s.post("/hooks/open", body); w.Code/100 != 2 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	runs, _, err := s.store.Claim(t.Context(), time.Now().Add(time.Minute), func() int { return 1 })
	if err != nil || len(runs) != 1 || runs[0].ID != 1 {
		t.Fatalf("claimed %v, %v", runs, err)
	}
	if _, err := s.store.Finish(t.Context(), runs[0], trigger.Result{State: trigger.Succeeded, At: time.Now(), Log: "it went well"}); err != nil {
		t.Fatal(err)
	}
	return s
}

func get[T any](t testing.TB, s *station, target string) T {
	t.Helper()
	var v T
	w := s.get(target)
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", target, w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%s: %v: %s", target, err, w.Body)
	}
	return v
}

func runIDs(p RunPage) (ids []int64) {
	for _, r := range p.Runs {
		ids = append(ids, r.ID)
	}
	return ids
}

func eventIDs(p EventPage) (ids []int64) {
	for _, e := range p.Events {
		ids = append(ids, e.EventRecord.ID)
	}
	return ids
}

func TestRunFilters(t *testing.T) {
	s := fill(t)
	for query, want := range map[string]string{
		"":                                      "[5 4 3 2 1]",
		"?state=waiting":                        "[5 4 3 2]",
		"?state=succeeded":                      "[1]",
		"?state=failed":                         "[]",
		"?state=rejected":                       "[]",
		"?state=expired":                        "[]",
		"?state=rolled-back":                    "[]",
		"?rule=second":                          "[3]",
		"?rule=web":                             "[5 4 2 1]",
		"?rule=we":                              "[]",
		"?repo=shop/two":                        "[3 2]",
		"?repo=shop%2Fweb":                      "[5 4 1]",
		"?event=2":                              "[3 2]",
		"?event=99":                             "[]",
		"?before=3":                             "[2 1]",
		"?limit=2":                              "[5 4]",
		"?limit=1&before=4&repo=shop/web":       "[1]",
		"?repo=shop/web&state=waiting&rule=web": "[5 4]",
	} {
		if got := fmt.Sprint(runIDs(get[RunPage](t, s, "/api/v1/runs"+query))); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	for query, want := range map[string]string{"": "[5 4 3 2 1]", "?repo=other/web": "[3]", "?limit=2&before=4": "[3 2]"} {
		if got := fmt.Sprint(eventIDs(get[EventPage](t, s, "/api/v1/events"+query))); got != want {
			t.Errorf("events %s: %s, want %s", query, got, want)
		}
	}
}

// A filter that is not understood must not list everything.
func TestParametersRefused(t *testing.T) {
	s := fill(t)
	for target, want := range map[string]string{
		"runs?stat=failed":                `unknown parameter "stat"`,
		"runs?z=1&a=2":                    `unknown parameter "a"`,
		"runs?State=failed":               `unknown parameter "State"`,
		"runs?state=fialed":               `state must be one of waiting, running, succeeded, failed, superseded, skipped, rejected, expired, rolled-back, unknown, not "fialed"`,
		"runs?state=":                     "state must be given once and not be empty",
		"runs?rule=":                      "rule must be given once and not be empty",
		"runs?state=failed&state=waiting": "state must be given once and not be empty",
		"runs?state=failed;limit=1":       "invalid semicolon separator in query",
		"runs?repo=%zz":                   `invalid URL escape "%zz"`,
		"runs?limit=0":                    `limit must be a number from 1 to 1000, not "0"`,
		"runs?limit=1001":                 `limit must be a number from 1 to 1000, not "1001"`,
		"runs?limit=many":                 `limit must be a number from 1 to 1000, not "many"`,
		"runs?before=x":                   `before must be an id, not "x"`,
		"runs?before=-1":                  `before must be an id, not "-1"`,
		"runs?event=0":                    `event must be an id, not "0"`,
		"events?state=failed":             `unknown parameter "state"`,
		"events?limit=-5":                 `limit must be a number from 1 to 1000, not "-5"`,
		"runs/x":                          "the id of a run is a number",
		"events/x":                        "the id of an event is a number",
		"deliveries/x":                    "the id of a delivery is a number",
		"holds?released=yes":              `released must be true or false, not "yes"`,
		"holds?all=true":                  `unknown parameter "all"`,
	} {
		w := s.get("/api/v1/" + target)
		var answer struct{ Error string }
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusBadRequest || answer.Error != want {
			t.Errorf("%s: %d %s, want %s", target, w.Code, w.Body, want)
		}
	}
}

func TestPaging(t *testing.T) {
	s := fill(t)
	for limit := 1; limit <= 6; limit++ {
		var runs, events []int64
		for next := "x"; next != ""; {
			p := get[RunPage](t, s, fmt.Sprintf("/api/v1/runs?limit=%d%s", limit, before(next)))
			if len(p.Runs) == 0 || len(p.Runs) > limit {
				t.Fatalf("limit %d: a page of %d", limit, len(p.Runs))
			}
			runs, next = append(runs, runIDs(p)...), p.Next
		}
		for next := "x"; next != ""; {
			p := get[EventPage](t, s, fmt.Sprintf("/api/v1/events?limit=%d%s", limit, before(next)))
			if len(p.Events) == 0 || len(p.Events) > limit {
				t.Fatalf("limit %d: a page of %d", limit, len(p.Events))
			}
			events, next = append(events, eventIDs(p)...), p.Next
		}
		if want := []int64{5, 4, 3, 2, 1}; !slices.Equal(runs, want) || !slices.Equal(events, want) {
			t.Errorf("limit %d: runs %v, events %v", limit, runs, events)
		}
	}
}

func before(next string) string {
	if next == "x" {
		return ""
	}
	return "&before=" + next
}

func TestEmptyLists(t *testing.T) {
	s := newStation(t)
	for path, want := range map[string]string{"/api/v1/runs": `{"runs":[]}`, "/api/v1/events": `{"events":[]}`, "/api/v1/holds": `{"holds":[]}`} {
		if w := s.get(path); strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("%s: %s", path, w.Body)
		}
	}
}

func TestOneRun(t *testing.T) {
	s := fill(t)
	r := get[RunView](t, s, "/api/v1/runs/1")
	if r.ID != 1 || r.State != trigger.Succeeded || r.Image != "docker.io/shop/web:v1" || r.Timeout != "1m30s" || r.Push == nil || r.Push.Actor != "crane" || string(r.Spec) != `{"to":"a \u0026 b"}` {
		t.Errorf("%+v, %s", r, r.Spec)
	}
	if len(r.Tries) != 1 || r.Tries[0].N != 1 || r.Tries[0].Log != "it went well" || r.Tries[0].State != trigger.Succeeded {
		t.Errorf("tries %+v", r.Tries)
	}
	if r := get[RunView](t, s, "/api/v1/runs/5"); r.State != trigger.Waiting || len(r.Tries) != 0 {
		t.Errorf("%+v", r)
	}
	if w := s.get("/api/v1/runs/99"); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "there is no run 99") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	e := get[EventPage](t, s, "/api/v1/events").Events
	if len(e) != 5 || fmt.Sprint(e[3].Runs) != "[2 3]" || len(e[2].Runs) != 0 || e[2].Reason != "no rule is for the repository docker.io/other/web" || e[0].Delivery != 5 {
		t.Errorf("%+v", e)
	}
}

func TestOneEventAndItsDelivery(t *testing.T) {
	s := fill(t)
	e := get[EventView](t, s, "/api/v1/events/2")
	if e.EventRecord.ID != 2 || e.Repository != "shop/two" || fmt.Sprint(e.Runs) != "[2 3]" || e.EventRecord.Delivery != 2 {
		t.Errorf("%+v", e)
	}
	d := get[DeliveryView](t, s, "/api/v1/deliveries/2")
	if d.ID != 2 || d.Source != "open" || d.ReceivedAt.IsZero() || d.Body != hubPush("shop/two", "v1") || d.Base64 != nil {
		t.Errorf("%+v", d)
	}
	for _, path := range []string{"events/99", "deliveries/99"} {
		if w := s.get("/api/v1/" + path); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "not kept any more") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	s.use(odd{s.store})
	if d := get[DeliveryView](t, s, "/api/v1/deliveries/2"); d.Body != "" || string(d.Base64) != "\xff\x00" {
		t.Errorf("what is no text: %+v", d)
	}
}

// odd is a store of deliveries that are no text.
type odd struct{ Store }

func (odd) Delivery(context.Context, int64) (trigger.Delivery, bool, error) {
	return trigger.Delivery{Body: []byte("\xff\x00")}, true, nil
}

func TestStoreThatCannotBeRead(t *testing.T) {
	s := newStation(t)
	s.use(broken{s.store, errors.New("disk of glass")})
	paths := []string{"runs", "runs/1", "events", "events/1", "deliveries/1", "holds"}
	for _, path := range paths {
		path = "/api/v1/" + path
		if w := s.get(path); w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "glass") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if n := strings.Count(s.log.String(), "disk of glass"); n != len(paths) {
		t.Errorf("logged %d times", n)
	}
}

var labels = regexp.MustCompile(`(?m)^dockbell_deliveries_total\{(.*)\} (\d+)$`)

// Labels come from the configuration and from a closed list of verdicts: what
// strangers send makes no new series.
// What a source can get is counted from 0 on: else the first one is no growth.
func TestMetricsBeginWithZero(t *testing.T) {
	s := newStation(t)
	s.post("/hooks/open", hubPush("shop/web", "v1"))
	open := s.server.Sources["open"]
	after := s.server.With(Settings{Sources: map[string]*source.Source{"open": open, "later": open}, Pollers: []string{"mirror"}})
	text := ask(after.Admin(), "GET", "/metrics", "").Body.String()
	for _, want := range []string{
		`source="",verdict="unknown source"} 0`,
		`source="hub",verdict="accepted"} 0`, `source="hub",verdict="ignored"} 0`, `source="hub",verdict="handshake"} 0`,
		`source="hub",verdict="unauthorized"} 0`, `source="hub",verdict="malformed"} 0`, `source="hub",verdict="unavailable"} 0`,
		`source="open",verdict="accepted"} 1`, `source="later",verdict="unauthorized"} 0`,
		`source="mirror",verdict="accepted"} 0`, `source="mirror",verdict="ignored"} 0`,
	} {
		if !strings.Contains(text, "dockbell_deliveries_total{"+want+"\n") {
			t.Errorf("%s is not in\n%s", want, text)
		}
	}
	if strings.Contains(text, `source="mirror",verdict="unauthorized"`) {
		t.Error("what cannot be is counted")
	}
}

func TestMetricsHaveBoundedLabels(t *testing.T) {
	s := newStation(t)
	for i := range 20 {
		s.post(fmt.Sprintf("/hooks/stranger%d", i), "x")
		s.post(fmt.Sprintf("/hooks/open?x=%d", i), hubPush(fmt.Sprintf("shop/repo%d", i), fmt.Sprintf("tag%d", i)))
		s.post("/hooks/hub?token="+token, fmt.Sprintf("{%d", i))
		s.post("/hooks/hub", "{}")
		s.post("/hooks/open", hubPush(fmt.Sprintf("other/repo%d", i), "v1"))
		s.post("/hooks/grid?token="+token, gridValidation)
	}
	text := s.get("/metrics").Body.String()
	var got []string
	for _, m := range labels.FindAllStringSubmatch(text, -1) {
		if m[2] != "0" {
			got = append(got, m[1]+" "+m[2])
		}
	}
	want := []string{
		`source="",verdict="unknown source" 20`, `source="grid",verdict="handshake" 20`, `source="hub",verdict="malformed" 20`, `source="hub",verdict="unauthorized" 20`,
		`source="open",verdict="accepted" 20`, `source="open",verdict="ignored" 20`,
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for _, line := range []string{"dockbell_runs_waiting 20", "dockbell_delivery_seconds_count 40"} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("%s is not in\n%s", line, text)
		}
	}
	s.use(broken{s.store, errors.New("disk of glass")})
	s.post("/hooks/open", hubPush("shop/web", "v1"))
	// What does not come from the store is told all the same.
	if w := s.get("/metrics"); w.Code != http.StatusOK || strings.Contains(w.Body.String(), "dockbell_runs_waiting") || !strings.Contains(w.Body.String(), "dockbell_deliveries_total") {
		t.Errorf("a count that is not known is told: %d %s", w.Code, w.Body)
	}
}
