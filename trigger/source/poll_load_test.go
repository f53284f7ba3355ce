package source

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

func loadPoller(t *testing.T, text string, aliases trigger.Aliases) (*Poller, error) {
	t.Helper()
	n, err := strictyaml.Parse("dockbell.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	p := LoadPoller("mirror", n, aliases)
	if (p == nil) != (n.Err() != nil) {
		t.Fatalf("poller %v with faults %v", p, n.Err())
	}
	return p, n.Err()
}

func TestLoadPollerFaults(t *testing.T) {
	const head = "type: poll\nschedule: '@hourly'\n"
	const whole = head + "repositories: [r.example/shop/**]\n"
	for _, tt := range []struct {
		name, text string
		want       []string // all faults, in order
	}{
		{"no schedule", "type: poll\nrepositories: [r.example/a]", []string{"dockbell.yaml:1: schedule: is missing: five fields as in"}},
		{"empty schedule", "type: poll\nrepositories: [r.example/a]\nschedule: ''", []string{"dockbell.yaml:3: schedule: is missing"}},
		{"schedule that is none", "repositories: [r.example/a]\nschedule: often", []string{`dockbell.yaml:2: schedule: "often": expected exactly 5 fields`}},
		{"schedule with seconds", "repositories: [r.example/a]\nschedule: '0 * * * * *'", []string{`dockbell.yaml:2: schedule: "0 * * * * *": expected exactly 5 fields`}},
		{"schedule out of range", "repositories: [r.example/a]\nschedule: '61 * * * *'", []string{`dockbell.yaml:2: schedule: "61 * * * *": end of range (61) above maximum (59)`}},
		{"schedule of no period", "repositories: [r.example/a]\nschedule: '@every soon'", []string{`dockbell.yaml:2: schedule: "@every soon": failed to parse duration`}},
		{"schedule with a zone", "repositories: [r.example/a]\nschedule: 'TZ=Europe/Berlin 0 9 * * *'", []string{"dockbell.yaml:2: schedule: the time zone has a key of its own, `timezone`"}},
		{"unknown zone", whole + "timezone: Berlin", []string{`dockbell.yaml:4: timezone: "Berlin" is not a time zone as in Europe/Berlin`}},
		{"zone outside of the data", whole + "timezone: ../../etc/passwd", []string{"dockbell.yaml:4: timezone: "}},
		{"negative jitter", whole + "jitter: -1s", []string{"dockbell.yaml:4: jitter: must be a duration, as in 10s"}},
		{"jitter without a unit", whole + "jitter: much", []string{"dockbell.yaml:4: jitter: must be a duration, as in 30s, not a string (much)"}},
		{"initial of another kind", whole + "initial: skip", []string{`dockbell.yaml:4: initial: must be learn (what is there already starts nothing) or fire, not "skip"`}},
		{"no repositories", head, []string{"dockbell.yaml:1: repositories: is missing: name repositories with their registry"}},
		{"none among repositories", head + "repositories: []", []string{"dockbell.yaml:3: repositories: is missing"}},
		{"no registry", head + "repositories: shop/web", []string{`dockbell.yaml:3: repositories: "shop/web": needs its registry in front`}},
		{"no registry among others", head + "repositories:\n- r.example/a\n- nginx", []string{`dockbell.yaml:5: repositories[1]: "nginx": needs its registry in front`}},
		{"registry a pattern", head + "repositories: ['*.example.com/shop/web']", []string{`dockbell.yaml:3: repositories[0]: "*.example.com/shop/web": the registry must be named, not a pattern`}},
		{"an address", head + "repositories: ['https://r.example/shop/web']", []string{"dockbell.yaml:3: repositories[0]: "}},
		{"an address of several", head + "repositories: ['https://r.example/shop/**']", []string{`registry "https:" is not host[:port]`}},
		{"an image", head + "repositories: ['r.example/shop/web:v1']", []string{`repository "shop/web:v1" is not a repository name`}},
		{"bad pattern", head + "repositories: ['r.example/shop/{web,api']", []string{`dockbell.yaml:3: repositories[0]: "r.example/shop/{web,api": not a valid pattern`}},
		{"pattern of Docker Hub", head + "repositories: ['registry-1.docker.io/shop/*']", []string{"Docker Hub does not list its repositories; name each"}},
		{"bad tags", whole + "tags: 'v[0'", []string{`dockbell.yaml:4: tags: "v[0": error parsing regexp`}},
		{"stray parenthesis in tags", whole + "tags: 'a)|(b'", []string{`dockbell.yaml:4: tags: "a)|(b": error parsing regexp`}},
		{"bad exclude", whole + "exclude: {tag: '*'}", []string{`dockbell.yaml:4: exclude.tag: "*": error parsing regexp`}},
		{"exclude of another kind", whole + "exclude: {repo: x}", []string{`dockbell.yaml:4: exclude: unknown key "repo"; known are tag`}},
		{"unknown key", whole + "auth: none", []string{`dockbell.yaml:4: unknown key "auth"; known are exclude, initial, jitter, repositories, schedule, tags, timezone, type`}},
		{"several at once", "schedule: x\ntags: '('\ninitial: x", []string{"schedule: ", "repositories: ", "tags: ", "initial: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := loadPoller(t, tt.text, nil)
			if err == nil {
				t.Fatal("no fault")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Fatalf("%d faults, want %d:\n%v", len(lines), len(tt.want), err)
			}
			for i, want := range tt.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("got  %s\nwant %s", lines[i], want)
				}
			}
		})
	}
}

