package main

import (
	"encoding/pem"
	"errors"
	"flag"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/server"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

var update = flag.Bool("update", false, "write the wanted errors of testdata/config/bad anew")

const configs = "../../testdata/config"

// parse reads a configuration as serve does; commands are not allowed in the
// one file that is about that.
func parse(t testing.TB, path string) (*config, error) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	allowed := filepath.Base(path) != "commands-not-allowed.yaml"
	return parseConfig("dockbell.yaml", data, offlineKinds(t.Context(), allowed))
}

// setSecrets sets the secrets that the files of testdata/config refer to.
func setSecrets(t testing.TB) {
	t.Setenv("SET_TOKEN", "hunter2")
	t.Setenv("OTHER_TOKEN", "hunter2, the other")
	t.Setenv("STORE_URL", "postgres://dockbell:hunter2@db.example.com/dockbell")
	t.Setenv("SET_URL", "https://chat.example.com/hooks/hunter2")
}

// A bad configuration says in its first line which errors it must lead to.
func TestBadConfigurations(t *testing.T) {
	setSecrets(t)
	for _, path := range filesIn(t, configs+"/bad") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			first, rest, _ := strings.Cut(string(data), "\n")
			want, ok := strings.CutPrefix(first, "# want: ")
			if !ok {
				t.Fatal("the first line must be # want: ERROR | ERROR")
			}
			_, err = parse(t, path)
			if err == nil {
				t.Fatal("no error")
			}
			got := strings.ReplaceAll(err.Error(), "\n", " | ")
			if *update {
				want = got
				if err := os.WriteFile(path, []byte("# want: "+got+"\n"+rest), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", strings.ReplaceAll(got, " | ", "\n"), strings.ReplaceAll(want, " | ", "\n"))
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("a secret is in the error")
			}
			if n := countFaults(err); n != strings.Count(want, " | ")+1 {
				t.Errorf("%d faults are counted", n)
			}
		})
	}
}

func TestGoodConfigurations(t *testing.T) {
	setSecrets(t)
	files := map[string]string{
		"smallest.yaml": "1 sources, 1 rules", "everything.yaml": "6 sources, 3 rules", "anchors.yaml": "1 sources, 3 rules",
		"senders.yaml": "4 sources, 1 rules", "replicas.yaml": "1 sources, 1 rules",
		"rules-from-cluster.yaml": "2 sources, 0 rules", "notify.yaml": "1 sources, 1 rules",
	}
	for path, want := range files {
		c, err := parse(t, filepath.Join(configs, "good", path))
		if err != nil {
			t.Errorf("%s:\n%v", path, err)
		} else if got := c.summary(); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if n := len(filesIn(t, configs+"/good")); n != len(files) {
		t.Errorf("%d files", n)
	}
}

func TestExampleConfiguration(t *testing.T) {
	for _, name := range []string{"REGISTRY_TOKEN", "HUB_TOKEN", "ALIYUN_TOKEN", "AZURE_TOKEN", "DOCKBELL_TOKEN"} {
		t.Setenv(name, "dev")
	}
	c, err := parse(t, "../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.sources) == 0 || c.rules.Len() == 0 {
		t.Error(c.summary())
	}
}

func filesIn(t testing.TB, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(dir + "/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files in %s: %v", dir, err)
	}
	return paths
}

func FuzzConfig(f *testing.F) {
	setSecrets(f)
	for _, dir := range []string{"/bad", "/good"} {
		for _, path := range filesIn(f, configs+dir) {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	kinds := offlineKinds(f.Context(), true)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig("dockbell.yaml", data, kinds)
		if (c == nil) != (err != nil) {
			t.Fatalf("%v and %v", c, err)
		}
		if err == nil {
			return
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			// Messages of several lines quote what is in the file.
			if strings.HasPrefix(line, "dockbell.yaml:0") {
				t.Errorf("a fault without a line: %s", line)
			}
		}
		var fault strictyaml.Fault
		if !strings.HasPrefix(err.Error(), "dockbell.yaml:") || !errors.As(err, &fault) {
			t.Errorf("an error without its place: %v", err)
		}
	})
}

