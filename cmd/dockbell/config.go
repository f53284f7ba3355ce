package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/rules"
	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/source"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// configFile is the configuration as it is written. Sources and rules are
// read by their own packages.
type configFile struct {
	Server struct {
		Listen  string `yaml:"listen"`
		Admin   string `yaml:"admin"`
		MaxBody int64  `yaml:"maxBody"`
	} `yaml:"server"`
	Store    string                     `yaml:"store"`
	Clusters map[string]k8s.ClusterSpec `yaml:"clusters"`
	Sources  map[string]yaml.Node       `yaml:"sources"`
	Rules    yaml.Node                  `yaml:"rules"`
}

// config is a configuration that has been found good as a whole.
type config struct {
	configFile
	sources map[string]*source.Source
	rules   *rules.Set
}

// kindTable makes the table of actions for the clusters of a configuration.
type kindTable func(clusters map[string]k8s.ClusterSpec) map[string]trigger.Kind

// loadConfig reads and compiles a file. The error lists everything that is
// wrong with it, a line each.
func loadConfig(path string, kinds kindTable) (*config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseConfig(path, data, kinds)
}

func parseConfig(name string, data []byte, kinds kindTable) (*config, error) {
	root, err := strictyaml.Parse(name, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	c := &config{sources: map[string]*source.Source{}}
	c.Server.Listen, c.Server.Admin, c.Store = ":8080", "127.0.0.1:8081", "sqlite:dockbell.db"
	if !root.Decode(&c.configFile) {
		// What follows would complain about the consequences.
		return nil, root.Err()
	}
	server := root.Key("server")
	for key, address := range map[string]string{"listen": c.Server.Listen, "admin": c.Server.Admin} {
		if _, _, err := net.SplitHostPort(address); err != nil {
			server.Key(key).Faultf("%q is not HOST:PORT or :PORT", address)
		}
	}
	if c.Server.MaxBody < 0 {
		server.Key("maxBody").Faultf("must be a number of bytes")
	}
	if !strings.HasPrefix(c.Store, "sqlite:") {
		root.Key("store").Faultf("%q must be sqlite:PATH", c.Store)
	}
	if len(c.Sources) == 0 {
		root.Key("sources").Faultf("is missing: without a source nothing is received")
	}
	for name := range c.Sources {
		at := root.Key("sources").Key(name)
		if url := strings.ContainsAny(name, "/?#% ") || name == ""; url {
			at.Faultf("the name of a source is part of its URL; use letters, digits and dashes")
			continue
		}
		if s := source.Load(name, at); s != nil {
			c.sources[name] = s
		}
	}
	if !root.Has("rules") {
		root.Faultf("rules are missing: without a rule nothing happens")
	} else {
		c.rules = rules.Load(root.Key("rules"), kinds(c.Clusters), slices.Sorted(maps.Keys(c.Sources)), decodeSpec)
	}
	if err := root.Err(); err != nil {
		return nil, err
	}
	return c, nil
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
	return fmt.Sprintf("%d sources, %d rules", len(c.sources), c.rules.Len())
}
