package action

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// fakeGitHub answers the two dispatch calls as GitHub's REST documentation
// says: 204 (or 200 with the run, when it is asked for), 401 for a bad token,
// 404 for what the token cannot see, 403 for what it may not do, 422 for what
// is not valid.
type fakeGitHub struct {
	limit    func(w http.ResponseWriter) bool // writes a refusal for a rate limit
	dispatch []string
}

const githubToken, githubReadOnly = "ghp_planted_token", "ghp_planted_readonly"

func (f *fakeGitHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	say := func(status int, message string) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": message, "documentation_url": "https://docs.github.com/rest", "status": fmt.Sprint(status)})
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/api/v3/repos/shop/deploy/")
	auth := r.Header.Get("Authorization")
	var body struct {
		EventType     string         `json:"event_type"`
		ClientPayload map[string]any `json:"client_payload"`
		Ref           string         `json:"ref"`
		Inputs        map[string]any `json:"inputs"`
		Details       bool           `json:"return_run_details"`
	}
	decoded := json.NewDecoder(r.Body).Decode(&body)
	switch {
	case r.UserAgent() == "" || strings.HasPrefix(r.UserAgent(), "Go-http-client"):
		say(403, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header")
	case f.limit != nil && f.limit(w):
	case auth != "Bearer "+githubToken && auth != "Bearer "+githubReadOnly:
		say(401, "Bad credentials")
	case !ok || r.Method != http.MethodPost:
		say(404, "Not Found")
	case r.Header.Get("X-GitHub-Api-Version") != "2022-11-28" || r.Header.Get("Accept") != "application/vnd.github+json":
		say(400, "not a supported version")
	case auth == "Bearer "+githubReadOnly:
		say(403, "Resource not accessible by personal access token")
	case decoded != nil:
		say(400, "Problems parsing JSON")
	case path == "dispatches":
		if body.EventType == "" || len(body.EventType) > 100 || len(body.ClientPayload) > 10 {
			say(422, "Invalid request.")
			return
		}
		payload, _ := json.Marshal(body.ClientPayload)
		f.dispatch = append(f.dispatch, body.EventType+" "+string(payload))
		w.WriteHeader(204)
	case path == "actions/workflows/deploy.yml/dispatches" || path == "actions/workflows/161335/dispatches":
		switch {
		case body.Ref != "main":
			say(422, "No ref found for: "+body.Ref)
			return
		case slices.ContainsFunc(slices.Collect(keysOf(body.Inputs)), func(k string) bool { return k != "tag" }):
			say(422, "Unexpected inputs provided")
			return
		}
		inputs, _ := json.Marshal(body.Inputs)
		f.dispatch = append(f.dispatch, path+"@"+body.Ref+" "+string(inputs))
		if !body.Details {
			w.WriteHeader(204)
			return
		}
		fmt.Fprint(w, `{"workflow_run_id":9,"run_url":"https://api.github.com/repos/shop/deploy/actions/runs/9","html_url":"https://github.com/shop/deploy/actions/runs/9"}`)
	case path == "actions/workflows/push-only.yml/dispatches":
		say(422, "Workflow does not have 'workflow_dispatch' trigger")
	default:
		say(404, "Not Found")
	}
}

func keysOf(m map[string]any) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func newFakeGitHub(t *testing.T) (*fakeGitHub, string) {
	t.Setenv("GH_TOKEN", githubToken)
	t.Setenv("GH_READONLY", githubReadOnly)
	t.Setenv("GH_WRONG", "ghp_planted_wrong")
	f := &fakeGitHub{}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return f, server.URL + "/api/v3"
}

// The fake is held against the requests that GitHub's documentation shows.
func TestFakeGitHub(t *testing.T) {
	_, api := newFakeGitHub(t)
	for _, c := range []struct {
		path, token, body string
		status            int
		says              string
	}{
		{"/dispatches", githubToken, `{"event_type":"on-demand-test","client_payload":{"unit":false,"integration":true}}`, 204, ""},
		{"/dispatches", githubToken, `{"client_payload":{}}`, 422, ""},
		{"/dispatches", githubToken, `{"event_type":"x","client_payload":{"1":1,"2":1,"3":1,"4":1,"5":1,"6":1,"7":1,"8":1,"9":1,"10":1,"11":1}}`, 422, ""},
		{"/dispatches", githubReadOnly, `{"event_type":"x"}`, 403, "not accessible"},
		{"/dispatches", "nonsense", `{"event_type":"x"}`, 401, "Bad credentials"},
		{"/actions/workflows/deploy.yml/dispatches", githubToken, `{"ref":"main","inputs":{"tag":"v1"}}`, 204, ""},
		{"/actions/workflows/161335/dispatches", githubToken, `{"ref":"main","return_run_details":true}`, 200, `"workflow_run_id":9`},
		{"/actions/workflows/deploy.yml/dispatches", githubToken, `{"ref":"gone"}`, 422, "No ref found"},
		{"/actions/workflows/deploy.yml/dispatches", githubToken, `{"ref":"main","inputs":{"name":"v1"}}`, 422, "Unexpected inputs"},
		{"/actions/workflows/none.yml/dispatches", githubToken, `{"ref":"main"}`, 404, "Not Found"},
	} {
		req, err := http.NewRequest(http.MethodPost, api+"/repos/shop/deploy"+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{
			"Accept": {"application/vnd.github+json"}, "Authorization": {"Bearer " + c.token},
			"X-Github-Api-Version": {"2022-11-28"}, "User-Agent": {"curl/8"},
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status || !strings.Contains(string(body), c.says) || c.status == 204 && len(body) > 0 {
			t.Errorf("%s %s: %d %s", c.path, c.body, resp.StatusCode, body)
		}
	}
}

func TestGitHub(t *testing.T) {
	const rest = ", repository: shop/deploy, token: {env: GH_TOKEN}, api_url: API}"
	for _, c := range []struct{ spec, dispatch, want string }{
		{
			"{event_type: image-pushed" + rest,
			`image-pushed {"digest":"sha256:` + strings.Repeat("a", 64) + `","image":"registry.example.com/shop/web:v1.2.3","registry":"registry.example.com","repository":"shop/web","run":"77","tag":"v1.2.3"}`, "",
		},
		{`{event_type: x, client_payload: {a: {b: [1, "\"}"]}}` + rest, `x {"a":{"b":[1,"\"}"]}}`, ""},
		{"{event_type: x, client_payload: {}" + rest, `x {}`, ""},
		{"{workflow: deploy.yml, ref: main, inputs: {tag: 1.10}" + rest, `actions/workflows/deploy.yml/dispatches@main {"tag":"1.10"}`, ""},
		{"{workflow: 161335, ref: main" + rest, `actions/workflows/161335/dispatches@main null`, ""},

		{"{event_type: x" + strings.Replace(rest, "GH_TOKEN", "GH_WRONG", 1), "", "answered 401 Unauthorized: the token is wrong or has expired"},
		{"{event_type: x" + strings.Replace(rest, "GH_TOKEN", "GH_READONLY", 1), "", "it needs Contents: write"},
		{"{workflow: deploy.yml, ref: main" + strings.Replace(rest, "GH_TOKEN", "GH_READONLY", 1), "", "it needs Actions: write"},
		{"{event_type: x" + strings.Replace(rest, "shop/deploy", "shop/none", 1), "", "there is no such repository or workflow"},
		{"{workflow: none.yml, ref: main" + rest, "", "there is no such repository or workflow"},
		{"{workflow: deploy.yml, ref: gone" + rest, "", "No ref found for: gone"},
		{"{workflow: deploy.yml, ref: main, inputs: {name: x}" + rest, "", "Unexpected inputs provided"},
		{"{workflow: push-only.yml, ref: main" + rest, "", "has the workflow on it a workflow_dispatch trigger"},
	} {
		f, api := newFakeGitHub(t)
		var log strings.Builder
		err := mustBuild(t, GitHub(aClient()), strings.ReplaceAll(c.spec, "API", api)).Do(t.Context(), aRun, &log)
		if got := strings.Join(f.dispatch, ","); got != c.dispatch {
			t.Errorf("%s: dispatched %s, want %s", c.spec, got, c.dispatch)
		}
		noSecret(t, "the log", log.String())
		if c.want == "" {
			if err != nil || !strings.Contains(log.String(), "answered 204") {
				t.Errorf("%s: %v, %s", c.spec, err, log.String())
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.spec, err, c.want)
			continue
		}
		noSecret(t, "the error", err.Error())
		if _, again := trigger.Retryable(err); again {
			t.Errorf("%s: repeatable: %v", c.spec, err)
		}
	}
}

// GitHub itself is asked which run it started; an Enterprise Server, which
// may not know the question, is not.
func TestGitHubRunDetails(t *testing.T) {
	f, api := newFakeGitHub(t)
	var log strings.Builder
	a := mustBuild(t, GitHub(aClient()), "{repository: shop/deploy, workflow: deploy.yml, ref: main, token: {env: GH_TOKEN}}").(*github)
	a.client.Transport = elsewhere(strings.TrimSuffix(strings.TrimPrefix(api, "http://"), "/api/v3"))
	if err := a.Do(t.Context(), aRun, &log); err != nil {
		t.Fatal(err)
	}
	if len(f.dispatch) != 1 || log.String() != "GitHub started https://github.com/shop/deploy/actions/runs/9\n" {
		t.Errorf("%q, %q", f.dispatch, log.String())
	}
}

// elsewhere sends what is meant for api.github.com to a fake.
type elsewhere string

func (host elsewhere) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" || r.URL.Host != "api.github.com" {
		return nil, fmt.Errorf("%s is not GitHub", r.URL)
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host, r.URL.Path = "http", string(host), "/api/v3"+r.URL.Path
	return http.DefaultTransport.RoundTrip(r)
}

func TestGitHubRateLimits(t *testing.T) {
	for _, c := range []struct {
		name     string
		status   int
		header   map[string]string
		body     string
		from, to time.Duration
	}{
		{"primary", 403, map[string]string{"x-ratelimit-remaining": "0", "x-ratelimit-reset": fmt.Sprint(time.Now().Add(20 * time.Minute).Unix())}, "API rate limit exceeded", 19 * time.Minute, 20 * time.Minute},
		{"primary, just over", 429, map[string]string{"x-ratelimit-remaining": "0", "x-ratelimit-reset": fmt.Sprint(time.Now().Add(-time.Minute).Unix())}, "", time.Second, time.Second},
		{"secondary with time", 403, map[string]string{"retry-after": "42", "x-ratelimit-remaining": "0"}, "You have exceeded a secondary rate limit", 42 * time.Second, 42 * time.Second},
		{"secondary", 403, map[string]string{"x-ratelimit-remaining": "4999"}, "You have exceeded a secondary rate limit", time.Minute, time.Minute},
		{"bare 429", 429, nil, "", time.Minute, time.Minute},
	} {
		f, api := newFakeGitHub(t)
		f.limit = func(w http.ResponseWriter) bool {
			for k, v := range c.header {
				w.Header().Set(k, v)
			}
			w.WriteHeader(c.status)
			fmt.Fprintf(w, `{"message":%q}`, c.body)
			return true
		}
		err := mustBuild(t, GitHub(aClient()), "{repository: shop/deploy, event_type: x, token: {env: GH_TOKEN}, api_url: "+api+"}").Do(t.Context(), aRun, io.Discard)
		after, again := trigger.Retryable(err)
		if !again || after < c.from || after > c.to {
			t.Errorf("%s: repeatable %t after %s: %v", c.name, again, after, err)
		}
	}
}

func TestGitHubSpecification(t *testing.T) {
	t.Setenv("GH_TOKEN", githubToken)
	keys := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "k%d: v, ", i)
		}
		return "{" + b.String() + "}"
	}
	const rest = ", repository: a/b, token: {env: GH_TOKEN}}"
	for spec, want := range map[string]string{
		"{event_type: x, repository: web, token: {env: GH_TOKEN}}":                         "repository: must be owner/name",
		"{event_type: x, repository: a/.., token: {env: GH_TOKEN}}":                        "repository: must be owner/name",
		"{event_type: x, repository: ../b, token: {env: GH_TOKEN}}":                        "repository: must be owner/name",
		"{event_type: x, repository: a/b}":                                                 "token: is missing",
		"{repository: a/b, token: {env: GH_TOKEN}}":                                        "event_type: is missing",
		"{event_type: x, workflow: d.yml" + rest:                                           "workflow: there is an event_type too",
		"{event_type: x, ref: main" + rest:                                                 "ref and inputs belong to workflow",
		"{event_type: " + strings.Repeat("x", 101) + rest:                                  "event_type: must have at most 100",
		"{event_type: x, client_payload: " + keys(11) + rest:                               "client_payload: has 11 top-level keys",
		"{event_type: x, client_payload: {a: {1: x}}" + rest:                               "client_payload: cannot be written as JSON",
		"{workflow: d.yml" + rest:                                                          "ref: is missing",
		"{workflow: .github/workflows/d.yml, ref: m" + rest:                                "workflow: must be the file's name",
		"{workflow: d.yml, ref: m, inputs: " + keys(26) + rest:                             "inputs: has 26 keys",
		"{workflow: d.yml, ref: m, client_payload: {a: b}" + rest:                          "client_payload: belongs to event_type",
		"{workflow: d.yml, ref: m, inputs: {a: " + strings.Repeat("x", 65536) + "}" + rest: "GitHub takes at most 65536",
		"{event_type: x, api_url: ftp://x" + rest:                                          "api_url: must begin with",
	} {
		_, err := build(GitHub(aClient()), spec)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v, want %q", spec, err, want)
		}
	}
	for _, spec := range []string{
		"{event_type: x, client_payload: " + keys(10) + rest,
		"{workflow: d.yaml, ref: m, inputs: " + keys(25) + rest,
		"{event_type: x, repository: shop/.github, token: {env: GH_TOKEN}}",
	} {
		if _, err := build(GitHub(aClient()), spec); err != nil {
			t.Error(err)
		}
	}
}
