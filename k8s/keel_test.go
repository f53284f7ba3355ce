package k8s

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// What wins is not the same for all keys.
func TestKeelPrecedence(t *testing.T) {
	const both, label, annotation = "both", "label", "annotation"
	for key, want := range map[string]map[string]string{
		"policy":            {both: annotation, label: label, annotation: annotation},
		"trigger":           {both: annotation, label: label, annotation: annotation},
		"pollSchedule":      {both: annotation, label: "", annotation: annotation},
		"imagePullSecret":   {both: label, label: label, annotation: annotation},
		"IMAGEpullSECRET":   {both: label, label: label, annotation: annotation},
		"monitorContainers": {both: annotation, label: label, annotation: annotation},
		"monitorcontainers": {both: annotation, label: label, annotation: annotation},
		"initContainers":    {both: annotation, label: "", annotation: annotation},
		"initcontainers":    {},
		"imageVolumes":      {both: label, label: label, annotation: annotation},
		"approvals":         {both: label, label: label, annotation: annotation},
		"Approvals":         {},
		"approvalDeadline":  {both: label, label: label, annotation: annotation},
		"matchTag":          {both: label, label: label, annotation: ""}, // there is no policy among the annotations
	} {
		for where, value := range want {
			var w KeelWorkload
			if where != annotation {
				w.Labels = map[string]string{"keel.sh/" + key: label}
			}
			if where != label {
				w.Annotations = map[string]string{"keel.sh/" + key: annotation}
			}
			name := key
			for row := range keelKeys {
				if strings.EqualFold(row, key) {
					name = row
				}
			}
			if got, ok := w.value(name); got != value || ok != (value != "") {
				t.Errorf("%s in %s: %q, %t, want %q", key, where, got, ok, value)
			}
		}
	}
	w := KeelWorkload{Annotations: map[string]string{"keel.sh/policy": "force", "keel.sh/matchTag": "a"}, Labels: map[string]string{"keel.sh/matchTag": "b"}}
	if got, _ := w.value("matchTag"); got != "a" {
		t.Errorf("matchTag beside the policy: %q", got)
	}
}

func TestKeelSchedule(t *testing.T) {
	for in, want := range map[string]string{
		"@every 5m":       "@every 5m",
		"@every 1h30m10s": "@every 1h30m10s",
		"@every 300ms":    "@every 1s",
		"@hourly":         "@hourly",
		"@midnight":       "@midnight",
		"0 */5 * * * *":   "*/5 * * * *",
		"30 0 3 * * MON":  "0 3 * * MON",
		"0 30 2 1 *":      "30 2 1 * *", // the day of the week is missing, not the second
		"*/10 * * * * *":  "@every 10s",
		"*/10 5 * * * *":  "",
		"1-5 * * * * *":   "",
		"* * * *":         "",
		"0 0 0 30 2 *":    "",
		"every minute":    "",
		"":                "",
	} {
		got, err := KeelSchedule(in)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
}

// An expression that is found in a tag, and its translation, which must match
// the whole tag, say the same of every tag.
func TestUnanchored(t *testing.T) {
	tags := []string{"", "v1", "v1.2.3", "dev", "mydev", "dev-1", "test", "DEV", "^dev$", "a", "b", "ab", "ab$", "xab", "abx", "a|b"}
	for expr, want := range map[string]string{
		`^v\d+$`:        `v\d+`,
		`^dev`:          `dev.*`,
		`dev$`:          `.*dev`,
		`dev`:           `.*(?:dev).*`,
		`^dev$|^test$`:  `.*(?:^dev$|^test$).*`,
		`^a|b$`:         `.*(?:^a|b$).*`,
		`(?i)^dev$`:     `.*(?i)^dev`,
		`^(?i)dev$`:     `(?i)dev`,
		`^(a|b)$`:       `(a|b)`,
		`^ab\$`:         `ab\$.*`,
		`^$`:            `$.*`,
		``:              `.*(?:).*`,
		`^`:             `.*(?:^).*`,
		`^(?P<x>[ab])+`: `(?P<x>[ab])+.*`,
		`\Aab\z`:        `.*(?:\Aab\z).*`,
	} {
		got, err := unanchored(expr)
		if err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", expr, got, err, want)
			continue
		}
		whole := regexp.MustCompile("^(?:" + got + ")$")
		for _, tag := range tags {
			if found := regexp.MustCompile(expr).MatchString(tag); whole.MatchString(tag) != found {
				t.Errorf("%s becomes %s, and only one of them is for %q", expr, got, tag)
			}
		}
	}
	if _, err := unanchored("("); err == nil {
		t.Error("a broken expression was taken")
	}
}

