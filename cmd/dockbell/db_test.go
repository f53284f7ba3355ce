package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Backup and check work beside a dockbell that serves; prune does not.
func TestDB(t *testing.T) {
	d := startDaemon(t, oneRule, "")
	config := []string{"--config", d.options.config}
	to := filepath.Join(d.dir, "copy.db")
	run := func(args ...string) (string, bool) {
		out, errs, ok := dockbell(t, "", append(append([]string{"db"}, args...), config...)...)
		return out + errs, ok
	}
	if out, ok := run("backup", to); !ok || !strings.HasSuffix(out, " is copied to "+to+"\n") {
		t.Error(out)
	}
	if _, err := os.Stat(to); err != nil {
		t.Error(err)
	}
	if out, ok := run("check"); !ok || !strings.HasSuffix(out, "dockbell.db is good\n") {
		t.Error(out)
	}
	if out, ok := run("prune"); ok || !strings.Contains(out, "another dockbell is using it") {
		t.Error(out)
	}
	d.stop()
	if out, ok := run("prune"); !ok || out != "forgotten: 0 deliveries, 0 events, 0 runs\n" {
		t.Error(out)
	}
}

func TestParseAge(t *testing.T) {
	for s, want := range map[string]time.Duration{"90d": 90 * day, "36h": 36 * time.Hour, "1h30m": 90 * time.Minute} {
		if got, err := parseAge(s); err != nil || got != want {
			t.Errorf("%s: %s, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "d", "-1d", "1.5d", "99999d", "90"} {
		if got, err := parseAge(s); err == nil {
			t.Errorf("%q: %s", s, got)
		}
	}
}
