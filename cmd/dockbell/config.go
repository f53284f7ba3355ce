package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/k8s"
	"github.com/dockbell/dockbell/rules"
	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/action"
	"github.com/dockbell/dockbell/trigger/registry"
	"github.com/dockbell/dockbell/trigger/secret"
	"github.com/dockbell/dockbell/trigger/server"
	"github.com/dockbell/dockbell/trigger/source"
	"github.com/dockbell/dockbell/trigger/strictyaml"
)

// configFile is the configuration as it is written. Sources, rules and
// notifications are read by their own packages.
type configFile struct {
	Server struct {
		Listen         string                  `yaml:"listen"`
		Admin          string                  `yaml:"admin"`
		URL            string                  `yaml:"url"`
		MaxBody        int64                   `yaml:"maxBody"`
		TLS            *tlsConfig              `yaml:"tls"`
		TrustedProxies []string                `yaml:"trustedProxies"`
		Token          secret.Ref              `yaml:"token"`
		People         map[string]personConfig `yaml:"people"`
	} `yaml:"server"`
	Where      yaml.Node                  `yaml:"store"`
	Keep       keepConfig                 `yaml:"keep"`
	Clusters   map[string]k8s.ClusterSpec `yaml:"clusters"`
	Registries yaml.Node                  `yaml:"registries"`
	Outbound   action.Outbound            `yaml:"outbound"`
	Sources    map[string]yaml.Node       `yaml:"sources"`
	Rules      yaml.Node                  `yaml:"rules"`
	RulesFrom  yaml.Node                  `yaml:"rulesFrom"`
	FollowKeel yaml.Node                  `yaml:"followKeel"`
	Notify     yaml.Node                  `yaml:"notify"`
}

// tlsConfig names the files, in PEM form, that make the hooks speak TLS.
type tlsConfig struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// personConfig is somebody who may change something by the API.
type personConfig struct {
	Token secret.Ref `yaml:"token"`
	Role  string     `yaml:"role"`
}

// config is a configuration that has been found good as a whole.
type config struct {
	configFile
	Store      string // its location, which may hold a password: print shownStore
	registries *registry.Registries
	sources    map[string]*source.Source
	pollers    []*source.Poller
	proxies    []netip.Prefix
	client     *action.Client
	kinds      map[string]trigger.Kind
	rules      *rules.Set
	rulesFrom  *rulesFrom  // nil: all rules are in the file
	followKeel *followKeel // nil: keel's annotations mean nothing
}

// kindTable makes the table of actions for the clusters of a configuration, and
// for how it calls others.
type kindTable func(client *action.Client, clusters map[string]k8s.ClusterSpec, aliases trigger.Aliases) map[string]trigger.Kind

// loadConfig reads and compiles a file. The error lists everything that is
// wrong with it, a line each.
func loadConfig(path string, kinds kindTable) (*config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseConfig(path, data, kinds)
}

