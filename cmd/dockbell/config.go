package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/rules"
	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/registry"
	"github.com/dockbell/dockbell/trigger/secret"
	"github.com/dockbell/dockbell/trigger/source"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// configFile is the configuration as it is written. Sources and rules are
// read by their own packages.
type configFile struct {
	Server struct {
		Listen         string     `yaml:"listen"`
		Admin          string     `yaml:"admin"`
		MaxBody        int64      `yaml:"maxBody"`
		TLS            *tlsConfig `yaml:"tls"`
		TrustedProxies []string   `yaml:"trustedProxies"`
		Token          secret.Ref `yaml:"token"`
	} `yaml:"server"`
	Store      string                     `yaml:"store"`
	Keep       keepConfig                 `yaml:"keep"`
	Clusters   map[string]k8s.ClusterSpec `yaml:"clusters"`
	Registries yaml.Node                  `yaml:"registries"`
	Sources    map[string]yaml.Node       `yaml:"sources"`
	Rules      yaml.Node                  `yaml:"rules"`
}

// tlsConfig names the files, in PEM form, that make the hooks speak TLS.
type tlsConfig struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// config is a configuration that has been found good as a whole.
type config struct {
	configFile
	registries *registry.Registries
	sources    map[string]*source.Source
	pollers    []*source.Poller
	proxies    []netip.Prefix
	rules      *rules.Set
}

// kindTable makes the table of actions for the clusters of a configuration.
type kindTable func(clusters map[string]k8s.ClusterSpec, aliases trigger.Aliases) map[string]trigger.Kind

// loadConfig reads and compiles a file. The error lists everything that is
// wrong with it, a line each.
func loadConfig(path string, kinds kindTable, out source.Outside) (*config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseConfig(path, data, kinds, out)
}

// parseConfig compiles a file that has been read.
func parseConfig(name string, data []byte, kinds kindTable, out source.Outside) (*config, error) {
	root, err := strictyaml.Parse(name, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if root.YAML().Kind != yaml.MappingNode {
		root.Faultf("must be a mapping with the keys sources and rules")
		return nil, root.Err()
	}
	c := &config{sources: map[string]*source.Source{}}
	c.Server.Listen, c.Server.Admin, c.Store = ":8080", "127.0.0.1:8081", "sqlite:dockbell.db"
	c.Keep = defaultKeep
	root.Decode(&c.configFile) // what is wrong is in root; the rest is checked all the same
	checkServer(root.Key("server"), c.configFile)
	c.proxies = networks(root.Key("server").Key("trustedProxies"), c.Server.TrustedProxies)
	if path, ok := strings.CutPrefix(c.Store, "sqlite:"); !ok || path == "" {
		root.Key("store").Faultf("%q must be sqlite:PATH", c.Store)
	}
	if c.registries = registry.New(); root.Has("registries") {
		c.registries = registry.Load(root.Key("registries"))
	}
	out.Aliases = c.registries.Aliases()
	sources := root.Key("sources")
	names := sources.Keys()
	if !root.Has("sources") || sources.YAML().Kind == yaml.MappingNode && len(names) == 0 {
		sources.Faultf("is missing: without a source nothing is received")
		names = nil
	}
	for _, name := range names {
		at := sources.Key(name)
		if !sourceName.MatchString(name) {
			at.Faultf("the name of a source is part of its URL; use letters, digits, dots, dashes and underscores, at most 64")
			continue
		}
		c.loadSource(name, at, out)
	}
	if !root.Has("rules") {
		root.Faultf("rules are missing: without a rule nothing happens")
	} else {
		c.rules = rules.Load(root.Key("rules"), kinds(c.Clusters, out.Aliases), slices.Sorted(slices.Values(names)), out.Aliases, decodeSpec)
	}
	for name, s := range c.sources {
		if s.NeedsCertificate() && c.Server.TLS == nil {
			sources.Key(name).Faultf("certificate needs server.tls: without TLS no client shows one")
		}
	}
	for _, p := range c.pollers {
		if p.FromRules() && c.rules != nil && len(c.rules.Repositories()) == 0 {
			sources.Key(p.Name).Key("repositories").Faultf("no rule names a repository with its registry")
		}
	}
	if err := root.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// loadSource reads one source, of those that receive or of those that ask.
func (c *config) loadSource(name string, n strictyaml.Node, out source.Outside) {
	var kind struct {
		Type string `yaml:"type"`
	}
	if n.YAML().Decode(&kind) == nil && kind.Type == source.PollType {
		if p := source.LoadPoller(name, n, out.Aliases); p != nil {
			c.pollers = append(c.pollers, p)
		}
		return
	}
	if s := source.Load(name, n, out); s != nil {
		c.sources[name] = s
	}
}

// sourceName is also a label of metrics and a word in logs.
var sourceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$`)

func checkServer(n strictyaml.Node, c configFile) {
	s := c.Server
	for _, address := range []struct{ key, value string }{{"listen", s.Listen}, {"admin", s.Admin}} {
		_, port, err := net.SplitHostPort(address.value)
		if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
			n.Key(address.key).Faultf("%q is not HOST:PORT or :PORT", address.value)
		}
	}
	if s.Listen == s.Admin && !strings.HasSuffix(s.Admin, ":0") {
		n.Key("admin").Faultf("must be another address than listen: the API is not for the public")
	}
	if s.TLS != nil && (s.TLS.Cert == "" || s.TLS.Key == "") {
		n.Key("tls").Faultf("needs cert and key, two files")
	}
	if _, err := s.Token.Read(); err != nil && !s.Token.IsZero() {
		n.Key("token").Fault(err)
	}
	if s.MaxBody < 0 {
		n.Key("maxBody").Faultf("must be a number of bytes")
	}
}

// networks reads a list of addresses and networks.
func networks(n strictyaml.Node, list []string) []netip.Prefix {
	var all []netip.Prefix
	for i, s := range list {
		p, err := source.ParseNetwork(s)
		if err != nil {
			n.Items()[i].Fault(err)
		}
		all = append(all, p)
	}
	return all
}

// decodeSpec reads a stored specification as strictly as the file was read.
func decodeSpec(spec json.RawMessage) func(any) error {
	return func(v any) error {
		n, err := strictyaml.Parse("specification", bytes.NewReader(spec))
		if err != nil {
			return err
		}
		n.Decode(v)
		return n.Err()
	}
}

// countFaults says how many lines an error of loadConfig has.
func countFaults(err error) int {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return len(joined.Unwrap())
	}
	return 1
}

// summary is what a good configuration holds.
func (c *config) summary() string {
	return fmt.Sprintf("%d sources, %d rules", len(c.sources)+len(c.pollers), c.rules.Len())
}
