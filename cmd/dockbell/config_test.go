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

	"github.com/dockbell/dockbell/trigger/source"
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
	return parseConfig("dockbell.yaml", data, offlineKinds(t.Context(), allowed), source.Outside{})
}

// A bad configuration says in its first line which errors it must lead to.
func TestBadConfigurations(t *testing.T) {
	t.Setenv("SET_TOKEN", "hunter2")
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
	t.Setenv("SET_TOKEN", "hunter2")
	for path, want := range map[string]string{"smallest.yaml": "1 sources, 1 rules", "everything.yaml": "6 sources, 3 rules", "anchors.yaml": "1 sources, 3 rules", "senders.yaml": "4 sources, 1 rules"} {
		c, err := parse(t, filepath.Join(configs, "good", path))
		if err != nil {
			t.Errorf("%s:\n%v", path, err)
		} else if got := c.summary(); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if n := len(filesIn(t, configs+"/good")); n != 4 {
		t.Errorf("%d files", n)
	}
}

func TestExampleConfiguration(t *testing.T) {
	for _, name := range []string{"REGISTRY_TOKEN", "HUB_TOKEN", "ALIYUN_TOKEN", "AZURE_TOKEN"} {
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
	f.Setenv("SET_TOKEN", "hunter2")
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
		c, err := parseConfig("dockbell.yaml", data, kinds, source.Outside{})
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
		_, err := parseConfig("dockbell.yaml", []byte(text), offlineKinds(t.Context(), true), source.Outside{})
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}
