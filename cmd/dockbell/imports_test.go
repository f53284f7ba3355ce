package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/dockbell/dockbell/"

// role is what a package is for, as far as its imports go.
type role struct {
	may     []string // packages of the project that it may import
	reason  string   // why no others
	foreign []string // beginnings of packages from outside that it must not import
}

// roles are all packages: a star around trigger. Beside its rays, whoever reads
// YAML may use strictyaml and secret, who goes paths in documents fieldpath, and
// the server knows the senders.
var roles = map[string]role{
	"cmd/dockbell": {
		may:    []string{"k8s", "rules", "trigger", "trigger/action", "trigger/action/git", "trigger/queue", "trigger/registry", "trigger/secret", "trigger/server", "trigger/source", "trigger/store", "trigger/strictyaml"},
		reason: "it is the only package that knows all others",
	},
	"trigger": {
		reason:  "it holds the words that all others speak, so it can know none of them, and does nothing itself",
		foreign: []string{"os", "net", "log", "database", "gopkg.in/yaml", "k8s.io"},
	},
	"rules": {
		may:     []string{"trigger", "trigger/strictyaml"},
		reason:  "a decision depends on the rules and the event alone; kinds of action are given to it",
		foreign: []string{"os", "net", "log", "database", "k8s.io"},
	},
	"k8s": {
		may:    []string{"trigger", "trigger/fieldpath"},
		reason: "it changes workloads; who asks for that, and when it is tried again, is not its business",
	},
	"trigger/action": {
		may:    []string{"trigger", "trigger/action/git", "trigger/action/git/manifest", "trigger/fieldpath", "trigger/secret"},
		reason: "an action gets final parameters and tries once; it knows neither rules nor queue nor store",
	},
	"trigger/action/git": {
		may:    []string{"trigger"},
		reason: "it commits and pushes files, and knows neither what is in them nor why",
	},
	"trigger/action/git/gittest": {
		reason: "it is a git server for the tests of others",
	},
	"trigger/action/git/manifest": {
		may:     []string{"trigger", "trigger/fieldpath"},
		reason:  "it changes bytes of a file that it is given, and reads and writes none",
		foreign: []string{"os", "net", "log", "database", "github.com/go-git"},
	},
	"trigger/fieldpath": {
		reason:  "it reads paths, and has no document to go them in",
		foreign: []string{"os", "net", "log", "database", "gopkg.in/yaml", "k8s.io"},
	},
	"trigger/queue": {
		may:    []string{"trigger"},
		reason: "it owns every loop and knows no kind of action; what it needs of a store it declares itself",
	},
	"trigger/secret": {
		may:    []string{"trigger"},
		reason: "it is a reference in a configuration, used by whoever reads one",
	},
	"trigger/server": {
		may:    []string{"trigger", "trigger/source"},
		reason: "it limits, verifies, parses, stores and replies, and decides nothing: rules and store are given to it",
	},
	"trigger/source": {
		may:     []string{"trigger", "trigger/secret", "trigger/strictyaml"},
		reason:  "it turns what registries send or are asked into events: it knows nothing of rules, runs or storage",
		foreign: []string{"database", "k8s.io"},
	},
	"trigger/registry": {
		may:     []string{"trigger", "trigger/secret", "trigger/strictyaml"},
		reason:  "it knows registries and nothing of what is done with their answers",
		foreign: []string{"database", "k8s.io"},
	},
	"trigger/store": {
		may:    []string{"trigger"},
		reason: "it keeps runs and knows no kind of action",
	},
	"trigger/strictyaml": {
		may:    []string{"trigger"},
		reason: "it reads YAML for everybody and knows nobody's keys",
	},
}

// onlyIn are packages from outside that one package keeps from the others.
var onlyIn = map[string]struct{ home, reason string }{
	"k8s.io/client-go":       {"k8s", "it is large, and the only way to a cluster leads through that package"},
	"modernc.org/sqlite":     {"trigger/store", "where things are kept is that package's secret"},
	"github.com/spf13/cobra": {"cmd/dockbell", "only a command has a command line"},
	"github.com/gorilla/mux": {"trigger/server", "routes are registered once"},
	//"github.com/bmatcuk":         {"rules", "patterns are the rules' business"},
	"github.com/go-git":          {"trigger/action/git", "how repositories are read and written is that package's secret"},
	"golang.org/x/sync/errgroup": {"cmd/dockbell", "the parts are started in one place"},
}

func TestImportsPointInwards(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%v: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		seen[name] = true
		r, ok := roles[name]
		if !ok {
			t.Errorf("%s is in no list: say in roles what it is for and what it may import", name)
			continue
		}
		for _, problem := range r.problems(name, p.Imports) {
			t.Error(problem)
		}
	}
	for name := range roles {
		if !seen[name] {
			t.Errorf("%s is listed and not there", name)
		}
	}
}

// problems are the imports that a package must not have.
func (r role) problems(name string, imports []string) (all []string) {
	for _, path := range imports {
		if local, ok := strings.CutPrefix(path, module); ok {
			if !slices.Contains(r.may, local) {
				all = append(all, name+" must not import "+local+": "+r.reason)
			}
			continue
		}
		for _, prefix := range r.foreign {
			if path == prefix || strings.HasPrefix(path, prefix+"/") || strings.HasPrefix(path, prefix+".v") {
				all = append(all, name+" must not import "+path+": "+r.reason)
			}
		}
		for prefix, only := range onlyIn {
			if (path == prefix || strings.HasPrefix(path, prefix+"/")) && name != only.home {
				all = append(all, name+" must not import "+path+", only "+only.home+": "+only.reason)
			}
		}
	}
	return all
}

// The test above must be able to fail.
func TestImportsThatPointElsewhereAreFound(t *testing.T) {
	for imported, want := range map[string]string{
		module + "rules":        "trigger/queue must not import rules: ",
		"k8s.io/client-go/rest": "trigger/queue must not import k8s.io/client-go/rest, only k8s: ",
		module + "trigger":      "",
		"context":               "",
	} {
		got := strings.Join(roles["trigger/queue"].problems("trigger/queue", []string{imported}), "; ")
		if (got == "") != (want == "") || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", imported, got, want)
		}
	}
	if got := roles["rules"].problems("rules", []string{"os", "net/http"}); len(got) != 2 {
		t.Errorf("rules may import the world: %q", got)
	}
}
