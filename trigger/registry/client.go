package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/time/rate"
)

const (
	// requestTime is how long a registry may take for one request.
	requestTime = 30 * time.Second

	// mostAnswer is how long its answer may be, in bytes: some registries give
	// all they have on one page.
	mostAnswer = 16 << 20
)

// ErrNotFound is a repository or tag that the registry does not have, or does
// not show.
var ErrNotFound = errors.New("not found")

// Digest is what a tag points to. A tag that is not there is ErrNotFound.
func (r *Registries) Digest(ctx context.Context, host, repository, tag string) (string, error) {
	return share(&r.shared, "digest "+host+"/"+repository+":"+tag, func() (digest string, err error) {
		err = r.ask(ctx, host, repository, func(p *remote.Puller, repo name.Repository) error {
			digest, err = lookUp(ctx, p, repo.Tag(tag))
			return err
		})
		return digest, err
	})
}

// lookUp asks with HEAD, which registries do not count as a pull. Some leave
// out of the answer what the specification only recommends; those are asked
// for the manifest itself.
func lookUp(ctx context.Context, p *remote.Puller, tag name.Tag) (string, error) {
	head, err := p.Head(ctx, tag)
	if err == nil {
		return head.Digest.String(), nil
	}
	if ctx.Err() != nil || statusOf(err) != 0 || troubleIn(err) == sure {
		return "", err
	}
	full, err := p.Get(ctx, tag)
	if err != nil {
		return "", err
	}
	return full.Digest.String(), nil
}

// Manifest is what a digest names, with its media type. One that is not there
// is ErrNotFound. Docker Hub counts it as a pull, which it does not do for
// Digest.
func (r *Registries) Manifest(ctx context.Context, host, repository, digest string) (mediaType string, text []byte, err error) {
	err = r.ask(ctx, host, repository, func(p *remote.Puller, repo name.Repository) error {
		m, err := p.Get(ctx, repo.Digest(digest))
		if err != nil {
			return err
		}
		mediaType, text = string(m.MediaType), m.Manifest
		return nil
	})
	return mediaType, text, err
}

// ask does something with a registry unless it is being left alone, and takes
// note of how it went. The repository is "" where it is about none.
func (r *Registries) ask(ctx context.Context, host, repository string, do func(*remote.Puller, name.Repository) error) error {
	c, err := r.client(host)
	if err != nil {
		return err
	}
	repo, err := c.repository(repository)
	if err != nil {
		return err
	}
	if err := c.paused(); err != nil {
		return err
	}
	p, err := c.puller(repository)
	if err != nil {
		return err
	}
	err = do(p, repo)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.note(err)
	if troubleIn(err) != none {
		return cmp.Or(c.paused(), err)
	}
	if isNotFound(err) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if statusOf(err) != 0 {
		c.forget(repository)
	}
	return err
}

// client talks to one registry.
type client struct {
	host    string
	names   []name.Option
	options []remote.Option
	log     *slog.Logger

	mu       sync.Mutex
	pullers  map[string]*remote.Puller // by repository, so that one can be forgotten
	failures int
	doubts   int
	until    time.Time
	asked    time.Time // until when the registry itself asked to be left alone
	why      error
}

func newClient(host string, s spec, out Outside) (*client, error) {
	out.Log = cmp.Or(out.Log, slog.New(slog.DiscardHandler))
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.MaxIdleConnsPerHost = cmp.Or(s.Concurrency, defaultConcurrency)
	if s.CA != "" {
		pool, err := readPool(s.CA)
		if err != nil {
			return nil, err
		}
		base.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	c := &client{host: host, log: out.Log, pullers: map[string]*remote.Puller{}}
	if s.Insecure {
		c.names = append(c.names, name.Insecure)
	}
	perSecond := cmp.Or(s.Rate, defaultRate)
	limited := &limitedTransport{
		base: base, client: c, observe: out.Observe,
		rate:  rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond))),
		slots: make(chan struct{}, cmp.Or(s.Concurrency, defaultConcurrency)),
	}
	// It tries once; trying again is the business of who polls.
	c.options = []remote.Option{
		remote.WithTransport(limited), remote.WithAuthFromKeychain(s.keychain(out)), remote.WithPageSize(pageSize),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}), remote.WithUserAgent("dockbell"),
	}
	return c, nil
}

// repository is one of the registry's, or for "" the registry by itself.
func (c *client) repository(repository string) (name.Repository, error) {
	if repository == "" {
		registry, err := name.NewRegistry(c.host, c.names...)
		return name.Repository{Registry: registry}, err
	}
	return name.NewRepository(c.host+"/"+repository, c.names...)
}

// puller gives the one puller of a repository: it keeps what authentication
// yields.
func (c *client) puller(repository string) (*remote.Puller, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.pullers[repository]; ok {
		return p, nil
	}
	p, err := remote.NewPuller(c.options...)
	if err == nil {
		c.pullers[repository] = p
	}
	return p, err
}

// forget makes the next question about a repository begin with authentication:
// how a registry wants it, and what it gave for it, may be out of date.
func (c *client) forget(repository string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pullers, repository)
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
	if err := t.rate.Wait(req.Context()); err != nil {
		return nil, err
	}
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
	ctx, cancel := context.WithTimeout(req.Context(), requestTime) // waiting for its turn does not count
	resp, err := t.base.RoundTrip(req.WithContext(ctx))
	status := 0
	if err == nil {
		status = resp.StatusCode
		t.client.asksForPause(resp)
		resp.Body = &answerBody{resp.Body, cancel, mostAnswer}
	} else {
		cancel()
	}
	if t.observe != nil {
		t.observe(t.client.host, status)
	}
	return resp, err
}

// answerBody ends the time limit of a request when its answer has been read,
// and the answer where it is too long.
type answerBody struct {
	body   io.ReadCloser
	cancel context.CancelFunc
	left   int
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if b.left -= n; b.left < 0 {
		b.Close() // whoever reads may not do it after an error
		return 0, &tooMuchError{fmt.Sprintf("its answer is longer than %d MiB", mostAnswer>>20)}
	}
	return n, err
}

func (b *answerBody) Close() error {
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
