package source

import (
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// recognisers are the senders whose request it looks like.
func recognisers(l look) []string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(senders)) {
		if known := senders[kind].Recognise; known != nil && known(l) {
			all = append(all, kind)
		}
	}
	return all
}

// sameForm are senders that send the very same form: which of them it is, does
// not always show.
var sameForm = [][]string{{"distribution", "gitlab"}, {"google-gar", "google-gcr"}}

// others are the samples that show nothing of their sender, or that are
// another's in truth: by who recognises them.
var others = map[string]string{
	"azure-eventgrid/no-events": "",
	"cdevents/other-vendor":     "cloudevents",
	"cloudsmith/array-empty":    "",
	"cloudsmith/ping-no-data":   "",
}

// Each sample is recognised by its own sender and by nobody else.
func TestRecognise(t *testing.T) {
	for _, kind := range Types() {
		t.Run(kind, func(t *testing.T) {
			for name, d := range cases(t, kind) {
				want := []string{kind}
				if other, ok := others[kind+"/"+name]; ok || kind == genericType {
					want = strings.Fields(other)
				}
				got := recognisers(glance(d.header, d.body))
				shared := slices.ContainsFunc(sameForm, func(form []string) bool { return slices.Equal(form, got) && slices.Contains(form, kind) })
				if !slices.Equal(got, want) && !shared {
					t.Errorf("%s is recognised by %q, want %q", name, got, want)
				}
			}
		})
	}
}

// A push tells its sender even where two have the same form, save that a
// GitLab's can pass for that of any other registry.
func TestRecognisePush(t *testing.T) {
	for _, kind := range Types() {
		t.Run(kind, func(t *testing.T) {
			d, ok := cases(t, kind)["push"]
			if !ok {
				t.Fatal("no sample named push")
			}
			want := []string{kind}
			switch kind {
			case "gitlab":
				want = []string{"distribution", "gitlab"}
			case genericType:
				want = nil
			}
			if got := recognisers(glance(d.header, d.body)); !slices.Equal(got, want) {
				t.Errorf("recognised by %q, want %q", got, want)
			}
		})
	}
}

func TestRecogniseNothing(t *testing.T) {
	for _, body := range []string{
		"", " ", "push", `"push"`, "1", "null", "[]", "[1]", "[[]]", "[null]", "{}", "[{}]", `{"`, "{} {}",
		`{"image": "registry.example.com/dockyard/pilot:2.7.1"}`,
		`{"repository": "dockyard/pilot", "tag": "2.7.1"}`,
		`{"name": "dockyard/pilot", "tag": "2.7.1", "digest": "x"}`,
		`{"repository": {"name": "pilot"}, "tags": ["1"], "event": "push"}`,
		`{"type": "push", "data": {}}`,
		strings.Repeat("[", 1<<16), strings.Repeat(`{"a":`, 1<<16),
	} {
		for _, h := range []http.Header{nil, {"Content-Type": {"application/json"}}, {"Content-Type": {"application/x-www-form-urlencoded"}}} {
			if got := recognisers(glance(h, []byte(body))); len(got) > 0 {
				t.Errorf("%.60s, %v is recognised by %q", body, h, got)
			}
		}
	}
}

// vendorImages are images as they can be in the registries of a vendor that
// has its own names for them; the others take any.
var vendorImages = map[string]struct {
	registry     string
	repositories []string
}{
	"aliyun":          {"registry.cn-hangzhou.aliyuncs.com", []string{"dockyard/pilot"}},
	"aws-ecr":         {"123456789012.dkr.ecr.eu-west-1.amazonaws.com", []string{"pilot", "dockyard/pilot", "dockyard/night/pilot"}},
	"azure-acr":       {"dockyard.azurecr.io", []string{"pilot", "dockyard/night/pilot"}},
	"azure-eventgrid": {"dockyard.azurecr.io", []string{"pilot", "dockyard/night/pilot"}},
	"cloudsmith":      {"docker.cloudsmith.io", []string{"dockyard/night/pilot"}},
	"dockerhub":       {"docker.io", []string{"dockyard/pilot", "library/barge"}},
	"gitea":           {"gitea.example.com", []string{"dockyard/pilot", "dockyard/night/pilot"}},
	"github":          {"ghcr.io", []string{"dockyard/pilot", "dockyard/night/pilot"}},
	"google-gar":      {"europe-west1-docker.pkg.dev", []string{"dockyard/night/pilot"}},
	"google-gcr":      {"gcr.io", []string{"dockyard/pilot", "dockyard/night/pilot"}},
	"huawei-swr":      {"yard.swr-pro.myhuaweicloud.com", []string{"dockyard/pilot", "dockyard/night/pilot"}},
	"jfrog":           {"dockyard.jfrog.io", []string{"docker-local/pilot", "docker-local/night/pilot"}},
	"tencent-tcr":     {"yard.tencentcloudcr.com", []string{"dockyard/pilot", "dockyard/night/pilot"}},
}