func FuzzUnanchored(f *testing.F) {
	for _, expr := range []string{"^a$", "^a|^b", "a$|b$", "^a$|^b$", "^(?i)a", "(?m)^a$", "^a", "b$", "", "^", "$", `^a\$`, "^a|b$", `^\d+(-rc)?$`, "^^a$$"} {
		for _, tag := range []string{"a", "ab", "ba", "A", "1-rc"} {
			f.Add(expr, tag)
		}
	}
	isTag := regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	f.Fuzz(func(t *testing.T, expr, tag string) {
		if len(expr) > 60 || !isTag.MatchString(tag) {
			t.Skip() // repeats in repeats take their time
		}
		found, err := regexp.Compile(expr)
		if err != nil {
			t.Skip()
		}
		got, err := unanchored(expr)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := regexp.Compile("^(?:" + got + ")$")
		if err != nil || whole.MatchString(tag) != found.MatchString(tag) {
			t.Errorf("%q becomes %q, %v: only one of them is for %q", expr, got, err, tag)
		}
	})
}

// The same workloads give the same rules in whatever order they come, so that
// nothing changes when nothing has changed.
func TestTranslateKeelIsStable(t *testing.T) {
	var workloads []KeelWorkload
	for _, name := range []string{"web", "api", "job", strings.Repeat("long", 20) + "1", strings.Repeat("long", 20) + "2"} {
		for _, kind := range []string{"deployment", "cronjob"} {
			workloads = append(workloads, KeelWorkload{
				Kind: kind, Namespace: "shop", Name: name, PullSecrets: []string{"for-" + name},
				Annotations: map[string]string{"keel.sh/policy": "minor", "keel.sh/trigger": "poll", "keel.sh/notify": "a", "keel.sh/what": "b"},
				Images:      []KeelImage{{"a", KeelContainer, "registry.example.com/a:1.2.3"}, {"b", KeelContainer, "registry.example.com/b:2.0.0"}},
			})
		}
	}
	want := TranslateKeel(workloads, KeelOptions{})
	names := map[string]bool{}
	for _, r := range want.Rules {
		if names[r.Name] || len(r.Name) > nameLength {
			t.Errorf("the name %s is taken, or too long", r.Name)
		}
		names[r.Name] = true
	}
	if len(names) != 20 {
		t.Errorf("%d rules, want one for each image", len(names))
	}
	for range 20 {
		rand.Shuffle(len(workloads), func(i, j int) { workloads[i], workloads[j] = workloads[j], workloads[i] })
		if diff := cmp.Diff(want, TranslateKeel(workloads, KeelOptions{})); diff != "" {
			t.Fatal(diff)
		}
	}
}

// Rules that are made again with each change have nothing that is fixed.
func TestTranslateKeelFollows(t *testing.T) {
	w := KeelWorkload{
		Kind: "deployment", Namespace: "shop", Name: "web", Annotations: map[string]string{"keel.sh/policy": "minor"},
		Images: []KeelImage{{"web", KeelContainer, "registry.example.com/web:1.2"}},
	}
	fixed := TranslateKeel([]KeelWorkload{w}, KeelOptions{})
	follows := TranslateKeel([]KeelWorkload{w}, KeelOptions{Follows: true, Prefix: "keel."})
	if len(fixed.Rules[0].Notes) != len(follows.Rules[0].Notes)+1 || follows.Rules[0].Name != "keel.shop.web" {
		t.Errorf("%+v\n%+v", fixed.Rules, follows.Rules)
	}
}

func TestReadKeelFaults(t *testing.T) {
	for manifest, want := range map[string]string{
		"a: [":                "document 1: ",
		"a: 1\n---\nb: {{x}}": "document 2: ",
		"{apiVersion: apps/v1, kind: Deployment, metadata: {annotations: {keel.sh/matchTag: true}}}": "Deployment: json: cannot unmarshal bool",
	} {
		if _, _, err := ReadKeel(strings.NewReader(manifest), "default"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", manifest, err, want)
		}
	}
}