// parseConfig compiles a file that has been read.
func parseConfig(name string, data []byte, kinds kindTable) (*config, error) {
	root, err := strictyaml.Parse(name, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if root.YAML().Kind != yaml.MappingNode {
		root.Faultf("must be a mapping with the keys sources and rules")
		return nil, root.Err()
	}
	c := &config{sources: map[string]*source.Source{}}
	c.Server.Listen, c.Server.Admin = ":8080", "127.0.0.1:8081"
	c.Keep = defaultKeep
	root.Decode(&c.configFile) // what is wrong is in root; the rest is checked all the same
	checkServer(root.Key("server"), c.configFile)
	c.proxies = networks(root.Key("server").Key("trustedProxies"), c.Server.TrustedProxies)
	if c.Store = "sqlite:dockbell.db"; root.Has("store") {
		c.Store = loadStore(root.Key("store"))
	}
	if c.registries = registry.New(); root.Has("registries") {
		c.registries = registry.Load(root.Key("registries"))
	}
	c.client = outboundClient(root.Key("outbound"), c.Outbound)
	out := source.Outside{Client: c.client.HTTP(), Aliases: c.registries.Aliases()}
	sources := root.Key("sources")
	names := sources.Keys()
	if root.Has("followKeel") {
		c.followKeel = loadFollowKeel(root.Key("followKeel"))
	}
	if !root.Has("sources") && c.followKeel != nil {
		names = nil // its pollers are enough
	} else if !root.Has("sources") || sources.YAML().Kind == yaml.MappingNode && len(names) == 0 {
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
	c.kinds = kinds(c.client, c.Clusters, out.Aliases)
	if root.Has("rulesFrom") {
		c.rulesFrom = loadRulesFrom(root.Key("rulesFrom"), c.kinds)
	}
	switch {
	case root.Has("rules"):
		c.rules = rules.Load(root.Key("rules"), c.kinds, c.sourceNames(), out.Aliases, decodeSpec)
	case c.rulesFrom != nil || c.followKeel != nil:
		c.rules = &rules.Set{}
	default:
		root.Faultf("rules are missing: without a rule nothing happens")
	}
	if c.rules != nil && root.Has("notify") {
		c.rules.LoadNotices(root.Key("notify"), c.Server.URL, c.kinds, decodeSpec)
	}
	if root.Err() == nil { // else what is wrong with the people, or the rule, comes first
		c.checkApprovals(c.rules, root.Key("rules").Items())
	}
	for name, s := range c.sources {
		if s.NeedsCertificate() && c.Server.TLS == nil {
			sources.Key(name).Faultf("certificate needs server.tls: without TLS no client shows one")
		}
	}
	for _, p := range c.pollers {
		if p.FromRules() && c.rules != nil && len(c.rules.Repositories()) == 0 && c.rulesFrom == nil {
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

// sourceNames are the names of all sources, sorted: what rules may listen to.
func (c *config) sourceNames() []string {
	return slices.Sorted(maps.Keys(c.Sources))
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
	checkPeople(n, c)
	if s.URL != "" && !isBase(s.URL) {
		n.Key("url").Faultf("must be where people reach the admin address, as in https://dockbell.example.com: notifications link there")
	}
	if s.MaxBody < 0 {
		n.Key("maxBody").Faultf("must be a number of bytes")
	}
}

// isBase reports whether something can be put behind a URL.
func isBase(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
}

// checkPeople looks at the tokens of the API: each can be read and is of one
// person, or of all of them.
func checkPeople(n strictyaml.Node, c configFile) {
	owners := map[string]string{}
	check := func(at strictyaml.Node, owner string, ref secret.Ref) {
		if ref.IsZero() && at.Has("token") {
			return // it could not be decoded
		}
		token, err := ref.Read()
		if err != nil {
			at.Key("token").Fault(err)
		} else if other, ok := owners[token]; ok {
			at.Key("token").Faultf("is the same as that of %s: nobody could tell who sends it", other)
		} else {
			owners[token] = owner
		}
	}
	if !c.Server.Token.IsZero() {
		check(n, "server.token", c.Server.Token)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Server.People)) {
		at, p := n.Key("people").Key(name), c.Server.People[name]
		if !isPersonName(name) {
			n.Key("people").With(at.YAML()).Faultf("%q cannot be the name of a person: one line of at most %d bytes that can be seen, without spaces at its ends", name, mostPersonName)
		}
		switch server.Role(p.Role) {
		case server.Approver, server.Admin:
		default:
			at.Key("role").Faultf("must be approver (may approve, reject, hold and release) or admin (everything), not %q", p.Role)
		}
		check(at, name, p.Token)
	}
}

// checkApprovals finds the rules whose runs could only expire. Who sends
// server.token may be anybody.
func (c *config) checkApprovals(set *rules.Set, written []strictyaml.Node) {
	if !c.Server.Token.IsZero() {
		return
	}
	for _, a := range set.Approvals() {
		at := written[a.Index].Key("approve")
		var unknown []string
		for _, name := range a.By {
			if _, ok := c.Server.People[name]; !ok {
				unknown = append(unknown, name)
			}
		}
		switch {
		case len(c.Server.People) < a.Count:
			at.Faultf("needs %d who may approve, and there are %d: name them in server.people, each with a token", a.Count, len(c.Server.People))
		case len(unknown) > 0:
			at.Faultf("%s cannot approve without a token: see server.people", strings.Join(unknown, ", "))
		}
	}
}

// mostPersonName is also what the API takes of a name.
const mostPersonName = 100

// isPersonName reports whether a name looks the same to everybody: it stands
// in the history, and in rules that say who may approve.
func isPersonName(s string) bool {
	hidden := func(r rune) bool { return !unicode.IsGraphic(r) }
	return s != "" && len(s) <= mostPersonName && s == strings.Join(strings.Fields(s), " ") && !strings.ContainsFunc(s, hidden)
}

// people are those who have tokens of their own in the API.
func (c *config) people() map[string]server.Person {
	people := map[string]server.Person{}
	for name, p := range c.Server.People {
		people[name] = server.Person{Token: p.Token.Read, Role: server.Role(p.Role)}
	}
	return people
}

// loadStore reads where the store is: a location, or the secret that holds
// one. Faults do not show it, since passwords stand in such URLs.
func loadStore(n strictyaml.Node) (location string) {
	if n.YAML().Kind == yaml.MappingNode {
		var s struct {
			URL secret.Ref `yaml:"url"`
		}
		if !n.Decode(&s) {
			return ""
		}
		var err error
		if location, err = s.URL.Read(); err != nil {
			n.Key("url").Fault(err)
			return ""
		}
	} else if !n.Decode(&location) {
		return ""
	}
	scheme, rest, _ := strings.Cut(location, ":")
	switch {
	case scheme == "sqlite" && rest != "":
	case (scheme == "postgres" || scheme == "postgresql") && strings.HasPrefix(rest, "//"):
		if _, err := url.Parse(location); err != nil {
			n.Faultf("cannot be read as a URL; in a user name or password write %%3A for a colon, %%2F for a slash, %%40 for an @")
		}
	default:
		n.Faultf("must be sqlite:PATH, or postgres://USER@HOST/DATABASE for several replicas")
	}
	return location
}

// shownStore is the location of the store for people: without passwords.
func (c *config) shownStore() string {
	u, err := url.Parse(c.Store)
	if err != nil || strings.HasPrefix(c.Store, "sqlite:") {
		return c.Store // a path; what else is no URL was refused
	}
	settings := u.Query()
	for _, key := range []string{"password", "sslpassword"} {
		if settings.Has(key) {
			settings.Set(key, "xxxxx")
		}
	}
	u.RawQuery = settings.Encode()
	return u.Redacted()
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

// outboundClient makes the client that a configuration asks for; what is wrong
// with it is reported as faults of the node.
func outboundClient(n strictyaml.Node, o action.Outbound) *action.Client {
	client, err := action.NewClient(o)
	if err != nil {
		n.Fault(err)
		client, _ = action.NewClient(action.Outbound{}) // for what else is wrong with the file
	}
	return client
}

// decodeSpec reads a stored specification as strictly as the file was read.
func decodeSpec(spec json.RawMessage) func(any) error {
	return func(v any) error {
		n, err := strictyaml.ParseJSON("specification", spec)
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