// hostless and digestless are those that do not tell the one or the other.
var (
	hostless   = []string{"nexus", "zot"}
	digestless = []string{"dockerhub", "gitea", "nexus", "quay"}
)

// A sample is a delivery of its vendor, and of the push that was asked for.
func TestSamples(t *testing.T) {
	t.Setenv("DOCK_TOKEN", token)
	const digest = "sha256:3333333333333333333333333333333333333333333333333333333333333333"
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for _, kind := range Types() {
		if senders[kind].Sample == nil {
			t.Errorf("%s has no sample", kind)
			continue
		}
		v, own := vendorImages[kind]
		if !own {
			v.registry, v.repositories = "registry.example.com:5000", []string{"pilot", "dockyard/pilot", "dockyard/night/pilot"}
		}
		s := open(t, kind)
		for _, repository := range v.repositories {
			for _, given := range []string{"", digest} {
				want := trigger.Image{Registry: v.registry, Repository: repository, Tag: "v1.10", Digest: given}
				t.Run(kind+"/"+repository+map[bool]string{true: "/digest"}[given != ""], func(t *testing.T) {
					r, err := s.Sample(want, at)
					if err != nil {
						t.Fatal(err)
					}
					if got := recognisers(glance(r.Header, r.Body)); kind != genericType && !slices.Equal(got, []string{kind}) && kind != "gitlab" {
						t.Errorf("recognised by %q", got)
					}
					if h := s.Handshake(r.Header, r.Body); h != nil {
						t.Errorf("a handshake: %+v", h)
					}
					events, err := s.Parse(r.Header, r.Body)
					if err != nil || len(events) != 1 {
						t.Fatalf("%+v, %v\n%s", events, err, r.Body)
					}
					checkEvents(t, events)
					e := events[0]
					if e.Ignored != "" || e.Action != trigger.Push || e.Repository != want.Repository || e.Tag != want.Tag {
						t.Errorf("got %+v, want %+v", e, want)
					}
					if e.Registry != want.Registry && !slices.Contains(hostless, kind) {
						t.Errorf("registry %q", e.Registry)
					}
					if given != "" && e.Digest != given && !slices.Contains(digestless, kind) {
						t.Errorf("digest %q", e.Digest)
					}
					if !e.OccurredAt.IsZero() && !e.OccurredAt.Equal(at) {
						t.Errorf("time %s", e.OccurredAt)
					}
				})
			}
		}
	}
}

// A sample carries what the source demands, by any scheme that is not the
// vendor's secret.
func TestSamplesAreSigned(t *testing.T) {
	t.Setenv("DOCK_TOKEN", token)
	t.Setenv("DOCK_OTHER", "another secret")
	schemes := []string{
		"none", "{token: {env: DOCK_TOKEN}}", "{token: {env: DOCK_TOKEN}, header: X-Dock}", "{bearer: {env: DOCK_TOKEN}}",
		"{basic: {username: crane, password: {env: DOCK_TOKEN}}}",
		"{hmac: {secret: {env: DOCK_TOKEN}, header: X-Sum}}", "{hmac: {secret: {env: DOCK_TOKEN}, header: X-Sum, algorithm: sha512, prefix: 'sha512='}}",
		"{token: {env: DOCK_TOKEN}, basic: {username: crane, password: {env: DOCK_TOKEN}}, hmac: {secret: {env: DOCK_TOKEN}, header: X-Sum}}",
		"[{bearer: {env: DOCK_TOKEN}}, {bearer: {env: DOCK_OTHER}}]",
	}
	img := trigger.Image{Repository: "dockyard/night/pilot", Tag: "2.7.1"}
	for _, kind := range Types() {
		all := schemes
		if senders[kind].Signature != nil {
			all = append(slices.Clone(all), "{signature: {env: DOCK_TOKEN}}", "{signature: {env: DOCK_TOKEN}, token: {env: DOCK_TOKEN}}")
		}
		for _, auth := range all {
			s := mustLoad(t, "{type: "+kind+", auth: "+auth+"}")
			r, err := s.Sample(img, time.Now())
			if err != nil {
				t.Errorf("%s, %s: %v", kind, auth, err)
				continue
			}
			if got := verdict(t, s, r); got != "in" {
				t.Errorf("%s, %s: %s with %v %v", kind, auth, got, r.Query, r.Header)
			}
			if auth == "none" {
				continue
			}
			r.Query = url.Values{}
			for _, name := range s.Hidden() {
				r.Header.Del(name)
			}
			if got := verdict(t, s, r); got != "out" {
				t.Errorf("%s, %s: %s without what is hidden", kind, auth, got)
			}
		}
	}
	s := mustLoad(t, "{type: auto, senders: {quay: {auth: none}}}")
	if r, err := s.Sample(img, time.Now()); err == nil {
		t.Errorf("a sample of nobody: %+v", r)
	}
}

