package chart

import (
	"os"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// The image is described twice, for Docker and for `make image`, and is the
// same: what it stands on and how the program is built.
func TestImage(t *testing.T) {
	text, err := os.ReadFile("../../.ko.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var ko struct {
		DefaultBaseImage string `yaml:"defaultBaseImage"`
		Builds           []struct {
			Main         string
			Env, Ldflags []string
		}
	}
	if err := yaml.Unmarshal(text, &ko); err != nil {
		t.Fatal(err)
	}
	if len(ko.Builds) != 1 {
		t.Fatalf("it builds %d programs", len(ko.Builds))
	}
	b := ko.Builds[0]
	flags := strings.ReplaceAll(strings.Join(b.Ldflags, " "), "{{.Env.VERSION}}", "$VERSION")
	docker, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"\nFROM " + ko.DefaultBaseImage + "\n",
		"\n    " + strings.Join(b.Env, " ") + " GOOS=$TARGETOS GOARCH=$TARGETARCH \\\n",
		"\n    go build -trimpath -ldflags \"" + flags + "\" -o /dockbell " + b.Main + "\n", // ko trims by itself
	} {
		if !strings.Contains(string(docker), line) {
			t.Errorf("the Dockerfile has no line %q", line)
		}
	}
}
