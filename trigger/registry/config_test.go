package registry

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// load reads a list of registries.
func load(t *testing.T, text string) (*Registries, error) {
	t.Helper()
	n, err := strictyaml.Parse("dockbell.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	r := Load(n)
	return r, n.Err()
}

func mustLoad(t *testing.T, text string) *Registries {
	t.Helper()
	r, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLoadFaults(t *testing.T) {
	t.Setenv("REGISTRY_PASSWORD", "s3cret")
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{"text.pem": "no certificate", "text.json": "{"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, text string
		want       []string // all faults, in order
	}{
		{"no list", "host: a.example", []string{"dockbell.yaml:1: must be a list of registries, each with its host"}},
		{"no mapping", "- a.example", []string{"dockbell.yaml:1: [0]: must be a mapping, not a string"}},
		{"no host", "- host: a.example\n- insecure: true", []string{"dockbell.yaml:2: [1].host: is missing: name the registry, as in registry.example.com:5000"}},
		{"host is a URL", "- host: https://a.example", []string{`dockbell.yaml:1: [0].host: registry "https://a.example" is not host[:port]`}},
		{"host has a path", "- host: a.example/shop", []string{`dockbell.yaml:1: [0].host: registry "a.example/shop" is not host[:port]`}},
		{"host is a pattern", "- host: '*.example'", []string{`dockbell.yaml:1: [0].host: registry "*.example" is not host[:port]`}},
		{"twice", "- host: a.example\n- host: A.example", []string{"dockbell.yaml:2: [1].host: a.example is there twice"}},
		{"twice, as Docker Hub", "- host: docker.io\n- host: registry-1.docker.io", []string{"dockbell.yaml:2: [1].host: docker.io is there twice"}},
		{"alias is no host", "- host: a.example\n  aliases:\n  - b.example\n  - http://c.example", []string{`dockbell.yaml:4: [0].aliases[1]: registry "http://c.example" is not host[:port]`}},
		{"alias is empty", "- host: a.example\n  aliases: ['']", []string{"dockbell.yaml:2: [0].aliases[0]: is missing: name the registry, as in registry.example.com:5000"}},
		{"alias is the host", "- host: a.example\n  aliases: [A.EXAMPLE]", []string{"dockbell.yaml:2: [0].aliases[0]: is the host itself"}},
		{"alias of another", "- {host: a.example, aliases: [c.example]}\n- {host: b.example, aliases: [c.example]}", []string{"dockbell.yaml:2: [1].aliases[0]: c.example is an alias of a.example already"}},
		{"alias with an entry", "- {host: a.example, aliases: [b.example]}\n- host: b.example", []string{"dockbell.yaml:1: b.example is an alias of a.example and has an entry of its own"}},
		{"several kinds of credentials", "- host: a.example\n  username: u\n  password: {env: REGISTRY_PASSWORD}\n  helper: ecr", []string{
			"dockbell.yaml:1: [0]: has several kinds of credentials; give one of username with password, dockerConfig, pullSecret, helper"}},
		{"password that is not set", "- host: a.example\n  username: u\n  password: {env: REGISTRY_NOWHERE}", []string{"dockbell.yaml:3: [0].password: environment variable REGISTRY_NOWHERE is not set"}},
		{"password in place", "- host: a.example\n  username: u\n  password: hunter2", []string{"dockbell.yaml:3: [0].password: a secret is a reference, {env: NAME} or {file: PATH}, never the value itself"}},
		{"no password", "- host: a.example\n  username: u", []string{"dockbell.yaml:1: [0].password: no secret is given: name one with {env: NAME} or {file: PATH}"}},
		{"no username", "- host: a.example\n  password: {env: REGISTRY_PASSWORD}", []string{"dockbell.yaml:1: [0].username: is missing beside password"}},
		{"Docker configuration that is not there", "- host: a.example\n  dockerConfig: nowhere.json", []string{"dockbell.yaml:2: [0].dockerConfig: open nowhere.json: no such file or directory"}},
		{"Docker configuration that is none", "- host: a.example\n  dockerConfig: text.json", []string{"dockbell.yaml:2: [0].dockerConfig: text.json: unexpected EOF"}},
		{"pull secret without a name", "- host: a.example\n  pullSecret:\n    namespace: shop", []string{"dockbell.yaml:3: [0].pullSecret: needs namespace and name"}},
		{"pull secret without a namespace", "- host: a.example\n  pullSecret: {name: pull}", []string{"dockbell.yaml:2: [0].pullSecret: needs namespace and name"}},
		{"unknown helper", "- host: a.example\n  helper: osxkeychain", []string{`dockbell.yaml:2: [0].helper: must be one of [acr ecr gcr], not "osxkeychain"`}},
		{"authority that is not there", "- host: a.example\n  ca: nowhere.pem", []string{"dockbell.yaml:2: [0].ca: open nowhere.pem: no such file or directory"}},
		{"authority that is none", "- host: a.example\n  ca: text.pem", []string{"dockbell.yaml:2: [0].ca: text.pem holds no certificate in PEM form"}},
		{"authority without TLS", "- host: a.example\n  insecure: true\n  ca: text.pem", []string{"text.pem holds no certificate", "dockbell.yaml:3: [0].ca: is of no use without TLS, which insecure turns off"}},
		{"negative limits", "- host: a.example\n  rate: -1\n  concurrency: -2", []string{
			"dockbell.yaml:2: [0].rate: must be a number of requests a second", "dockbell.yaml:3: [0].concurrency: must be a number of requests at once"}},
		{"limits that are no numbers", "- host: a.example\n  rate: fast", []string{"dockbell.yaml:2: [0].rate: must be a number, not a string (fast)"}},
		{"unknown key", "- host: a.example\n  alias: [b.example]", []string{`dockbell.yaml:2: [0]: unknown key "alias"; known are aliases, ca, `}},
		{"several at once", "- host: a.example\n  helper: x\n- host: ''\n- host: a.example", []string{"dockbell.yaml:2: [0].helper", "dockbell.yaml:3: [1].host", "dockbell.yaml:4: [2].host"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.text)
			if err == nil {
				t.Fatal("no fault")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Fatalf("%d faults, want %d:\n%v", len(lines), len(tt.want), err)
			}
			for i, want := range tt.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("got  %s\nwant %s", lines[i], want)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the value is in the error: %v", err)
			}
		})
	}
}

