package action

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// githubList is how many bytes a list of GitHub may have: each run of a workflow
// comes with all of its repository.
const githubList = 4 << 20

// githubShared is what the actions of one client know of GitHub in common.
type githubShared struct {
	mu     sync.Mutex
	until  map[string]time.Time // when who may call again, after a rate limit
	tokens map[string]appToken  // of installations of apps
}

// quiet is for how long somebody must not call. "Best practices for using the
// REST API" says that integrations which go on calling may be banned.
func (s *githubShared) quiet(who string, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.until[who].Sub(now)
}

func (s *githubShared) limited(who string, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until == nil {
		s.until = map[string]time.Time{}
	}
	if until.After(s.until[who]) {
		s.until[who] = until
	}
}

// who is whose rate limit a call counts against.
func (a *github) who() string {
	if a.spec.App != nil {
		return a.spec.APIURL + " app " + a.spec.App.ID
	}
	return a.spec.APIURL + " " + a.spec.Token.String()
}

// send makes a call below the repository, as whoever the action is, unless
// GitHub wants to be left alone. change may be nil.
func (a *github) send(ctx context.Context, method, path string, body any, change func(*call)) (*answer, error) {
	token, err := a.token(ctx)
	if err != nil {
		return nil, err
	}
	got, err := a.sendAs(ctx, token, method, "/repos/"+a.spec.Repository+path, body, change)
	if err == nil && got.status == http.StatusUnauthorized && a.spec.App != nil {
		a.forget(token)
		return nil, got.retry(got.words("the token of the app's installation is not valid any more; the next try gets another"))
	}
	return got, err
}

func (a *github) sendAs(ctx context.Context, token, method, path string, body any, change func(*call)) (*answer, error) {
	if wait := a.shared.quiet(a.who(), time.Now()); wait > 0 {
		return nil, &trigger.RetryError{Err: errors.New("GitHub's rate limit is used up, so it is not called before that is over"), After: wait}
	}
	address := a.spec.APIURL + path
	shown, _, _ := strings.Cut(address, "?")
	c := newCall(a.client, method, address, shown)
	c.secrets, c.most = []string{token}, githubList // nothing in the query is one
	c.header.Set("Accept", "application/vnd.github+json")
	c.header.Set("X-GitHub-Api-Version", "2022-11-28")
	c.header.Set("Authorization", "Bearer "+token)
	if body != nil {
		var err error
		if c.body, err = json.Marshal(body); err != nil {
			return nil, err
		}
		c.header.Set("Content-Type", "application/json")
	}
	if change != nil {
		change(c)
	}
	got, err := c.do(ctx)
	if err != nil {
		return nil, err
	}
	if after, ok := got.rateLimit(time.Now()); ok {
		a.shared.limited(a.who(), time.Now().Add(after))
		return nil, &trigger.RetryError{Err: got.words("GitHub's rate limit is used up"), After: after}
	}
	return got, nil
}

// rateLimit reports whether GitHub refused for one of its limits, and how long
// it wants to be left alone, in the order of "Rate limits for the REST API".
func (a *answer) rateLimit(now time.Time) (time.Duration, bool) {
	if a.status != http.StatusForbidden && a.status != http.StatusTooManyRequests {
		return 0, false
	}
	if after := retryAfter(a.header.Get("Retry-After"), now); after > 0 {
		return after, true
	}
	if a.header.Get("X-RateLimit-Remaining") == "0" {
		reset, _ := strconv.ParseInt(a.header.Get("X-RateLimit-Reset"), 10, 64)
		return min(max(time.Unix(reset, 0).Sub(now), time.Second), retryAfterLimit), true
	}
	limited := a.status == http.StatusTooManyRequests || strings.Contains(strings.ToLower(string(a.body)), "rate limit")
	return githubPause, limited
}

// advice says what to do about an answer other than success, when permission is
// what the call needs.
func (a *github) advice(status int, permission string) string {
	permission += ": write (classic tokens: the scope repo)"
	switch status {
	case http.StatusUnauthorized:
		return "the token is wrong or has expired"
	case http.StatusForbidden:
		return "the token may not do this: it needs " + permission + " for the repository, and an organisation may have to approve it"
	case http.StatusNotFound:
		return "there is no such repository or workflow, or the token may not see it: it needs " + permission
	case http.StatusConflict:
		return "GitHub does not deploy this ref: its checks have not succeeded (see required_contexts), or it cannot be merged"
	case http.StatusUnprocessableEntity:
		if a.spec.Workflow != "" {
			return "GitHub does not accept what was sent: does the ref exist, has the workflow on it a workflow_dispatch trigger, and does it declare these inputs?"
		}
		return "GitHub does not accept what was sent: does the ref or commit exist?"
	}
	return ""
}
