package action

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
)

// gitRequest asks people to take the commit.
type gitRequest struct {
	Provider string     `yaml:"provider"` // github, gitlab or gitea; known of github.com and gitlab.com
	APIURL   string     `yaml:"api_url"`
	Token    secret.Ref `yaml:"token"` // that of auth when left out
	Title    string     `yaml:"title"`
	Body     string     `yaml:"body"`
}

// What becomes of a pull request.
const (
	requestOpen   = "open"
	requestMerged = "merged"
	requestClosed = "closed"
)

// request is a pull request; its state is "" when there is none.
type request struct {
	State string
	URL   string
	Head  string // the commit that its branch was at

	number int // by which the forge knows it
}

// errOpened says that there is a request already. It was opened after a look
// for one, and may be about another version.
var errOpened = errors.New("somebody else has opened the pull request")

// requests asks a forge for pull requests.
type requests interface {
	// newest is the open request for a branch, or else the newest one.
	newest(ctx context.Context, head, base string) (request, error)
	// open opens one, unless errOpened.
	open(ctx context.Context, head, base, title, body string) (url string, err error)
	// retitle says what an open request is about now.
	retitle(ctx context.Context, number int, title, body string) error
}

// forges are those that have pull requests, with where their API is on a host
// of one's own.
var forges = map[string]string{"github": "/api/v3", "gitlab": "/api/v4", "gitea": "/api/v1"}

// forgeList is how many bytes an answer about requests may have: each comes
// with its text and all of its repository.
const forgeList = 4 << 20

// settled fills in what need not be said.
func (r *gitRequest) settled(a *gitAction) gitRequest {
	s := *r
	host := a.address.Hostname()
	if s.Provider == "" {
		s.Provider = map[string]string{"github.com": "github", "gitlab.com": "gitlab"}[host]
	}
	if s.APIURL == "" && host == "github.com" {
		s.APIURL = githubAPI
	}
	if s.APIURL == "" {
		s.APIURL = "https://" + host + forges[s.Provider]
		if strings.HasPrefix(a.spec.Repository, "http") {
			u, _ := url.Parse(a.spec.Repository) // it was parsed before
			s.APIURL = u.Scheme + "://" + u.Host + forges[s.Provider]
		}
	}
	s.APIURL = strings.TrimRight(s.APIURL, "/")
	if s.Token.IsZero() {
		s.Token = a.spec.Auth.Token
	}
	return s
}

func (a *gitAction) checkRequest() error {
	if a.spec.Request == nil || a.address.Host == "" {
		return nil
	}
	r := a.spec.Request.settled(a)
	errs := []error{present("pullRequest.token", r.Token)}
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	if _, ok := forges[r.Provider]; !ok {
		fault("pullRequest.provider", "must be one of %s, not %q", strings.Join(slices.Sorted(maps.Keys(forges)), ", "), r.Provider)
	}
	if _, err := a.world.client.checkURL(r.APIURL); err != nil {
		fault("pullRequest.api_url", "%w", err)
	}
	if app := a.spec.Auth.App; r.Token.IsZero() && app == nil {
		fault("pullRequest.token", "is missing: a key of SSH opens no pull request")
	} else if app != nil && r.Provider != "github" {
		fault("pullRequest.provider", "an app is one of GitHub")
	}
	if r.Provider == "github" && !githubRepository.MatchString(a.address.Name()) {
		fault("repository", "%q is not owner/name", a.address.Name())
	}
	return errors.Join(errs...)
}

// requests are those of the forge; nil when none is asked for.
func (a *gitAction) requests(secrets *[]string) (requests, error) {
	if a.spec.Request == nil {
		return nil, nil
	}
	r := a.spec.Request.settled(a)
	c := forgeCall{client: a.world.client, api: r.APIURL, repository: a.address.Name()}
	if !r.Token.IsZero() {
		token, err := r.Token.Read()
		if err != nil {
			return nil, trigger.Retry(err)
		}
		c.token = token
		*secrets = append(*secrets, token)
	}
	switch r.Provider {
	case "gitlab":
		return &labRequests{c}, nil
	case "gitea":
		return &teaRequests{c}, nil
	}
	return &hubRequests{a.hub(r.Token, a.spec.Auth.App), c.repository}, nil
}

// hub is GitHub as the github action knows it, with its tokens of apps and its
// rate limits. A token counts before an app.
func (a *gitAction) hub(token secret.Ref, app *githubApp) *github {
	r := gitRequest{Provider: "github"}
	if a.spec.Request != nil {
		r.APIURL = a.spec.Request.APIURL
	}
	if !token.IsZero() {
		app = nil
	}
	return &github{a.world.client, githubSpec{Repository: a.address.Name(), Token: token, App: app, APIURL: r.settled(a).APIURL}, a.world.hub}
}

// forgeCall is what calls of one forge have in common.
type forgeCall struct {
	client                 *Client
	api, repository, token string
}

