package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/time/rate"
)

const (
	// requestTime is how long a registry may take for one request.
	requestTime = 30 * time.Second

	// pageSize is how many tags or names are asked for at once.
	pageSize = 1000

	// shortestPause and longestPause bound for how long a registry in trouble
	// is left alone; longestRetryAfter for how long it may ask for that.
	shortestPause     = 5 * time.Second
	longestPause      = 10 * time.Minute
	longestRetryAfter = time.Hour
)

// ErrNotFound is a repository or tag that the registry does not have, or does
// not show.
var ErrNotFound = errors.New("not found")

// PausedError is a registry that is being left alone.
type PausedError struct {
	Host  string
	Until time.Time
	Why   error
}

func (e *PausedError) Error() string {
	return fmt.Sprintf("registry %s is left alone until %s: %v", e.Host, e.Until.UTC().Format(time.TimeOnly), e.Why)
}

func (e *PausedError) Unwrap() error { return e.Why }

// Paused tells this error from those that are about one repository.
func (e *PausedError) Paused() bool { return true }

// Tags lists the tags of a repository. A repository that is not there is
// ErrNotFound. The list is the caller's to read, not to change.
func (r *Registries) Tags(ctx context.Context, host, repository string) ([]string, error) {
	v, err := r.shared.do("tags "+host+"/"+repository, func() (any, error) {
		var tags []string
		err := r.ask(ctx, host, func(c *client) error {
			repo, err := c.repository(repository)
			if err != nil {
				return err
			}
			tags, err = c.puller.List(ctx, repo)
			return err
		})
		return tags, err
	})
	tags, _ := v.([]string)
	return tags, err
}

// Digest is what a tag points to. A tag that is not there is ErrNotFound.
func (r *Registries) Digest(ctx context.Context, host, repository, tag string) (string, error) {
	v, err := r.shared.do("digest "+host+"/"+repository+":"+tag, func() (any, error) {
		var digest string
		err := r.ask(ctx, host, func(c *client) error {
			repo, err := c.repository(repository)
			if err != nil {
				return err
			}
			head, err := c.puller.Head(ctx, repo.Tag(tag))
			if err != nil {
				return err
			}
			digest = head.Digest.String()
			return nil
		})
		return digest, err
	})
	digest, _ := v.(string)
	return digest, err
}

// Catalogue lists the repositories of a registry that offers that.
func (r *Registries) Catalogue(ctx context.Context, host string) (repositories []string, err error) {
	err = r.ask(ctx, host, func(c *client) error {
		registry, err := name.NewRegistry(c.host, c.options...)
		if err != nil {
			return err
		}
		pages, err := c.puller.Catalogger(ctx, registry)
		if err != nil {
			return err
		}
		repositories = nil
		for pages.HasNext() {
			page, err := pages.Next(ctx)
			if err != nil {
				return err
			}
			repositories = append(repositories, page.Repos...)
		}
		return nil
	})
	return repositories, err
}

// ask does something with a registry unless it is being left alone, and takes
// note of how it went.
func (r *Registries) ask(ctx context.Context, host string, do func(*client) error) error {
	c, err := r.client(host)
	if err != nil {
		return err
	}
	if err := c.paused(); err != nil {
		return err
	}
	err = do(c)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.note(err)
	if inTrouble(err) {
		return cmp.Or(c.paused(), err)
	}
	var refused *transport.Error
	if errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// client talks to one registry.
type client struct {
	host    string
	options []name.Option
	puller  *remote.Puller
	log     *slog.Logger

	mu       sync.Mutex
	failures int
	until    time.Time
	asked    time.Time // until when the registry itself asked to be left alone
	why      error
}

func newClient(host string, s spec, out Outside) (*client, error) {
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.MaxIdleConnsPerHost = cmp.Or(s.Concurrency, defaultConcurrency)
	if s.CA != "" {
		pool, err := readPool(s.CA)
		if err != nil {
			return nil, err
		}
		base.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	c := &client{host: host, log: cmp.Or(out.Log, slog.New(slog.DiscardHandler))}
	if s.Insecure {
		c.options = append(c.options, name.Insecure)
	}
	perSecond := cmp.Or(s.Rate, defaultRate)
	limited := &limitedTransport{
		base: base, client: c, observe: out.Observe,
		rate:  rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond))),
		slots: make(chan struct{}, cmp.Or(s.Concurrency, defaultConcurrency)),
	}
	var err error
	// One puller for all: it keeps what authentication yields. It tries once;
	// trying again is the business of who polls.
	c.puller, err = remote.NewPuller(
		remote.WithTransport(limited), remote.WithAuthFromKeychain(s.keychain(out)), remote.WithPageSize(pageSize),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}), remote.WithUserAgent("dockbell"),
	)
	return c, err
}