// A client certificate is only shown where TLS is spoken.
func TestCertificateNeedsTLS(t *testing.T) {
	authority := httptest.NewTLSServer(nil)
	defer authority.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	const config = "sources: {quay: {type: quay, auth: {certificate: {ca: 'CA'}}}}\n" + noRule
	for prefix, want := range map[string]string{
		"": "certificate needs server.tls",
		"server: {tls: {cert: a.pem, key: b.pem}}\n": "",
	} {
		text := prefix + strings.Replace(config, "CA", ca, 1)
		_, err := parseConfig("dockbell.yaml", []byte(text), offlineKinds(t.Context(), true))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}

const oneSource = "sources: {hub: {type: dockerhub, auth: none}}\n"

func TestStoreIsShownWithoutItsPassword(t *testing.T) {
	for location, want := range map[string]string{
		"sqlite:dockbell.db":                                    "sqlite:dockbell.db",
		"sqlite:/var/lib/my bell.db":                            "sqlite:/var/lib/my bell.db",
		"sqlite:a%zz.db":                                        "sqlite:a%zz.db",
		"postgres://bell@db/bell":                               "postgres://bell@db/bell",
		"postgres://bell:hunter2@db/bell":                       "postgres://bell:xxxxx@db/bell",
		"postgres://bell:hunter2@a:5432,b:5433/x":               "postgres://bell:xxxxx@a:5432,b:5433/x",
		"postgresql://db/bell?password=hunter2&sslmode=require": "postgresql://db/bell?password=xxxxx&sslmode=require",
		"postgres:///bell?host=/run/pg&sslpassword=hunter2":     "postgres:///bell?host=%2Frun%2Fpg&sslpassword=xxxxx",
	} {
		for _, text := range []string{"store: '" + location + "'\n", "store: {url: {env: STORE_URL}}\n"} {
			setSecrets(t)
			t.Setenv("STORE_URL", location)
			c, err := parseConfig("dockbell.yaml", []byte(text+oneSource+noRule), offlineKinds(t.Context(), true))
			if err != nil {
				t.Errorf("%s: %v", location, err)
			} else if c.Store != location || c.shownStore() != want {
				t.Errorf("%s is opened as %s and shown as %s, want %s", location, c.Store, c.shownStore(), want)
			}
		}
	}
	c, err := parseConfig("dockbell.yaml", []byte(oneSource+noRule), offlineKinds(t.Context(), true))
	if err != nil || c.Store != "sqlite:dockbell.db" {
		t.Errorf("without one it is %v, %v", c, err)
	}
}

func TestPeople(t *testing.T) {
	setSecrets(t)
	c, err := parse(t, configs+"/good/replicas.yaml")
	if err != nil {
		t.Fatal(err)
	}
	people := c.people()
	for name, want := range map[string]struct {
		role  server.Role
		token string
	}{
		"alice":         {server.Approver, "hunter2"},
		"Bob Ö. Müller": {server.Admin, "hunter2, the other"},
	} {
		p, ok := people[name]
		if !ok {
			t.Errorf("there is no %s", name)
			continue
		}
		if token, err := p.Token(); p.Role != want.role || token != want.token || err != nil {
			t.Errorf("%s: role %s, token %q, %v", name, p.Role, token, err)
		}
	}
	if len(people) != 2 {
		t.Errorf("%d people", len(people))
	}
}

// Notifications reach the rules that serve runs.
func TestNotificationsAreLoaded(t *testing.T) {
	setSecrets(t)
	c, err := parse(t, configs+"/good/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	event := trigger.Event{Image: trigger.Image{Registry: "docker.io", Repository: "shop/web", Tag: "v1.4.0"}}
	runs := c.rules.Notices([]trigger.Notice{{Run: trigger.Run{ID: 9, Event: event, Rule: "web-to-prod", Kind: "kubernetes", Target: "deployment prod/web", State: trigger.Failed, Reason: "no such host", Attempt: 2}}}, time.Now())
	const text = "web-to-prod docker.io/shop/web:v1.4.0 failed: no such host (run 9, try 2, kubernetes deployment prod/web)"
	if len(runs) != 1 || runs[0].Rule != "notify/oncall" || runs[0].Kind != "http" || !strings.Contains(string(runs[0].Spec), text) {
		t.Errorf("%+v", runs)
	}
}