// Each kind of credentials loads, and whatever else may be said.
func TestLoad(t *testing.T) {
	t.Setenv("REGISTRY_PASSWORD", "s3cret")
	docker := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(docker, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustLoad(t, `
- {host: a.example, username: u, password: {env: REGISTRY_PASSWORD}, rate: 0.5, concurrency: 1}
- {host: b.example, dockerConfig: `+docker+`}
- {host: c.example, pullSecret: {cluster: prod, namespace: shop, name: pull}}
- {host: 123456789012.dkr.ecr.eu-central-1.amazonaws.com, helper: ecr}
- {host: europe-docker.pkg.dev, helper: gcr}
- {host: shop.azurecr.io, helper: acr}
- {host: "10.0.0.5:5000", insecure: true}
- {host: "[2001:db8::5]:5000"}
- {host: localhost}
- {host: docker.io}
`)
}

func TestAliases(t *testing.T) {
	aliases := mustLoad(t, `
- {host: Registry.Example.com, aliases: ["registry:5000", "10.0.0.5:5000"]}
- {host: docker.io, aliases: [mirror.example.com]}
- {host: plain.example.com}
`).Aliases()
	want := trigger.Aliases{"registry:5000": "registry.example.com", "10.0.0.5:5000": "registry.example.com", "mirror.example.com": "docker.io"}
	if diff := cmp.Diff(want, aliases); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(New().Aliases()) != 0 {
		t.Error("registries of which nothing is said have aliases")
	}
}
