package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// trial is how a kind of action is put to the test: against somebody who
// behaves in a manner of his own, or as a program that does.
type trial struct {
	config string        // beside the rule
	spec   string        // of the action
	heard  func() int    // how much the other side is in the middle of
	told   func() string // how the action has shown who it is, as that was written
}

// manner is how the other side behaves.
type manner int

const (
	silent  manner = iota // it takes what is asked of it and never comes to an end
	refuses               // it says no, for good, and repeats what it was told
	busy                  // it says not now, and repeats what it was told
)

// trials has a row for each kind of action. What else is asked of kinds that
// call over HTTP, package action has.
var trials = map[string]func(*testing.T, manner) trial{
	"command":    aProgram,
	"discord":    aWebServer(`{url: {env: PLANTED_URL}, text: hello}`),
	"email":      aMailServer,
	"git":        aWebServer(`{repository: SERVER/shop/deploy, auth: {user: ci, token: {env: PLANTED_TOKEN}}, changes: [{file: a.yaml, path: image, value: tag}]}`),
	"github":     aWebServer(`{repository: shop/deploy, event_type: pushed, token: {env: PLANTED_TOKEN}, api_url: SERVER}`),
	"gitlab":     aWebServer(`{url: SERVER, project: shop/deploy, ref: main, token: {env: PLANTED_TOKEN}}`),
	"grafana":    aWebServer(`{url: SERVER, token: {env: PLANTED_TOKEN}, text: hello}`),
	"http":       aWebServer(`{url: "SERVER/hook?key=planted", headers: {Authorization: {env: PLANTED_TOKEN}}}`),
	"jenkins":    aWebServer(`{url: SERVER/job/web, user: ci, token: {env: PLANTED_TOKEN}}`),
	"kubernetes": anAPIServer,
	"shoutrrr":   aWebServer(`{url: {env: PLANTED_TOPIC}, text: hello}`),
	"slack":      aWebServer(`{url: {env: PLANTED_URL}, text: hello}`),
	"teams":      aWebServer(`{url: {env: PLANTED_URL}, text: hello}`),
	callbackKind: dockerHub,
}

// Every kind of action keeps the contract: the end of its context ends a try
// soon, and whatever that has started; what is refused for good is not tried
// again, what is refused for now is; and nobody is shown a secret.
func TestContractOfKinds(t *testing.T) {
	kinds := slices.Sorted(maps.Keys(offlineKinds(t.Context(), true)(nil, nil, nil)))
	kinds = append(kinds, callbackKind)
	slices.Sort(kinds)
	if have := slices.Sorted(maps.Keys(trials)); !slices.Equal(have, kinds) {
		t.Errorf("there are trials of %q, and kinds of action %q", have, kinds)
	}
	t.Setenv("XDG_CACHE_HOME", t.TempDir()) // of clones
	for _, kind := range kinds {
		if trials[kind] == nil {
			continue // told of above
		}
		t.Run(kind, func(t *testing.T) {
			t.Run("ends with its context", func(t *testing.T) { trials[kind](t, silent).ends(t, kind) })
			t.Run("is refused", func(t *testing.T) { trials[kind](t, refuses).fails(t, kind, false) })
			t.Run("comes at a bad time", func(t *testing.T) { trials[kind](t, busy).fails(t, kind, true) })
		})
	}
}

// ends checks that nothing is left soon after the context has ended.
func (tr trial) ends(t *testing.T, kind string) {
	const soon = 10 * time.Second
	ctx, cancel := context.WithCancelCause(t.Context())
	try, ended := tr.ready(t, kind), make(chan error, 1)
	go func() { ended <- try(ctx) }()
	until(t, func() bool { return tr.heard() > 0 })
	cancel(errors.New("timed out after 3s"))
	told := time.Now()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "timed out after 3s") {
		t.Errorf("the error does not say why: %v", err)
	}
	if took := time.Since(told); took > soon {
		t.Errorf("it went on for %s", took)
	}
	until(t, func() bool { return tr.heard() == 0 })
}

// fails checks whether a failure is one after which it is tried again.
func (tr trial) fails(t *testing.T, kind string, again bool) {
	err := tr.ready(t, kind)(t.Context())
	if _, got := trigger.Retryable(err); err == nil || got != again {
		t.Errorf("repeatable is %t, want %t: %v", got, again, err)
	}
}

// ready makes what a push makes of a rule with the specification. What it gives
// tries that once, as the queue does, and looks for secrets in all that is said.
func (tr trial) ready(t *testing.T, kind string) func(context.Context) error {
	t.Helper()
	run, a := tr.action(t, kind)
	return func(ctx context.Context) error {
		var log strings.Builder
		err := a.Do(ctx, run, &log)
		for where, text := range map[string]string{"target": a.Target(), "log": log.String(), "error": fmt.Sprint(err)} {
			// The word is a part of each secret, however that is written.
			if told := tr.told(); strings.Contains(text, "planted") || told != "" && strings.Contains(text, told) {
				t.Errorf("the %s shows a secret: %s", where, text)
			}
		}
		return err
	}
}

func (tr trial) action(t *testing.T, kind string) (trigger.Run, trigger.Action) {
	t.Helper()
	named, spec := kind, tr.spec
	if kind == callbackKind { // which no rule can name
		named, spec = "http", "{url: https://example.com}"
	}
	conf, err := parseConfig("dockbell.yaml", []byte(tr.config+`
sources: {hub: {type: dockerhub, auth: none}}
rules: [{name: web, repo: shop/web, actions: [`+named+": "+spec+"]}]\n"), offlineKinds(t.Context(), true))
	if err != nil {
		t.Fatal(err)
	}
	push := trigger.Event{
		Image:  trigger.Image{Registry: "registry.example.com", Repository: "shop/web", Tag: "v1.2.3", Digest: "sha256:" + strings.Repeat("a", 64)},
		Source: "hub", Action: trigger.Push, OccurredAt: time.Now(), Callback: tr.spec,
	}
	runs, reason := withCallback(conf.rules.Match)(push, time.Now())
	i := slices.IndexFunc(runs, func(r trigger.Run) bool { return r.Kind == kind })
	if i < 0 {
		t.Fatalf("there is no run: %s", reason)
	}
	run := runs[i]
	run.ID, run.Attempt = 77, 1
	conf.kinds[callbackKind] = callbackRow(conf.client, func(context.Context, int64) ([]trigger.State, error) { return nil, nil })
	a, err := conf.kinds[kind].Build(decodeSpec(run.Spec))
	if err != nil {
		t.Fatal(err)
	}
	return run, a
}
