package action

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeGitHub answers as GitHub's REST documentation says: 401 for a bad token,
// 404 for what the token cannot see, 403 for what it may not do, 422 for what is
// not valid, and 403 or 429 with headers when a limit is used up.
type fakeGitHub struct {
	limit   func(w http.ResponseWriter) bool // writes a refusal for a rate limit
	appears time.Duration                    // after which a run can be seen
	takes   time.Duration                    // for which it goes on then
	ends    string                           // its conclusion
	named   bool                             // the workflow has its input in run-name
	cannot  bool                             // an older server, which does not know return_run_details
	app     *rsa.PublicKey

	mu          sync.Mutex
	dispatch    []string
	runs        []fakeRun
	deployments []map[string]any
	states      []string // of deployments and commits
	tokens      []string // that were given to the app's installation
	unchanged   int      // answers that did not count
}

type fakeRun struct {
	title string
	began time.Time
}

const (
	githubToken, githubReadOnly = "ghp_planted_token", "ghp_planted_readonly"
	githubCommit                = "6dcb09b5b57875f334f61aebed695e2e4193db5e"
)

type githubBody struct {
	EventType     string            `json:"event_type"`
	ClientPayload map[string]any    `json:"client_payload"`
	Ref           string            `json:"ref"`
	Inputs        map[string]string `json:"inputs"`
	Details       bool              `json:"return_run_details"`
	State         string            `json:"state"`
	Context       string            `json:"context"`
	Repositories  []string          `json:"repositories"`
	Contexts      *[]string         `json:"required_contexts"`
	Environment   string            `json:"environment"`
	Payload       map[string]any    `json:"payload"`
}

func (f *fakeGitHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	data, _ := io.ReadAll(r.Body)
	var body githubBody
	decoded := json.Unmarshal(data, &body)
	path, ok := strings.CutPrefix(strings.TrimPrefix(r.URL.Path, "/api/v3"), "/repos/shop/deploy/")
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case r.UserAgent() == "" || strings.HasPrefix(r.UserAgent(), "Go-http-client"):
		refuse(w, 403, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header")
	case f.limit != nil && f.limit(w):
	case strings.Count(token, ".") == 2:
		f.asApp(w, r, token, body)
	case token != githubToken && token != githubReadOnly && !slices.Contains(f.tokens, token):
		refuse(w, 401, "Bad credentials")
	case !ok:
		refuse(w, 404, "Not Found")
	case r.Header.Get("X-GitHub-Api-Version") != "2022-11-28" || r.Header.Get("Accept") != "application/vnd.github+json":
		refuse(w, 400, "not a supported version")
	case r.Method == http.MethodGet:
		f.show(w, r, path)
	case token == githubReadOnly:
		refuse(w, 403, "Resource not accessible by personal access token")
	case decoded != nil:
		refuse(w, 400, "Problems parsing JSON")
	default:
		f.do(w, path, body)
	}
}

func refuse(w http.ResponseWriter, status int, message string) {
	say(w, status, map[string]string{"message": message, "documentation_url": "https://docs.github.com/rest", "status": fmt.Sprint(status)})
}

func (f *fakeGitHub) do(w http.ResponseWriter, path string, body githubBody) {
	switch {
	case path == "dispatches":
		if body.EventType == "" || len(body.EventType) > 100 || len(body.ClientPayload) > 10 {
			refuse(w, 422, "Invalid request.")
			return
		}
		payload, _ := json.Marshal(body.ClientPayload)
		f.dispatch = append(f.dispatch, body.EventType+" "+string(payload))
		w.WriteHeader(204)
	case path == "actions/workflows/deploy.yml/dispatches" || path == "actions/workflows/161335/dispatches":
		f.dispatchWorkflow(w, path, body)
	case path == "actions/workflows/push-only.yml/dispatches":
		refuse(w, 422, "Workflow does not have 'workflow_dispatch' trigger")
	case path == "deployments":
		switch {
		case body.Ref == "gone":
			refuse(w, 422, "No ref found for: gone")
		case body.Ref == "red" && (body.Contexts == nil || len(*body.Contexts) > 0):
			refuse(w, 409, "Conflict: Commit status checks failed for red.")
		case body.Ref == "behind":
			say(w, 202, map[string]string{"message": "Auto-merged main into behind on deployment."})
		default:
			f.deployments = append(f.deployments, map[string]any{"id": len(f.deployments) + 1, "payload": body.Payload, "ref": body.Ref, "environment": body.Environment})
			say(w, 201, f.deployments[len(f.deployments)-1])
		}
	case strings.HasPrefix(path, "deployments/") && strings.HasSuffix(path, "/statuses"), path == "statuses/"+githubCommit:
		f.states = append(f.states, strings.TrimSpace(path+" "+body.State+" "+body.Context))
		say(w, 201, map[string]any{"id": 1, "state": body.State})
	case strings.HasPrefix(path, "statuses/"):
		refuse(w, 422, "No commit found for SHA: "+strings.TrimPrefix(path, "statuses/"))
	default:
		refuse(w, 404, "Not Found")
	}
}

