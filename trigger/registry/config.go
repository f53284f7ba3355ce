// Package registry talks to container registries: what tags a repository has,
// and what they point to. It knows the registries of a configuration with
// their names, credentials and limits, and spares one that is in trouble.
package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/docker/cli/cli/config"
	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// spec is a registry as it stands in the configuration.
type spec struct {
	Host    string   `yaml:"host"`
	Aliases []string `yaml:"aliases"`

	// Credentials, at most one kind of them. Without any, those of the user
	// that dockbell runs as: $DOCKER_CONFIG, or ~/.docker/config.json.
	Username     string      `yaml:"username"`
	Password     secret.Ref  `yaml:"password"`
	DockerConfig string      `yaml:"dockerConfig"`
	PullSecret   *PullSecret `yaml:"pullSecret"`
	Helper       string      `yaml:"helper"`

	Insecure    bool    `yaml:"insecure"` // plain HTTP
	CA          string  `yaml:"ca"`
	Rate        float64 `yaml:"rate"`
	Concurrency int     `yaml:"concurrency"`
}

// PullSecret names a secret of type kubernetes.io/dockerconfigjson.
type PullSecret struct {
	Cluster   string `yaml:"cluster"`
	Namespace string `yaml:"namespace"`
	Name      string `yaml:"name"`
}

const (
	// defaultRate is how many requests a second a registry is sent, and
	// defaultConcurrency how many at once: little for a registry, and enough
	// for three hundred repositories with three tags each in a minute.
	defaultRate        = 20
	defaultConcurrency = 4
)

// Registries are those of a configuration, and on demand any other.
type Registries struct {
	specs   map[string]spec
	aliases trigger.Aliases
	outside Outside

	shared  shared
	mu      sync.Mutex
	clients map[string]*client
}

// Outside is what registries need of the rest of the world.
type Outside struct {
	Log *slog.Logger

	// PullSecret reads the Docker configuration that a secret holds.
	PullSecret func(ctx context.Context, s PullSecret) ([]byte, error)

	// Observe is told of each request that was answered, by status, or failed
	// with status 0.
	Observe func(host string, status int)
}

// New makes registries of which nothing is said: each is asked when it is
// named, with the credentials of the user that dockbell runs as.
func New() *Registries {
	return &Registries{specs: map[string]spec{}, aliases: trigger.Aliases{}, clients: map[string]*client{}}
}

// Load reads the list of registries at n; faults are reported to it.
func Load(n strictyaml.Node) *Registries {
	r := New()
	if n.YAML().Kind != yaml.SequenceNode {
		n.Faultf("must be a list of registries, each with its host")
		return r
	}
	for _, item := range n.Items() {
		r.load(item)
	}
	for _, alias := range slices.Sorted(maps.Keys(r.aliases)) {
		host := r.aliases[alias]
		if _, ok := r.specs[alias]; ok && alias != host {
			n.Faultf("%s is an alias of %s and has an entry of its own", alias, host)
		}
	}
	return r
}

func (r *Registries) load(n strictyaml.Node) {
	var s spec
	if !n.Decode(&s) {
		return
	}
	host, err := hostOf(s.Host)
	if err != nil {
		n.Key("host").Fault(err)
		return
	}
	if _, ok := r.specs[host]; ok {
		n.Key("host").Faultf("%s is there twice", host)
	}
	r.specs[host] = s
	for i, name := range s.Aliases {
		at := n.Key("aliases").Items()[i]
		alias, err := hostOf(name)
		switch other, taken := r.aliases[alias]; {
		case err != nil:
			at.Fault(err)
		case alias == host:
			at.Faultf("is the host itself")
		case taken:
			at.Faultf("%s is an alias of %s already", alias, other)
		default:
			r.aliases[alias] = host
		}
	}
	if err := s.faults(); err != nil {
		n.Fault(err)
	}
}

func hostOf(s string) (string, error) {
	if s == "" {
		return "", errors.New("is missing: name the registry, as in registry.example.com:5000")
	}
	img, err := trigger.NewImage(s, "any", "", "")
	return img.Registry, err
}

// faults are what is wrong with the rest of an entry.
func (s spec) faults() error {
	var errs []error
	fault := func(field, format string, args ...any) { errs = append(errs, trigger.Field(field, format, args...)) }
	kinds := 0
	for _, given := range []bool{s.Username != "" || !s.Password.IsZero(), s.DockerConfig != "", s.PullSecret != nil, s.Helper != ""} {
		if given {
			kinds++
		}
	}
	if kinds > 1 {
		errs = append(errs, errors.New("has several kinds of credentials; give one of username with password, dockerConfig, pullSecret, helper"))
	}
	if !s.Password.IsZero() || s.Username != "" {
		if s.Username == "" {
			fault("username", "is missing beside password")
		}
		if _, err := s.Password.Read(); err != nil {
			fault("password", "%w", err)
		}
	}
	if s.DockerConfig != "" {
		if text, err := os.ReadFile(s.DockerConfig); err != nil {
			fault("dockerConfig", "%w", err)
		} else if _, err := config.LoadFromReader(bytes.NewReader(text)); err != nil {
			fault("dockerConfig", "%s: %w", s.DockerConfig, err)
		}
	}
	if s.PullSecret != nil && (s.PullSecret.Namespace == "" || s.PullSecret.Name == "") {
		fault("pullSecret", "needs namespace and name")
	}
	if s.Helper != "" && !slices.Contains(helperNames(), s.Helper) {
		fault("helper", "must be one of %v, not %q", helperNames(), s.Helper)
	}
	if s.CA != "" {
		if _, err := readPool(s.CA); err != nil {
			fault("ca", "%w", err)
		}
	}
	if s.Insecure && s.CA != "" {
		fault("ca", "is of no use without TLS, which insecure turns off")
	}
	if s.Rate < 0 {
		fault("rate", "must be a number of requests a second")
	}
	if s.Concurrency < 0 {
		fault("concurrency", "must be a number of requests at once")
	}
	return errors.Join(errs...)
}

// Aliases give each registry one name.
func (r *Registries) Aliases() trigger.Aliases { return r.aliases }

// Connect says what the registries need before they are used.
func (r *Registries) Connect(out Outside) { r.outside = out }

// client gives the one client of a registry.
func (r *Registries) client(host string) (*client, error) {
	host = r.aliases.Canonical(host)
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok := r.clients[host]; ok {
		return c, nil
	}
	c, err := newClient(host, r.specs[host], r.outside)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", host, err)
	}
	r.clients[host] = c
	return c, nil
}