// do makes a call. What opens a request may be repeated: a forge takes no
// second one for the same branches.
func (f forgeCall) do(ctx context.Context, method, path string, query url.Values, body any, header, prefix string) (*answer, error) {
	shown := f.api + path
	address := shown
	if query != nil {
		address += "?" + query.Encode()
	}
	c := newCall(f.client, method, address, shown)
	c.harmless, c.most, c.secrets = true, forgeList, []string{f.token}
	c.header.Set(header, prefix+f.token)
	if body != nil {
		var err error
		if c.body, err = json.Marshal(body); err != nil {
			return nil, err
		}
		c.header.Set("Content-Type", "application/json")
	}
	return c.do(ctx)
}

// hubRequests follows "REST API endpoints for pull requests" of GitHub.
type hubRequests struct {
	hub        *github
	repository string
}

type hubRequest struct {
	Number int     `json:"number"`
	State  string  `json:"state"` // open or closed
	Merged *string `json:"merged_at"`
	URL    string  `json:"html_url"`
	Head   struct {
		SHA string `json:"sha"`
	} `json:"head"`
}

func (r hubRequest) request() request {
	if r.Merged != nil {
		r.State = requestMerged
	}
	return request{r.State, r.URL, r.Head.SHA, r.Number}
}

const hubPermission = "Pull requests"

func (h *hubRequests) newest(ctx context.Context, head, base string) (request, error) {
	owner, _, _ := strings.Cut(h.repository, "/")
	query := url.Values{"state": {"all"}, "head": {owner + ":" + head}, "base": {base}, "sort": {"created"}, "direction": {"desc"}, "per_page": {"5"}}
	got, err := h.hub.send(ctx, http.MethodGet, "/pulls?"+query.Encode(), nil, nil)
	if err != nil {
		return request{}, err
	}
	var list []hubRequest
	if err := got.decode(&list, h.hub.advice(got.status, hubPermission)); err != nil {
		return request{}, err
	}
	return pick(list), nil
}

func (h *hubRequests) open(ctx context.Context, head, base, title, body string) (string, error) {
	got, err := h.hub.send(ctx, http.MethodPost, "/pulls", map[string]any{"title": title, "head": head, "base": base, "body": body}, func(c *call) { c.harmless = true })
	if err != nil {
		return "", err
	}
	if got.status == http.StatusUnprocessableEntity && strings.Contains(string(got.body), "already exists") {
		return "", errOpened
	}
	var made hubRequest
	err = got.decode(&made, h.hub.advice(got.status, hubPermission))
	return made.URL, err
}

func (h *hubRequests) retitle(ctx context.Context, number int, title, body string) error {
	got, err := h.hub.send(ctx, http.MethodPatch, "/pulls/"+strconv.Itoa(number), map[string]any{"title": title, "body": body}, func(c *call) { c.harmless = true })
	if err != nil {
		return err
	}
	return got.checkStatus(h.hub.advice(got.status, hubPermission))
}

// labRequests follows "Merge requests API" of GitLab.
type labRequests struct{ forgeCall }

const labAdvice = "may the token open merge requests? It needs the scope api and the role Developer"

type labRequest struct {
	Number int    `json:"iid"`
	State  string `json:"state"` // opened, closed, locked or merged
	URL    string `json:"web_url"`
	SHA    string `json:"sha"`
}

func (r labRequest) request() request {
	state := map[string]string{"opened": requestOpen, "locked": requestOpen, "merged": requestMerged}[r.State]
	return request{cmp.Or(state, requestClosed), r.URL, r.SHA, r.Number}
}

func (l *labRequests) path() string {
	return "/projects/" + url.PathEscape(l.repository) + "/merge_requests"
}

func (l *labRequests) newest(ctx context.Context, head, base string) (request, error) {
	query := url.Values{"state": {"all"}, "source_branch": {head}, "target_branch": {base}, "order_by": {"created_at"}, "sort": {"desc"}, "per_page": {"5"}}
	got, err := l.do(ctx, http.MethodGet, l.path(), query, nil, "Authorization", "Bearer ")
	if err != nil {
		return request{}, err
	}
	var list []labRequest
	if err := got.decode(&list, labAdvice); err != nil {
		return request{}, err
	}
	return pick(list), nil
}

func (l *labRequests) open(ctx context.Context, head, base, title, body string) (string, error) {
	asked := map[string]any{"source_branch": head, "target_branch": base, "title": title, "description": body, "remove_source_branch": true}
	got, err := l.do(ctx, http.MethodPost, l.path(), nil, asked, "Authorization", "Bearer ")
	if err != nil {
		return "", err
	}
	if got.status == http.StatusConflict {
		return "", errOpened
	}
	var made labRequest
	err = got.decode(&made, labAdvice)
	return made.URL, err
}

func (l *labRequests) retitle(ctx context.Context, number int, title, body string) error {
	got, err := l.do(ctx, http.MethodPut, l.path()+"/"+strconv.Itoa(number), nil, map[string]any{"title": title, "description": body}, "Authorization", "Bearer ")
	if err != nil {
		return err
	}
	return got.checkStatus(labAdvice)
}

// pick takes the open one of a list, or else the first.
func pick[R interface{ request() request }](list []R) request {
	for _, r := range list {
		if r.request().State == requestOpen {
			return r.request()
		}
	}
	if len(list) == 0 {
		return request{}
	}
	return list[0].request()
}