const crew = `
type: auto
from: [192.0.2.0/24]
senders:
  dockerhub: {auth: {token: {env: DOCK_HUB}}, callback: true}
  distribution: {auth: {bearer: {env: DOCK_REGISTRY}}, registry: registry.example.com}
  gitlab: {auth: {bearer: {env: DOCK_GITLAB}}, registry: registry.gitlab.example.com}
  github: {auth: {signature: {env: DOCK_GITHUB}}}
  azure-eventgrid: {auth: {token: {env: DOCK_GRID}}}
`

const crewAndJSON = crew + `  generic-json: {auth: {token: {env: DOCK_JSON}, header: X-Dock}, fields: {image: ref}}
`

// loadSeveral makes a source of several senders, each with a secret of its own,
// and beside it each of them alone.
func loadSeveral(t *testing.T, text string) *Source {
	t.Helper()
	for _, name := range []string{"HUB", "REGISTRY", "GITLAB", "GITHUB", "GRID", "JSON"} {
		t.Setenv("DOCK_"+name, token+"-"+name)
	}
	return mustLoad(t, text)
}

var inside = netip.MustParseAddr("192.0.2.7")

// signedAs is the push of one sender with its credentials.
func signedAs(t *testing.T, s *Source, kind string) Request {
	t.Helper()
	r, err := s.Of(kind).Sample(trigger.Image{Registry: "registry.example.com", Repository: "dockyard/pilot", Tag: "2.7.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r.From = inside
	return r
}

func TestAuto(t *testing.T) {
	s := loadSeveral(t, crewAndJSON)
	kinds := []string{"dockerhub", "distribution", "gitlab", "github", "azure-eventgrid"}
	for _, kind := range kinds {
		r := signedAs(t, s, kind)
		found, err := s.Verify(t.Context(), r)
		if err != nil || found != s.Of(kind) {
			t.Errorf("%s: got %+v, %v", kind, found, err)
			continue
		}
		events, err := found.Parse(r.Header, r.Body)
		if err != nil || len(events) != 1 || events[0].Repository != "dockyard/pilot" || events[0].Ignored != "" {
			t.Errorf("%s: got %+v, %v", kind, events, err)
		}
		checkEvents(t, events) // they are of the source by its name
		if want := s.Of(kind).registry; want != "" && events[0].Registry != want {
			t.Errorf("%s: registry %s", kind, events[0].Registry)
		}

		// The credentials of another are those of a stranger.
		for _, other := range kinds {
			if other == kind {
				continue
			}
			wrong := signedAs(t, s, other)
			wrong.Body = r.Body
			for name, values := range r.Header {
				if !slices.Contains(s.Of(kind).Hidden(), name) && wrong.Header.Get(name) == "" {
					wrong.Header[name] = values
				}
			}
			if found, err := s.Verify(t.Context(), wrong); err == nil && found.Type == kind {
				t.Errorf("%s with the credentials of %s is let in", kind, other)
			}
		}
		stripped := r
		stripped.Query, stripped.Header = url.Values{}, r.Header.Clone()
		for _, name := range s.Of(kind).Hidden() {
			stripped.Header.Del(name)
		}
		if got := verdict(t, s, stripped); got != "out" {
			t.Errorf("%s without credentials: %s", kind, got)
		}
		r.From = netip.MustParseAddr("203.0.113.1")
		if got := verdict(t, s, r); got != "out" {
			t.Errorf("%s from elsewhere: %s", kind, got)
		}
	}
	if s.Of("quay") != nil || s.Of(AutoType) != s || s.Of("github").Of("github") != s.Of("github") {
		t.Error("Of finds the wrong source")
	}
}

// What looks like a sender that is not named is nobody's: not even the generic
// one's when its own credentials are missing.
func TestAutoOthers(t *testing.T) {
	strict, lenient := loadSeveral(t, crew), loadSeveral(t, crewAndJSON)
	json := func(body string) Request {
		return Request{From: inside, Header: http.Header{"X-Dock": {token + "-JSON"}}, Body: []byte(body)}
	}
	plain := json(`{"ref": "registry.example.com/dockyard/pilot:2.7.1"}`)
	if got := verdict(t, strict, plain); got != "out" {
		t.Errorf("nobody's JSON: %s", got)
	}
	found, err := lenient.Verify(t.Context(), plain)
	if err != nil || found.Type != genericType {
		t.Fatalf("got %+v, %v", found, err)
	}
	events, err := found.Parse(plain.Header, plain.Body)
	if err != nil || len(events) != 1 || events[0].Image.String() != "registry.example.com/dockyard/pilot:2.7.1" {
		t.Errorf("got %+v, %v", events, err)
	}
	plain.Header = http.Header{}
	if got := verdict(t, lenient, plain); got != "out" {
		t.Errorf("nobody's JSON without credentials: %s", got)
	}

	// A sender that is recognised must be itself, whoever else would do.
	hub := json(`{"push_data": {"tag": "1"}, "repository": {"repo_name": "dockyard/pilot"}, "ref": "evil.example/dockyard/pilot:1"}`)
	if got := verdict(t, lenient, hub); got != "out" {
		t.Errorf("Docker Hub with the credentials of the generic sender: %s", got)
	}
	// Quay is not named, so its form is as good as any other.
	if found, err := lenient.Verify(t.Context(), json(`{"docker_url": "quay.io/dockyard/pilot", "updated_tags": ["1"]}`)); err != nil || found.Type != genericType {
		t.Errorf("a sender that is not named: %+v, %v", found, err)
	}
	for _, body := range []string{"", "{}", "[]", "push", "{"} {
		if got := verdict(t, strict, json(body)); got != "out" {
			t.Errorf("%q: %s", body, got)
		}
	}
	_, err = strict.Verify(t.Context(), json("{}"))
	if err == nil || !strings.Contains(err.Error(), "it looks like nothing that the senders of this source send") {
		t.Errorf("got %v", err)
	}
}

// What cannot be checked now is not refused for good, in whichever order the
// senders are asked.
func TestAutoCannotCheck(t *testing.T) {
	t.Setenv("DOCK_TOKEN", token)
	file := filepath.Join(t.TempDir(), "token")
	for _, gone := range []string{"distribution", "gitlab"} {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		refs := map[string]string{"distribution": "{env: DOCK_TOKEN}", "gitlab": "{env: DOCK_TOKEN}", gone: "{file: " + file + "}"}
		s := mustLoad(t, "{type: auto, senders: {distribution: {auth: {bearer: "+refs["distribution"]+"}}, gitlab: {auth: {bearer: "+refs["gitlab"]+"}}}}")
		h, body := senders["gitlab"].Sample(trigger.Image{Repository: "dockyard/pilot", Tag: "1"}, time.Now())
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		for bearer, want := range map[string]string{token: "in", "guess": "later", "": "later"} {
			h.Set("Authorization", "Bearer "+bearer)
			if got := verdict(t, s, Request{Header: h, Body: body}); got != want {
				t.Errorf("%s away, %q: %s, want %s", gone, strings.TrimPrefix(bearer, token), got, want)
			}
		}
	}
}

func TestLooksLike(t *testing.T) {
	strict, lenient := loadSeveral(t, crew), loadSeveral(t, crewAndJSON)
	for _, kind := range []string{"dockerhub", "distribution", "github", "azure-eventgrid"} {
		r := signedAs(t, strict, kind)
		for _, name := range strict.Of(kind).Hidden() {
			r.Header.Del(name)
		}
		if got := strict.LooksLike(r.Header, r.Body); got != strict.Of(kind) {
			t.Errorf("%s looks like %+v", kind, got)
		}
	}
	body := []byte(`{"ref": "dockyard/pilot:1"}`)
	if got := strict.LooksLike(nil, body); got != nil {
		t.Errorf("nobody's JSON looks like %s", got.Type)
	}
	if got := lenient.LooksLike(nil, body); got != lenient.Of(genericType) {
		t.Errorf("nobody's JSON looks like %+v", got)
	}
	single := open(t, "quay")
	if got := single.LooksLike(nil, body); got != single {
		t.Errorf("for a single sender it looks like %+v", got)
	}
}

func TestAutoOptions(t *testing.T) {
	asks := http.Header{"Webhook-Request-Origin": {"eventgrid.azure.net"}}
	if reply := loadSeveral(t, crew).Options(asks); reply == nil || reply.Status != http.StatusOK || reply.Header.Get("WebHook-Allowed-Origin") != "eventgrid.azure.net" {
		t.Errorf("got %+v", reply)
	}
	if reply := mustLoad(t, "{type: auto, senders: {quay: {auth: none}, zot: {auth: none}}}").Options(asks); reply != nil {
		t.Errorf("nobody asks so, but got %+v", reply)
	}
}

func TestAutoFaults(t *testing.T) {
	t.Setenv("DOCK_TOKEN", token)
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"no senders", "type: auto", []string{"dockbell.yaml:1: senders: senders are missing: name each type"}},
		{"no sender", "type: auto\nsenders: {}", []string{"dockbell.yaml:2: senders: senders are missing"}},
		{"senders null", "type: auto\nsenders:", []string{"dockbell.yaml:2: senders: senders are missing"}},
		{"senders a list", "type: auto\nsenders: [quay]", []string{"dockbell.yaml:2: senders: must be a mapping, not a list", "dockbell.yaml:2: senders: senders are missing"}},
		{"auth beside them", "type: auto\nauth: none\nsenders: {quay: {auth: none}}", []string{"dockbell.yaml:2: auth: belongs to each of the senders"}},
		{"registry beside them", "type: auto\nregistry: quay.io\nsenders: {quay: {auth: none}}", []string{"dockbell.yaml:2: registry: belongs to each of the senders"}},
		{"callback beside them", "type: auto\ncallback: true\nsenders: {dockerhub: {auth: none}}", []string{"dockbell.yaml:2: callback: only dockerhub has a callback"}},
		{"fields beside them", "type: auto\nfields: {image: x}\nsenders: {quay: {auth: none}}", []string{"dockbell.yaml:2: fields: only generic-json has fields"}},
		{"unknown sender", "type: auto\nsenders:\n  quai: {auth: none}", []string{`dockbell.yaml:3: senders.quai: unknown type "quai"; known are aliyun, `}},
		{"auto among them", "type: auto\nsenders:\n  auto: {senders: {quay: {auth: none}}}", []string{`dockbell.yaml:3: senders.auto: unknown type "auto"`}},
		{"type said twice", "type: auto\nsenders:\n  quay:\n    type: quay\n    auth: none", []string{"dockbell.yaml:4: senders.quay.type: is said by the key above"}},
		{"sender twice", "type: auto\nsenders:\n  quay: {auth: none}\n  quay: {auth: {token: {env: DOCK_TOKEN}}}", []string{"dockbell.yaml:4: senders.quay: the key is there twice; the other is on line 3"}},
		{"sender without auth", "type: auto\nsenders:\n  quay:\n  zot: {}", []string{"dockbell.yaml:3: senders.quay: auth is missing", "dockbell.yaml:4: senders.zot: auth is missing"}},
		{"faults of several", "type: auto\nfrom: [office]\nsenders:\n  quay: {auth: {signature: {env: DOCK_TOKEN}}}\n  zot: {auth: none, callback: true}\n  harbor: {auth: none, senders: {quay: {auth: none}}}", []string{
			`dockbell.yaml:2: from[0]: "office"`, "dockbell.yaml:4: senders.quay.auth.signature: this sender does not sign", "dockbell.yaml:5: senders.zot.callback: only dockerhub", "dockbell.yaml:6: senders.harbor.senders: only auto has senders",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.text)
			if err == nil {
				t.Fatal("no fault")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			}
			if n := strings.Count(err.Error(), "\n") + 1; n != len(tt.want) {
				t.Errorf("%d faults, want %d: %v", n, len(tt.want), err)
			}
		})
	}
}