const everywhere = `
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: web
  namespace: shop
  labels: {app: web, keel.sh/approvals: "1"}
  annotations: {keel.sh/policy: all, KEEL.sh/monitorContainers: a, other: thing}
spec:
  template:
    metadata: {annotations: {keel.sh/policy: none}}
    spec:
      containers: [{name: a, image: "a:1", env: [{name: X, value: x}]}]
      initContainers: [{name: b, image: "b:1"}]
      volumes: [{name: c, image: {reference: "c:1"}}, {name: d, emptyDir: {}}]
      imagePullSecrets: [{name: e}]
`

// What is remembered of a workload is all that keel looks at, and no more.
func TestSlimForKeel(t *testing.T) {
	k, _ := kindOf("statefulset")
	object := k.object()
	if err := yaml.NewYAMLOrJSONDecoder(strings.NewReader(everywhere), 100).Decode(object); err != nil {
		t.Fatal(err)
	}
	want := keelWorkload(k, object)
	if len(want.Images) != 3 || len(want.PullSecrets) != 1 {
		t.Errorf("seen is %+v", want)
	}
	slim, err := k.slimForKeel(object)
	if err != nil {
		t.Fatal(err)
	}
	delete(want.Labels, "app")
	delete(want.Annotations, "other")
	if diff := cmp.Diff(want, slim.(*followed).keel); diff != "" {
		t.Error(diff)
	}
	if again, err := k.slimForKeel(slim); again != slim || err != nil {
		t.Errorf("remembered again it is %v, %v", again, err)
	}
	bare, err := k.slimForKeel(k.object())
	if w := bare.(*followed).keel; err != nil || w.Name != "" || w.Labels != nil {
		t.Errorf("of a workload that has nothing to do with keel is remembered %+v, %v", w, err)
	}
}

// A cluster is read to its end, page by page, and who may not is told what is
// missing.
func TestKeelOfCluster(t *testing.T) {
	asked := []string{}
	forbidden := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		plural, more := path.Base(r.URL.Path), r.URL.Query().Get("continue")
		asked = append(asked, plural+" "+more)
		if plural == forbidden {
			reply(w, http.StatusForbidden, failure(http.StatusForbidden, metav1.StatusReasonForbidden, "user x cannot list", 0))
			return
		}
		kind := map[string]string{"cronjobs": "CronJobList", "daemonsets": "DaemonSetList", "deployments": "DeploymentList", "statefulsets": "StatefulSetList"}[plural]
		next, items := "", []any{}
		if plural == "deployments" {
			items = append(items, map[string]any{"metadata": map[string]any{"namespace": "shop", "name": "web" + more}})
			if next = "2"; more == "2" {
				next = ""
			}
		}
		group := map[bool]string{true: "batch/v1", false: "apps/v1"}[plural == "cronjobs"]
		reply(w, http.StatusOK, map[string]any{"apiVersion": group, "kind": kind, "metadata": map[string]any{"continue": next}, "items": items})
	}))
	defer server.Close()
	clusters := clustersAt(t, server.URL)
	workloads, err := clusters.Keel(t.Context(), DefaultCluster, "")
	if err != nil || len(workloads) != 2 || workloads[0].String() != "deployment shop/web" || workloads[1].Name != "web2" {
		t.Errorf("%v, %v", workloads, err)
	}
	if want := []string{"cronjobs ", "daemonsets ", "deployments ", "deployments 2", "statefulsets "}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}
	forbidden = "statefulsets"
	for namespace, want := range map[string]string{"": "name a namespace, or a ClusterRole must allow list and watch on statefulsets.apps", "shop": "a Role in namespace shop must allow list and watch on statefulsets.apps"} {
		if _, err := clusters.Keel(t.Context(), DefaultCluster, namespace); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// Many changes at once are handed out as one, and none where nothing differs.
func TestGatherKeel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now := []KeelWorkload{{Name: "a"}}
		there := func() []KeelWorkload {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(now)
		}
		stirred := make(chan struct{}, 1)
		var got [][]KeelWorkload
		go func() {
			_ = gatherKeel(t.Context(), stirred, there, func(w []KeelWorkload) { got = append(got, w) })
		}()
		synctest.Wait()
		for _, name := range []string{"b", "c", "d"} {
			mu.Lock()
			now = append(now, KeelWorkload{Name: name})
			mu.Unlock()
			select {
			case stirred <- struct{}{}:
			default:
			}
			synctest.Wait()
		}
		time.Sleep(3 * keelPause)
		stirred <- struct{}{}
		time.Sleep(3 * keelPause)
		synctest.Wait()
		if len(got) != 2 || len(got[0]) != 1 || len(got[1]) != 4 {
			t.Errorf("handed out %+v", got)
		}
	})
}
