package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	containers "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/dockbell/dockbell/test/parts"
)

const (
	pollRepositories = 1000
	pollTags         = 3
	pollConcurrency  = 8
)

// emptyIndex is the smallest manifest that a registry takes: it refers to
// nothing that would have to be pushed first.
const emptyIndex = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`

// polls measures passes over many repositories, the first and one that finds
// no changes, beside go-containerregistry listing and looking up the same tags
// and remembering nothing.
func (b *bench) polls(ctx context.Context) error {
	bin, err := parts.Build(ctx, os.Stderr, "registry")
	if err != nil {
		return err
	}
	registry, err := parts.StartRegistry(ctx, bin, b.dir, "http://127.0.0.1:1/", "none")
	if err != nil {
		return err
	}
	defer registry.Stop()
	if err := fill(ctx, registry.Addr); err != nil {
		return err
	}
	bare, err := newBarePolls(registry.Addr)
	if err != nil {
		return err
	}
	d, err := b.serve(ctx, "polls", fmt.Sprintf(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
registries: [{host: %[1]q, rate: 100000, concurrency: %[2]d}]
sources:
  registry: {type: poll, schedule: "@every 10s", repositories: ["%[1]s/shop/*"]}
rules:
  - {name: all, repo: "**", actions: [{http: {url: "http://127.0.0.1:1/"}}]}
`, registry.Addr, pollConcurrency))
	if err != nil {
		return err
	}
	defer d.stop()
	sent := 0
	for _, which := range []string{"first pass", "pass without changes"} {
		ours, err := d.pass(ctx, sent)
		if err != nil {
			return err
		}
		sent += ours.requests
		theirs, err := bare.pass(ctx) // while dockbell waits for its next
		if err != nil {
			return err
		}
		b.row(fmt.Sprintf("%s over %d repositories with %d tags, beside bare lists and heads", which, pollRepositories, pollTags),
			ours.String(), theirs.String(), ours.took.Seconds()/theirs.took.Seconds(), "")
	}
	return nil
}

// passed is what a pass took.
type passed struct {
	requests int
	took     time.Duration
}

func (p passed) String() string { return fmt.Sprintf("%d requests in %s", p.requests, ms(p.took)) }

// fill puts the same manifest under all tags of all repositories.
func fill(ctx context.Context, registry string) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: pollConcurrency}}
	return eachRepository(func(repository string) error {
		for tag := range pollTags {
			target := fmt.Sprintf("http://%s/v2/%s/manifests/v1.0.%d", registry, repository, tag)
			req, err := http.NewRequestWithContext(ctx, http.MethodPut, target, strings.NewReader(emptyIndex))
			if err != nil {
				return err
			}
			req.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusCreated {
				return fmt.Errorf("%s: %s", target, resp.Status)
			}
		}
		return nil
	})
}

// eachRepository calls do for each repository, several at once.
func eachRepository(do func(repository string) error) error {
	return senders(pollConcurrency, pollRepositories, func(i int) error { return do(fmt.Sprintf("shop/app-%d", i)) })
}

// barePolls lists and looks up, as dockbell does, with one puller for all
// passes, and compares nothing.
type barePolls struct {
	registry string
	puller   *remote.Puller
	requests atomic.Int64
}

func newBarePolls(registry string) (*barePolls, error) {
	p := &barePolls{registry: registry}
	base := &http.Transport{MaxIdleConnsPerHost: pollConcurrency}
	var err error
	p.puller, err = remote.NewPuller(remote.WithTransport(roundTrip(func(r *http.Request) (*http.Response, error) {
		p.requests.Add(1)
		return base.RoundTrip(r)
	})))
	return p, err
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (p *barePolls) pass(ctx context.Context) (passed, error) {
	before, began := p.requests.Load(), time.Now()
	err := eachRepository(func(repository string) error {
		repo, err := containers.NewRepository(p.registry+"/"+repository, containers.Insecure)
		if err != nil {
			return err
		}
		tags, err := p.puller.List(ctx, repo)
		if err != nil {
			return err
		}
		for _, tag := range tags {
			if _, err := p.puller.Head(ctx, repo.Tag(tag)); err != nil {
				return err
			}
		}
		return nil
	})
	return passed{int(p.requests.Load() - before), time.Since(began)}, err
}

// pass waits for the pass to begin that follows so many requests, and to end,
// which is when none is sent for a while.
func (d *daemon) pass(ctx context.Context, before int) (passed, error) {
	const quiet = 400 * time.Millisecond
	last, began, ended := before, time.Now(), time.Now()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) { // asking more often would slow it
		now, err := d.requests(ctx)
		switch {
		case err != nil:
			return passed{}, err
		case now != last && last == before:
			began, last, ended = ended, now, time.Now()
		case now != last:
			last, ended = now, time.Now()
		case last == before:
			ended = time.Now() // not begun yet
		case time.Since(ended) > quiet:
			return passed{last - before, ended.Sub(began)}, nil
		}
	}
	return passed{}, fmt.Errorf("no pass within a minute: %d requests", last-before)
}

var requestsTotal = regexp.MustCompile(`(?m)^dockbell_registry_requests_total\{.*\} (\S+)$`)

// requests is how many requests a daemon has sent to registries.
func (d *daemon) requests(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.admin+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, m := range requestsTotal.FindAllSubmatch(text, -1) {
		count, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			return 0, err
		}
		sum += count
	}
	return int(sum), nil
}
