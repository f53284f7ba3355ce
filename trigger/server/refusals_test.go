package server

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever reaches the port cannot fill the disk: of each cause there are some
// lines, and one that counts the others.
func TestRefusalsAreLoggedInPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &buffer{}
		r := newRefusals(slog.New(slog.NewTextHandler(out, nil)))
		hub := cause{"delivery refused", "hub", http.StatusUnauthorized}
		for i := range 1000 {
			r.add(slog.LevelWarn, hub, "from", i)
		}
		r.add(slog.LevelWarn, cause{"delivery refused", "hub", http.StatusNotFound}, "from", "another cause")
		r.add(slog.LevelWarn, cause{"delivery refused", "mirror", http.StatusUnauthorized}, "from", "another source")
		lines := func() int { return strings.Count(out.String(), "\n") }
		if got := lines(); got != refusedBurst+2 {
			t.Fatalf("%d lines at once, want %d", got, refusedBurst+2)
		}
		time.Sleep(sumEvery)
		synctest.Wait()
		want := fmt.Sprintf(`level=WARN msg="delivery refused: lines like this were left out" source=hub status=401 lines=%d`, 1000-refusedBurst)
		if got := out.String(); !strings.Contains(got, want) || lines() != refusedBurst+3 {
			t.Fatalf("%s\nwant %s", got, want)
		}
		before := lines()
		for range 60 * 100 {
			r.add(slog.LevelWarn, hub)
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(sumEvery)
		synctest.Wait()
		if got, most := lines()-before, 60+refusedBurst+60*int(time.Second)/int(sumEvery)+1; got > most {
			t.Errorf("%d lines in a minute, want at most %d", got, most)
		}
		quiet := lines()
		time.Sleep(time.Hour)
		synctest.Wait()
		if lines() != quiet {
			t.Errorf("lines about nothing: %s", out)
		}
	})
}

// Handshakes fail for whoever wants them to, from wherever.
func TestHandshakesAreLoggedInPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &buffer{}
		log := newRefusals(slog.New(slog.NewTextHandler(out, nil))).logger()
		for port := range 1000 {
			log.Printf("http: TLS handshake error from 203.0.113.7:%d: EOF", port)
		}
		log.Print("http: panic serving 203.0.113.7:1")
		log.Print("")
		if got := strings.Count(out.String(), "TLS handshake"); got != refusedBurst {
			t.Errorf("%d lines, want %d", got, refusedBurst)
		}
		if !strings.Contains(out.String(), "panic serving 203.0.113.7:1") {
			t.Error("one cause keeps another out of the log")
		}
		time.Sleep(sumEvery)
		synctest.Wait()
		if want := fmt.Sprintf(`msg="http: TLS handshake: lines like this were left out" lines=%d`, 1000-refusedBurst); !strings.Contains(out.String(), want) {
			t.Errorf("%s\nwant %s", out, want)
		}
	})
}

// The metrics count each refusal, and no delivery that counts is left out of
// the log, whatever else comes.
func TestFloodOfRefusals(t *testing.T) {
	s := newStation(t)
	const many = 10 * refusedBurst
	for i := range many {
		ask(s.hooks, "POST", "/hooks/hub?token=wrong", "{}")
		ask(s.hooks, "POST", fmt.Sprintf("/hooks/unknown-%d", i), "{}")
		ask(s.hooks, "POST", "/hooks/hub?token="+token, strings.Repeat("x", 10_001))
		if w := ask(s.hooks, "POST", "/hooks/hub?token="+token, hubPush("shop/web", fmt.Sprint("v", i))); w.Code != http.StatusAccepted {
			t.Fatal(w.Code, w.Body)
		}
	}
	if got := strings.Count(s.log.String(), "delivery refused"); got < 3*refusedBurst || got > many {
		t.Errorf("%d lines of %d refusals", got, 3*many)
	}
	if got := strings.Count(s.log.String(), "level=INFO msg=event"); got != many {
		t.Errorf("%d lines of %d deliveries that were accepted", got, many)
	}
	metrics := ask(s.admin, "GET", "/metrics", "").Body.String()
	for verdict, source := range map[string]string{verdictUnauthorized: "hub", verdictUnknown: "", verdictMalformed: "hub", verdictAccepted: "hub"} {
		if want := fmt.Sprintf("dockbell_deliveries_total{source=%q,verdict=%q} %d\n", source, verdict, many); !strings.Contains(metrics, want) {
			t.Errorf("no %sin\n%s", want, metrics)
		}
	}
}