// Registries have their one name, and what stands for all rules is no pattern.
func TestLoadPollerRepositories(t *testing.T) {
	p, err := loadPoller(t, "schedule: '@daily'\nrepositories: ['Registry:5000/shop/**', from-rules, docker.io/nginx, localhost/a]", trigger.Aliases{"registry:5000": "registry.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"registry.example.com/shop/**", "docker.io/library/nginx", "localhost/a"}
	if diff := cmp.Diff(want, p.patterns); diff != "" || !p.FromRules() {
		t.Errorf("from rules %t (-want +got):\n%s", p.FromRules(), diff)
	}
	if p, err = loadPoller(t, "schedule: '@daily'\nrepositories: r.example/a", nil); err != nil || p.FromRules() {
		t.Errorf("from rules: %v", err)
	}
}

// Expressions match tags as a whole, however they end.
func TestLoadPollerTags(t *testing.T) {
	p, err := loadPoller(t, "schedule: '@daily'\nrepositories: r.example/a\ntags: 'a|ab|\\Q1.0'\nexclude: {tag: ['\\Qab']}", nil)
	if err != nil {
		t.Fatal(err)
	}
	for tag, want := range map[string]bool{"a": true, "ab": false, "abc": false, "1.0": true, "1x0": false, "1.0.1": false} {
		if p.selects(tag) != want {
			t.Errorf("%s: %t", tag, !want)
		}
	}
}

// passTimes are when a poller makes its passes, each of which takes so long.
func passTimes(t *testing.T, config string, start string, n int, takes time.Duration) []string {
	t.Helper()
	p, err := loadPoller(t, "repositories: r.example/a\n"+config, nil)
	if err != nil {
		t.Fatal(err)
	}
	now, err := time.Parse(time.RFC3339, start)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for late := time.Duration(0); len(all) < n; late = p.wait() {
		now = p.next(now.Add(takes), late)
		all = append(all, now.Add(-p.wait()).In(p.zone).Format("Jan 2 15:04:05"))
	}
	return all
}

func TestPassTimes(t *testing.T) {
	for _, tt := range []struct {
		name, config, start string
		takes               time.Duration
		want                []string
	}{
		{"every two minutes", "schedule: '*/2 * * * *'\ntimezone: UTC", "2026-03-01T10:01:30Z", time.Second, []string{"Mar 1 10:02:00", "Mar 1 10:04:00", "Mar 1 10:06:00"}},
		{"a pass that takes longer", "schedule: '*/2 * * * *'\ntimezone: UTC", "2026-03-01T10:01:30Z", 3 * time.Minute, []string{"Mar 1 10:06:00", "Mar 1 10:10:00"}},
		{"every so often", "schedule: '@every 90s'\ntimezone: UTC", "2026-03-01T10:00:00Z", time.Second, []string{"Mar 1 10:01:31", "Mar 1 10:03:02", "Mar 1 10:04:33"}},
		{"in a zone", "schedule: '30 9 * * 1-5'\ntimezone: Asia/Kolkata", "2026-03-06T00:00:00Z", time.Second, []string{"Mar 6 09:30:00", "Mar 9 09:30:00"}},
		{"over the start of summer time", "schedule: '0 9 * * *'\ntimezone: Europe/Berlin", "2026-03-28T00:00:00Z", time.Second, []string{"Mar 28 09:00:00", "Mar 29 09:00:00", "Mar 30 09:00:00"}},
		{"an hour that summer time leaves out", "schedule: '30 2 * * *'\ntimezone: Europe/Berlin", "2026-03-28T00:00:00Z", time.Second, []string{"Mar 28 02:30:00", "Mar 30 02:30:00"}},
		{"an hour that winter time has twice", "schedule: '30 2 * * *'\ntimezone: Europe/Berlin", "2026-10-24T12:00:00Z", time.Second, []string{"Oct 25 02:30:00", "Oct 25 02:30:00", "Oct 26 02:30:00"}},
		{"jitter", "schedule: '*/10 * * * *'\ntimezone: UTC\njitter: 9m", "2026-03-01T09:59:30Z", time.Second, []string{"Mar 1 10:00:00", "Mar 1 10:10:00", "Mar 1 10:20:00"}},
		{"jitter longer than what lies between", "schedule: '* * * * *'\ntimezone: UTC\njitter: 1h", "2026-03-01T09:59:30Z", time.Second, []string{"Mar 1 10:00:00", "Mar 1 10:01:00", "Mar 1 10:02:00"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, passTimes(t, tt.config, tt.start, len(tt.want), tt.takes)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Sources with the same schedule wait for the same time, below the jitter.
func TestJitter(t *testing.T) {
	wait := func(schedule string, jitter string) time.Duration {
		t.Helper()
		p, err := loadPoller(t, "repositories: r.example/a\nschedule: '"+schedule+"'\njitter: "+jitter, nil)
		if err != nil {
			t.Fatal(err)
		}
		return p.wait()
	}
	differ := false
	for _, schedule := range []string{"*/2 * * * *", "0 * * * *", "@every 30s", "@daily"} {
		a, b := wait(schedule, "1h"), wait(schedule, "1h")
		if a != b || a < 0 || a >= time.Hour {
			t.Errorf("%s: %v and %v", schedule, a, b)
		}
		differ = differ || a != wait("@hourly", "1h")
		if w := wait(schedule, "1ns"); w != 0 {
			t.Errorf("%s: %v, below a nanosecond", schedule, w)
		}
	}
	if !differ {
		t.Error("all schedules wait for the same time")
	}
	if w := wait("@daily", "0s"); w != 0 {
		t.Errorf("%v without jitter", w)
	}
}

// The jitter comes on top once and does not stretch the time between passes.
func TestJitterOfEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := loadPoller(t, "repositories: r.example/a\nschedule: '@every 30s'\njitter: 20s", nil)
		if err != nil {
			t.Fatal(err)
		}
		first := p.next(time.Now(), 0)
		if got := time.Until(first); got < 30*time.Second || got >= 50*time.Second {
			t.Errorf("the second pass is after %v", got)
		}
		time.Sleep(time.Until(first))
		if got := time.Until(p.next(time.Now(), p.wait())).Round(time.Second); got != 30*time.Second {
			t.Errorf("the third pass is after %v more", got)
		}
	})
}
