package rules

import (
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// gated is a rule with the given keys.
func gated(keys string) string {
	return "- name: r\n  repo: shop/web\n" + indent(keys) + "\n  actions: [call: {}]\n"
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }

func at(t *testing.T, s string) time.Time {
	t.Helper()
	m, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestGate(t *testing.T) {
	const office = "window: {cron: '0 9 * * MON-FRI', for: 8h, timezone: Europe/Berlin}"
	for _, tt := range []struct{ name, keys, now, opens, why string }{
		{"no gate", "", "2026-11-21T12:00:00Z", "2026-11-21T12:00:00Z", ""},

		{"in the window", office, "2026-11-20T10:00:00Z", "2026-11-20T10:00:00Z", ""},
		{"as it opens", office, "2026-11-20T08:00:00Z", "2026-11-20T08:00:00Z", ""},
		{"just before", office, "2026-11-20T07:59:59Z", "2026-11-20T09:00:00+01:00", "outside its window"},
		{"as it closes", office, "2026-11-20T16:00:00Z", "2026-11-23T09:00:00+01:00", "outside its window"},
		{"at the weekend", office, "2026-11-21T10:00:00Z", "2026-11-23T09:00:00+01:00", "outside its window"},
		{"summer time has begun", office, "2026-03-29T12:00:00Z", "2026-03-30T09:00:00+02:00", "outside its window"},
		{"summer time has ended", office, "2026-10-25T12:00:00Z", "2026-10-26T09:00:00+01:00", "outside its window"},
		// The night in which 02:30 does not exist, and the one that has it twice.
		{"opening that the clock skips", "window: {cron: '30 2 * * *', for: 1h, timezone: Europe/Berlin}", "2026-03-29T00:45:00Z", "2026-03-30T02:30:00+02:00", "outside its window"},
		{"window over the hour that is there twice", "window: {cron: '0 1 * * *', for: 3h, timezone: Europe/Berlin}", "2026-10-25T01:30:00Z", "2026-10-25T01:30:00Z", ""},
		{"and its end, three real hours later", "window: {cron: '0 1 * * *', for: 3h, timezone: Europe/Berlin}", "2026-10-25T02:00:00Z", "2026-10-26T01:00:00+01:00", "outside its window"},
		{"across midnight", "window: {cron: '0 22 * * *', for: 4h}", "2026-11-21T01:59:00Z", "2026-11-21T01:59:00Z", ""},
		{"longer than its schedule", "window: {cron: '0 0 * * *', for: 48h}", "2026-11-21T12:00:00Z", "2026-11-21T12:00:00Z", ""},
		{"several windows", "window:\n- {cron: '0 9 * * *', for: 1h}\n- {cron: '0 15 * * *', for: 1h}", "2026-11-21T10:00:00Z", "2026-11-21T15:00:00Z", "outside its window"},

		{"frozen", "freeze: {from: 2026-12-20, to: 2027-01-02, timezone: Europe/Berlin, reason: the holidays}", "2026-12-24T12:00:00Z", "2027-01-03T00:00:00+01:00", "frozen for the holidays"},
		{"before a freeze", "freeze: {from: 2026-12-20, to: 2027-01-02, timezone: Europe/Berlin}", "2026-12-19T22:59:59Z", "2026-12-19T22:59:59Z", ""},
		{"the first moment of a freeze", "freeze: {from: 2026-12-20, to: 2027-01-02, timezone: Europe/Berlin}", "2026-12-19T23:00:00Z", "2027-01-03T00:00:00+01:00", "frozen"},
		{"for hours", "freeze: {from: '2026-11-21 08:00', to: '2026-11-21 20:00'}", "2026-11-21T12:00:00Z", "2026-11-21T20:00:00Z", "frozen"},
		{"one freeze after the other", "freeze:\n- {from: 2026-11-20, to: 2026-11-21}\n- {from: 2026-11-22, to: 2026-11-22}", "2026-11-21T12:00:00Z", "2026-11-23T00:00:00Z", "frozen"},
		{"freeze, then the window", office + "\nfreeze: {from: 2026-11-20, to: 2026-11-23, timezone: Europe/Berlin}", "2026-11-20T12:00:00Z", "2026-11-24T09:00:00+01:00", "outside its window"},
		{"window that opens into a freeze", office + "\nfreeze: {from: '2026-11-23 06:00', to: '2026-11-23 12:00', timezone: Europe/Berlin}", "2026-11-21T12:00:00Z", "2026-11-23T12:00:00+01:00", "frozen"},

		{"settle", "settle: 30s", "2026-11-21T12:00:00Z", "2026-11-21T12:00:30Z", "waits for pushes to settle"},
		{"settle until the window has closed", office + "\nsettle: 1h", "2026-11-20T15:30:00Z", "2026-11-23T09:00:00+01:00", "outside its window"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set := mustLoad(t, gated(tt.keys))
			now := at(t, tt.now)
			runs, _ := set.Match(push(t, "shop/web:v1"), now)
			if len(runs) != 1 || !runs[0].NotBefore.Equal(at(t, tt.opens)) || runs[0].State != "" {
				t.Fatalf("runs %+v, want one not before %s", runs, tt.opens)
			}
			want := tt.why
			if want != "" {
				want += " until " + tt.opens
			}
			if runs[0].Reason != want {
				t.Errorf("reason %q, want %q", runs[0].Reason, want)
			}
			if strings.Contains(tt.keys, "settle") {
				return // it is counted from the push, not from a try
			}
			opens, why := set.Gate(trigger.Run{Rule: "r"}, now)
			if why != want || why != "" && !opens.Equal(at(t, tt.opens)) {
				t.Errorf("before a try: %s %q", opens, why)
			}
		})
	}
}

func TestGateOfNoRule(t *testing.T) {
	if opens, why := mustLoad(t, gated("")).Gate(trigger.Run{Rule: "gone"}, time.Now()); !opens.IsZero() || why != "" {
		t.Errorf("%s %q", opens, why)
	}
}

// Of runs that wait the newest is enough, unless the rule says otherwise.
func TestModeOfGatedRuns(t *testing.T) {
	for keys, want := range map[string]trigger.Mode{
		"":                                  trigger.Queue,
		"settle: 1m":                        trigger.Latest,
		"minAge: 24h":                       trigger.Latest,
		"approve: 1":                        trigger.Latest,
		"window: {cron: '@daily', for: 1h}": trigger.Latest,
	} {
		runs, _ := mustLoad(t, gated(keys)).Match(push(t, "shop/web:v1"), time.Unix(0, 0))
		if runs[0].Mode != want {
			t.Errorf("%q: %s, want %s", keys, runs[0].Mode, want)
		}
	}
	runs, _ := mustLoad(t, strings.Replace(gated("settle: 1m"), "call: {}", "call: {mode: queue}", 1)).Match(push(t, "shop/web:v1"), time.Unix(0, 0))
	if runs[0].Mode != trigger.Queue {
		t.Errorf("said to be %s", runs[0].Mode)
	}
}

func TestOpenings(t *testing.T) {
	set := mustLoad(t, `
- {name: plain, repo: a/b, actions: [call: {}]}
- {name: day, repo: a/b, window: {cron: '0 9 * * *', for: 8h}, actions: [call: {}]}
- {name: night, repo: a/b, window: {cron: '0 20 * * *', for: 8h}, actions: [call: {}]}
`)
	got := set.Openings(at(t, "2026-11-21T12:00:00Z"))
	if len(got) != 2 || got[0] != (Opening{Rule: "day", Open: true}) {
		t.Fatalf("%+v", got)
	}
	if o := got[1]; o.Rule != "night" || o.Open || !o.At.Equal(at(t, "2026-11-21T20:00:00Z")) || o.Why != "outside its window" {
		t.Errorf("%+v", o)
	}
}

func TestGateFaults(t *testing.T) {
	for _, tt := range []struct{ name, keys, want string }{
		{"no cron", "window: {for: 1h}", `r.yaml:3: [0].window.cron: is missing`},
		{"bad cron", "window: {cron: '0 25 * * *', for: 1h}", `r.yaml:3: [0].window.cron: "0 25 * * *": end of range (25) above maximum (23): 25`},
		{"never", "window: {cron: '0 0 30 2 *', for: 1h}", `r.yaml:3: [0].window.cron: "0 0 30 2 *": is never`},
		{"no length", "window: {cron: '@daily'}", `r.yaml:3: [0].window.for: is missing: how long`},
		{"bad zone", "window: {cron: '@daily', for: 1h, timezone: Berlin}", `r.yaml:3: [0].window.timezone: "Berlin" is not a time zone`},
		{"unknown key", "window: {cron: '@daily', for: 1h, until: 2h}", `r.yaml:3: [0].window: unknown key "until"`},
		{"second of a list", "window:\n- {cron: '@daily', for: 1h}\n- {cron: x, for: 1h}", `r.yaml:5: [0].window[1].cron: "x"`},
		{"no mapping", "window: daily", `r.yaml:3: [0].window: must be a mapping`},
		{"freeze without an end", "freeze: {from: 2026-12-20}", `r.yaml:3: [0].freeze.to: "" is not a day as 2026-12-20`},
		{"freeze backwards", "freeze: {from: 2026-12-20, to: 2026-12-01}", `r.yaml:3: [0].freeze.to: must be after from`},
		{"bad day", "freeze: {from: 2026-13-20, to: 2026-12-01}", `r.yaml:3: [0].freeze.from: "2026-13-20" is not a day`},
		{"bad zone of a freeze", "freeze: {from: 2026-12-20, to: 2026-12-21, timezone: x}", `r.yaml:3: [0].freeze.timezone: "x" is not a time zone`},
		{"negative settle", "settle: -1s", `r.yaml:3: [0].settle: must be a duration`},
		{"negative age", "minAge: -1s", `r.yaml:3: [0].minAge: must be a duration`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, gated(tt.keys))
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}