func (f *fakeGitHub) dispatchWorkflow(w http.ResponseWriter, path string, body githubBody) {
	for name := range body.Inputs {
		if name != "tag" && name != "dockbell" {
			refuse(w, 422, "Unexpected inputs provided")
			return
		}
	}
	switch {
	case body.Ref != "main":
		refuse(w, 422, "No ref found for: "+body.Ref)
		return
	case body.Details && f.cannot:
		refuse(w, 422, `Invalid request. "return_run_details" is not a permitted key.`)
		return
	}
	inputs, _ := json.Marshal(body.Inputs)
	f.dispatch = append(f.dispatch, path+"@"+body.Ref+" "+string(inputs))
	run := fakeRun{title: "Deploy", began: time.Now()}
	if f.named {
		run.title += " " + body.Inputs["dockbell"]
	}
	f.runs = append(f.runs, run)
	if !body.Details {
		w.WriteHeader(204)
		return
	}
	n := len(f.runs)
	say(w, 200, map[string]any{"workflow_run_id": n, "run_url": fmt.Sprintf("https://api.github.com/repos/shop/deploy/actions/runs/%d", n), "html_url": runPage(n)})
}

func runPage(n int) string { return fmt.Sprintf("https://github.com/shop/deploy/actions/runs/%d", n) }

func (f *fakeGitHub) show(w http.ResponseWriter, r *http.Request, path string) {
	run := func(n int) map[string]any {
		run := f.runs[n-1]
		says := map[string]any{"id": n, "html_url": runPage(n), "display_title": run.title, "status": "in_progress", "conclusion": nil}
		if time.Since(run.began) >= f.appears+f.takes {
			says["status"], says["conclusion"] = "completed", f.ends
		}
		return says
	}
	var n int
	switch _, err := fmt.Sscanf(path, "actions/runs/%d", &n); {
	case err == nil && n > 0 && n <= len(f.runs):
		says := run(n)
		tag := fmt.Sprintf(`W/"%s"`, says["status"])
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			f.unchanged++
			w.WriteHeader(304)
			return
		}
		say(w, 200, says)
	case path == "actions/workflows/deploy.yml/runs":
		since, err := time.Parse(time.RFC3339, strings.TrimPrefix(r.FormValue("created"), ">="))
		if err != nil || r.FormValue("event") != "workflow_dispatch" {
			refuse(w, 422, "created or event is not what it should be")
			return
		}
		runs := []any{}
		for i := len(f.runs); i > 0; i-- {
			if began := f.runs[i-1].began; time.Since(began) >= f.appears && !began.Before(since) {
				runs = append(runs, run(i))
			}
		}
		say(w, 200, map[string]any{"total_count": len(runs), "workflow_runs": runs})
	case path == "deployments":
		list := []any{}
		for _, d := range f.deployments {
			if d["ref"] == r.FormValue("ref") && d["environment"] == r.FormValue("environment") {
				list = append(list, d)
			}
		}
		say(w, 200, list)
	default:
		refuse(w, 404, "Not Found")
	}
}

