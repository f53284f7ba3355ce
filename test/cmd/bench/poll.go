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
	"sync"
	"time"

	"github.com/dockbell/dockbell/test/parts"
)

const (
	pollRepositories = 1000
	pollConcurrency  = 8
)

// emptyIndex is the smallest manifest that a registry takes: it refers to
// nothing that would have to be pushed first.
const emptyIndex = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`

// benchPoll measures a pass over 1,000 repositories with one tag each beside a
// loop that sends the same requests and looks at nothing.
func benchPoll(ctx context.Context, b *bench) error {
	bin, err := parts.Build(ctx, os.Stderr)
	if err != nil {
		return err
	}
	registry, err := parts.StartRegistry(ctx, bin, b.dir, "http://127.0.0.1:1/", "none")
	if err != nil {
		return err
	}
	defer registry.Stop()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: pollConcurrency}}
	send := func(method, path, body string) error {
		req, err := http.NewRequestWithContext(ctx, method, "http://"+registry.Addr+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		req.Header.Set("Accept", "application/vnd.oci.image.index.v1+json")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		if resp.StatusCode/100 != 2 {
			return fmt.Errorf("%s %s: %s", method, path, resp.Status)
		}
		return nil
	}
	if _, err := eachRepository(func(i int) error {
		return send(http.MethodPut, fmt.Sprintf("/v2/shop/app-%d/manifests/v1.0.0", i), emptyIndex)
	}); err != nil {
		return err
	}
	bare := func() (time.Duration, error) {
		return eachRepository(func(i int) error {
			if err := send(http.MethodGet, fmt.Sprintf("/v2/shop/app-%d/tags/list?n=1000", i), ""); err != nil {
				return err
			}
			return send(http.MethodHead, fmt.Sprintf("/v2/shop/app-%d/manifests/v1.0.0", i), "")
		})
	}
	theirs, err := bare()
	if err != nil {
		return err
	}
	d, err := b.serve(ctx, "poll", fmt.Sprintf(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
registries: [{host: %q, rate: 100000, concurrency: %d}]
sources:
  registry: {type: poll, schedule: "@every 3s", repositories: [%q]}
rules:
  - {name: all, repo: "**", actions: [{http: {url: "http://127.0.0.1:1/"}}]}
`, registry.Addr, pollConcurrency, registry.Addr+"/shop/*"))
	if err != nil {
		return err
	}
	defer d.stop()
	for _, pass := range []string{"first", "next"} {
		n, ours, err := onePass(ctx, client, d.admin)
		if err != nil {
			return err
		}
		b.row(fmt.Sprintf("%s pass over %d repositories, beside the same requests without a look", pass, pollRepositories),
			fmt.Sprintf("%d requests, %s", n, ms(ours)), fmt.Sprintf("%d requests, %s", 2*pollRepositories, ms(theirs)), float64(theirs)/float64(ours), "")
	}
	return nil
}

// eachRepository calls do for each repository, several at once.
func eachRepository(do func(i int) error) (time.Duration, error) {
	began := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for worker := range pollConcurrency {
		wg.Go(func() {
			for i := worker; i < pollRepositories; i += pollConcurrency {
				if err := do(i); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began), failed
}

var requestsTotal = regexp.MustCompile(`(?m)^dockbell_registry_requests_total\{.*\} (\S+)$`)

// onePass waits for a pass to begin and to end, and says how many requests it
// sent. A pass has ended when none is sent for a while.
func onePass(ctx context.Context, client *http.Client, admin string) (n int, took time.Duration, err error) {
	const quiet = 400 * time.Millisecond
	total := func() (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, admin+"/metrics", nil)
		if err != nil {
			return 0, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		sum := 0.0
		for _, m := range requestsTotal.FindAllSubmatch(text, -1) {
			count, err := strconv.ParseFloat(string(m[1]), 64)
			if err != nil {
				return 0, err
			}
			sum += count
		}
		return int(sum), err
	}
	first, err := total()
	if err != nil {
		return 0, 0, err
	}
	last, began, ended := first, time.Now(), time.Now()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		now, err := total()
		if err != nil {
			return 0, 0, err
		}
		switch {
		case now != last && last == first:
			began, last, ended = ended, now, time.Now()
		case now != last:
			last, ended = now, time.Now()
		case last == first:
			ended = time.Now() // not begun yet
		case time.Since(ended) > quiet:
			return last - first, ended.Sub(began), nil
		}
	}
	return 0, 0, fmt.Errorf("no pass within a minute: %d requests", last-first)
}
