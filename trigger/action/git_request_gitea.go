package action

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// teaRequests follows "List a repo's pull requests" and "Create a pull request"
// of Gitea's and Forgejo's API.
type teaRequests struct{ forgeCall }

const teaAdvice = "may the token open pull requests? It needs the permission repository: write"

// A list has the requests of all branches. So many are on a page, and so many
// pages are looked at.
const teaPage, teaPages = 20, 10

type teaRequest struct {
	Number int       `json:"number"`
	State  string    `json:"state"` // open or closed
	Merged bool      `json:"merged"`
	URL    string    `json:"html_url"`
	Base   teaBranch `json:"base"`
	Head   teaBranch `json:"head"`
}

type teaBranch struct {
	Ref        string `json:"ref"`
	Repository int64  `json:"repo_id"`
}

func (r teaRequest) request() request {
	if r.Merged {
		r.State = requestMerged
	}
	return request{State: r.State, URL: r.URL, number: r.Number}
}

func (t *teaRequests) path() string { return "/repos/" + t.repository + "/pulls" }

func (t *teaRequests) get(ctx context.Context, path string, query url.Values) (*answer, error) {
	return t.do(ctx, http.MethodGet, path, query, nil, "Authorization", "token ")
}

func (t *teaRequests) newest(ctx context.Context, head, base string) (request, error) {
	// Of several this gives the oldest, so it says only whether there is one.
	got, err := t.get(ctx, t.path()+"/"+url.PathEscape(base)+"/"+(&url.URL{Path: head}).EscapedPath(), nil)
	if err != nil || got.status == http.StatusNotFound {
		return request{}, err
	}
	for _, state := range []string{requestOpen, requestClosed} {
		found, err := t.first(ctx, state, head, base)
		if err == nil && found.State == requestMerged {
			found.Head, err = t.head(ctx, found.number)
		}
		if err != nil || found.State != "" {
			return found, err
		}
	}
	return request{}, nil
}

// first finds the newest request for a branch among those that are open, or
// among those that are not.
func (t *teaRequests) first(ctx context.Context, state, head, base string) (request, error) {
	for page := 1; page <= teaPages; page++ {
		got, err := t.get(ctx, t.path(), url.Values{"state": {state}, "base_branch": {base}, "limit": {strconv.Itoa(teaPage)}, "page": {strconv.Itoa(page)}})
		if err != nil {
			return request{}, err
		}
		var list []teaRequest
		if err := got.decode(&list, teaAdvice); err != nil {
			return request{}, err
		}
		for _, r := range list {
			if r.Head.Ref == head && r.Base.Ref == base && r.Head.Repository == r.Base.Repository { // forks may have such a branch, too
				return r.request(), nil
			}
		}
		if !strings.Contains(got.header.Get("Link"), `rel="next"`) {
			break
		}
	}
	return request{}, nil
}

// head is the commit that a request was merged at. What is shown with the
// request may be what its branch is at now.
func (t *teaRequests) head(ctx context.Context, number int) (string, error) {
	pull := "pull/" + strconv.Itoa(number)
	got, err := t.get(ctx, "/repos/"+t.repository+"/git/refs/"+pull, nil)
	if err != nil {
		return "", err
	}
	var refs []struct {
		Ref    string `json:"ref"`
		Object struct {
			SHA string `json:"sha"`
		} `json:"object"`
	}
	if err := got.decode(&refs, teaAdvice); err != nil {
		return "", err
	}
	for _, r := range refs {
		if r.Ref == "refs/"+pull+"/head" {
			return r.Object.SHA, nil
		}
	}
	return "", nil
}

func (t *teaRequests) open(ctx context.Context, head, base, title, body string) (string, error) {
	got, err := t.do(ctx, http.MethodPost, t.path(), nil, map[string]any{"title": title, "head": head, "base": base, "body": body}, "Authorization", "token ")
	if err != nil {
		return "", err
	}
	if got.status == http.StatusConflict {
		return "", errOpened
	}
	var made teaRequest
	err = got.decode(&made, teaAdvice)
	return made.URL, err
}

func (t *teaRequests) retitle(ctx context.Context, number int, title, body string) error {
	got, err := t.do(ctx, http.MethodPatch, t.path()+"/"+strconv.Itoa(number), nil, map[string]any{"title": title, "body": body}, "Authorization", "token ")
	if err != nil {
		return err
	}
	return got.checkStatus(teaAdvice)
}