// asApp answers what only the app itself may ask.
func (f *fakeGitHub) asApp(w http.ResponseWriter, r *http.Request, token string, body githubBody) {
	parts := strings.Split(token, ".")
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	hash := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var says struct {
		Issuer  string `json:"iss"`
		Issued  int64  `json:"iat"`
		Expires int64  `json:"exp"`
	}
	_ = json.Unmarshal(claims, &says)
	now := time.Now().Unix()
	path := strings.TrimPrefix(r.URL.Path, "/api/v3")
	switch {
	case f.app == nil || rsa.VerifyPKCS1v15(f.app, crypto.SHA256, hash[:], signature) != nil:
		refuse(w, 401, "A JSON web token could not be decoded")
	case says.Issuer != "Iv1.app":
		refuse(w, 401, "Integration not found")
	case says.Issued > now || says.Expires <= now || says.Expires > now+600:
		refuse(w, 401, "'Expiration time' claim ('exp') is too far in the future")
	case path == "/repos/shop/deploy/installation" && r.Method == http.MethodGet:
		say(w, 200, map[string]any{"id": 42})
	case path == "/app/installations/42/access_tokens" && r.Method == http.MethodPost && slices.Equal(body.Repositories, []string{"deploy"}):
		f.tokens = append(f.tokens, fmt.Sprintf("ghs_planted%d", len(f.tokens)))
		say(w, 201, map[string]any{"token": f.tokens[len(f.tokens)-1], "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
	default:
		refuse(w, 404, "Not Found")
	}
}

// appKey makes the key of the app, in PEM form.
func (f *fakeGitHub) appKey(t *testing.T) string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	f.app = &key.PublicKey
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

func newFakeGitHub(t *testing.T) (*fakeGitHub, string) {
	t.Setenv("GH_TOKEN", githubToken)
	t.Setenv("GH_READONLY", githubReadOnly)
	t.Setenv("GH_WRONG", "ghp_planted_wrong")
	f := &fakeGitHub{ends: "success"}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return f, server.URL + "/api/v3"
}

// The fake is held against the requests and answers that GitHub's documentation
// shows in "REST API endpoints for repositories", "for workflows", "for workflow
// runs", "for deployments", "for commit statuses" and "for GitHub Apps".
func TestFakeGitHub(t *testing.T) {
	_, api := newFakeGitHub(t)
	for _, c := range []struct {
		method, path, token, body string
		status                    int
		says                      string
	}{
		{"POST", "/dispatches", githubToken, `{"event_type":"on-demand-test","client_payload":{"unit":false,"integration":true}}`, 204, ""},
		{"POST", "/dispatches", githubToken, `{"client_payload":{}}`, 422, ""},
		{"POST", "/dispatches", githubToken, `{"event_type":"x","client_payload":{"1":1,"2":1,"3":1,"4":1,"5":1,"6":1,"7":1,"8":1,"9":1,"10":1,"11":1}}`, 422, ""},
		{"POST", "/dispatches", githubReadOnly, `{"event_type":"x"}`, 403, "not accessible"},
		{"POST", "/dispatches", "nonsense", `{"event_type":"x"}`, 401, "Bad credentials"},
		{"POST", "/actions/workflows/deploy.yml/dispatches", githubToken, `{"ref":"main","inputs":{"tag":"v1"}}`, 204, ""},
		{"POST", "/actions/workflows/161335/dispatches", githubToken, `{"ref":"main","return_run_details":true}`, 200, `"workflow_run_id":2`},
		{"POST", "/actions/workflows/deploy.yml/dispatches", githubToken, `{"ref":"gone"}`, 422, "No ref found"},
		{"POST", "/actions/workflows/deploy.yml/dispatches", githubToken, `{"ref":"main","inputs":{"name":"v1"}}`, 422, "Unexpected inputs"},
		{"POST", "/actions/workflows/none.yml/dispatches", githubToken, `{"ref":"main"}`, 404, "Not Found"},
		{"GET", "/actions/workflows/deploy.yml/runs?event=workflow_dispatch&created=%3E%3D2020-01-01T00:00:00Z", githubToken, "", 200, `"workflow_runs":[{"conclusion":"success","display_title":"Deploy"`},
		{"GET", "/actions/runs/2", githubToken, "", 200, `"status":"completed"`},
		{"GET", "/actions/runs/9", githubToken, "", 404, "Not Found"},
		{"POST", "/deployments", githubToken, `{"ref":"topic-branch","payload":{},"environment":"production"}`, 201, `"id":1`},
		{"POST", "/deployments", githubToken, `{"ref":"red"}`, 409, "Commit status checks failed"},
		{"POST", "/deployments", githubToken, `{"ref":"behind"}`, 202, "Auto-merged"},
		{"GET", "/deployments?ref=topic-branch&environment=production", githubToken, "", 200, `[{"environment":"production","id":1`},
		{"POST", "/deployments/1/statuses", githubToken, `{"state":"success"}`, 201, `"state":"success"`},
		{"POST", "/statuses/" + githubCommit, githubToken, `{"state":"success","context":"ci"}`, 201, ""},
		{"POST", "/statuses/" + strings.Repeat("0", 40), githubToken, `{"state":"success"}`, 422, "No commit found"},
		{"GET", "/installation", "a.b.c", "", 401, "could not be decoded"},
	} {
		req, err := http.NewRequest(c.method, api+"/repos/shop/deploy"+c.path, strings.NewReader(c.body))
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
