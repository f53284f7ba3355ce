package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	// shortestPause and longestPause bound for how long a registry in trouble
	// is left alone; longestRetryAfter for how long it may ask for that.
	shortestPause     = 5 * time.Second
	longestPause      = 10 * time.Minute
	longestRetryAfter = time.Hour

	// doubtsAllowed is how many answers in a row may be bad in a way that could
	// be about one repository before the registry counts as in trouble.
	doubtsAllowed = 2
)

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

// PausedUntil tells this error from those that are about one repository.
func (e *PausedError) PausedUntil() time.Time { return e.Until }

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
// ends. What was on its way when it began changes nothing.
func (c *client) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	leftAlone := now.Before(c.until)
	switch t := troubleIn(err); {
	case t == none && leftAlone:
	case t == none:
		if c.failures > 0 {
			c.log.Info("registry answers again", "registry", c.host)
		}
		c.failures, c.doubts, c.asked = 0, 0, time.Time{}
	case leftAlone:
		c.until = later(c.until, c.asked)
	case t == doubtful && c.failures == 0 && c.doubts < doubtsAllowed:
		c.doubts++
	default:
		c.failures++
		pause := min(shortestPause<<min(c.failures-1, 16), longestPause)
		pause += time.Duration(rand.Int64N(int64(pause)/5 + 1))
		c.until, c.why = later(now.Add(pause), c.asked), err
		if c.failures == 1 {
			c.log.Warn("registry is in trouble and left alone for a while", "registry", c.host, "until", c.until, "error", err)
		}
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// trouble is what an error says about a registry as a whole.
type trouble int

const (
	none     trouble = iota // an answer about one repository
	doubtful                // may be about one repository, may be about all
	sure
)

func troubleIn(err error) trouble {
	var credentials credentialsError
	var tooMuch *tooMuchError
	status := statusOf(err)
	switch {
	case err == nil, errors.As(err, &tooMuch):
		return none
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return sure
	case status/100 == 5:
		return doubtful
	case status != 0:
		return none
	case errors.As(err, &credentials), unanswered(err):
		return sure
	}
	return doubtful
}

// statusOf is the status by which a registry refused; 0 when it did not.
func statusOf(err error) int {
	var refused *transport.Error
	if errors.As(err, &refused) {
		return refused.StatusCode
	}
	return 0
}

// isNotFound reports whether it is the registry that does not have something.
// It gives a code, except to HEAD. A proxy whose registry is away says 404,
// too; that must not be taken for a repository that is still empty.
func isNotFound(err error) bool {
	var refused *transport.Error
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusNotFound || refused.Request == nil {
		return false
	}
	path, isRegistry := strings.CutPrefix(refused.Request.URL.Path, "/v2/")
	return isRegistry && path != "" && (len(refused.Errors) > 0 || refused.Request.Method == http.MethodHead)
}

// unanswered reports whether there was no answer at all, or half of one.
func unanswered(err error) bool {
	var request *url.Error
	var network net.Error
	return errors.As(err, &request) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded)
}

// asksForPause remembers a Retry-After: seconds, or a date (RFC 9110, section
// 10.2.3).
func (c *client) asksForPause(resp *http.Response) {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return
	}
	after := resp.Header.Get("Retry-After")
	var wait time.Duration
	if seconds, err := strconv.ParseUint(after, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		wait = time.Duration(min(seconds, uint64(longestRetryAfter/time.Second))) * time.Second
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