func (c *client) repository(repository string) (name.Repository, error) {
	return name.NewRepository(c.host+"/"+repository, c.options...)
}

func (c *client) paused() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Now().Before(c.until) {
		return &PausedError{c.host, c.until, c.why}
	}
	return nil
}

// note takes note of how something went. A registry in trouble is left alone,
// each time for longer; the log has one line when that begins and one when it
// ends.
func (c *client) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !inTrouble(err) {
		if c.failures > 0 {
			c.log.Info("registry answers again", "registry", c.host)
		}
		c.failures, c.asked = 0, time.Time{}
		return
	}
	now := time.Now()
	if now.Before(c.until) {
		return // one of several that were on their way
	}
	c.failures++
	pause := min(shortestPause<<min(c.failures-1, 16), longestPause)
	pause += time.Duration(rand.Int64N(int64(pause)/5 + 1))
	c.until, c.why = now.Add(pause), err
	if c.asked.After(c.until) {
		c.until = c.asked
	}
	if c.failures == 1 {
		c.log.Warn("registry is in trouble and left alone for a while", "registry", c.host, "until", c.until, "error", err)
	}
}

// inTrouble tells the troubles of a registry from answers that are about one
// repository.
func inTrouble(err error) bool {
	var refused *transport.Error
	switch {
	case err == nil:
		return false
	case errors.As(err, &refused):
		return refused.StatusCode == http.StatusTooManyRequests || refused.StatusCode/100 == 5
	}
	return true // it does not answer at all
}

// limitedTransport keeps to the limits of a registry.
type limitedTransport struct {
	base    http.RoundTripper
	client  *client
	rate    *rate.Limiter
	slots   chan struct{}
	observe func(host string, status int)
}

// RoundTrip implements [http.RoundTripper].
func (t *limitedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(req.Context(), requestTime)
	if err := t.rate.Wait(ctx); err != nil {
		cancel()
		return nil, err
	}
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	case <-ctx.Done():
		cancel()
		return nil, ctx.Err()
	}
	resp, err := t.base.RoundTrip(req.WithContext(ctx))
	status := 0
	if err == nil {
		status = resp.StatusCode
		t.client.asksForPause(resp)
		resp.Body = &cancelBody{resp.Body, cancel}
	} else {
		cancel()
	}
	if t.observe != nil {
		t.observe(t.client.host, status)
	}
	return resp, err
}

// asksForPause remembers a Retry-After: seconds, or a date (RFC 9110, section
// 10.2.3).
func (c *client) asksForPause(resp *http.Response) {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return
	}
	after := resp.Header.Get("Retry-After")
	var wait time.Duration
	if seconds, err := strconv.Atoi(after); err == nil {
		wait = time.Duration(min(seconds, int(longestRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(after); err == nil {
		wait = min(time.Until(at), longestRetryAfter)
	}
	if wait <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if until := time.Now().Add(wait); until.After(c.asked) {
		c.asked = until
	}
}

// cancelBody ends the time limit of a request when its body has been read.
type cancelBody struct {
	body interface {
		Read([]byte) (int, error)
		Close() error
	}
	cancel context.CancelFunc
}

func (b *cancelBody) Read(p []byte) (int, error) { return b.body.Read(p) }

func (b *cancelBody) Close() error {
	defer b.cancel()
	return b.body.Close()
}

func readPool(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", path)
	}
	return pool, nil
}
