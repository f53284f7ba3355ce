package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/server"
)

// becomes gives the daemon another configuration and reloads it, as an
// administrator does. The addresses and the store stay.
func (d *daemon) becomes(config string) (int, server.Loaded) {
	d.t.Helper()
	before, err := os.ReadFile(d.options.config)
	if err != nil {
		d.t.Fatal(err)
	}
	head := strings.Join(strings.SplitAfterN(string(before), "\n", 3)[:2], "")
	if err := os.WriteFile(d.options.config, []byte(head+config), 0o600); err != nil {
		d.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(d.t.Context(), http.MethodPost, d.admin+"/-/reload", nil)
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+os.Getenv("API_TOKEN"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	var loaded server.Loaded
	if err := json.NewDecoder(resp.Body).Decode(&loaded); err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, loaded
}

// mustBecome is becomes for a configuration that is good.
func (d *daemon) mustBecome(config string) {
	d.t.Helper()
	if code, loaded := d.becomes(config); code != http.StatusOK || len(loaded.Warnings) > 0 {
		d.t.Fatalf("%d %+v", code, loaded)
	}
}

var pushOfWeb = map[string]any{
	"push_data":  map[string]any{"tag": "v1", "pushed_at": 1},
	"repository": map[string]any{"repo_name": "shop/web", "name": "web", "namespace": "shop"},
}

// What a configuration says of notifications and of clusters changes with it,
// for runs that were accepted before, too.
func TestReloadReachesTheQueue(t *testing.T) {
	t.Setenv("API_TOKEN", "hush")
	r := newReceiver(t, map[string][]any{"POST /deploy": {http.StatusBadRequest}})
	deploy := "sources: {hub: {type: dockerhub, auth: none}}\nrules: [{name: web, repo: shop/web, actions: [http: {url: 'http://RECEIVER/deploy'}]}]\n"
	deploy = strings.ReplaceAll(deploy, "RECEIVER", r.address)
	d := startDaemon(t, deploy, r.address)
	r.hold()
	if status, reply := d.post("hub", pushOfWeb); status != http.StatusAccepted {
		t.Fatal(status, reply)
	}
	until(t, func() bool { return len(r.all()) > 0 })
	d.mustBecome(deploy + "notify: [{on: failed, http: {url: 'http://" + r.address + "/tell'}}]\n")
	r.release()
	until(t, func() bool {
		return slices.ContainsFunc(r.all(), func(call string) bool { return strings.HasPrefix(call, "POST /tell") })
	})
}

// A poller that is as it was goes on; one that has changed, or whose registry
// has, begins anew.
func TestReloadOfPollers(t *testing.T) {
	t.Setenv("API_TOKEN", "hush")
	var a, b atomic.Int64 // questions about the repositories
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v2/a/tags/list":
			a.Add(1)
		case "/v2/b/tags/list", "/v2/c/tags/list":
			b.Add(1)
		}
		_, _ = w.Write([]byte(`{"tags":[]}`)) // the caller may have gone
	}))
	defer registry.Close()
	config := func(more, b string) string {
		return strings.ReplaceAll(`registries: [{host: HOST, insecure: true`+more+`}]
sources:
  a: {type: poll, schedule: "@yearly", repositories: HOST/a}
  b: {type: poll, schedule: "@yearly", repositories: HOST/`+b+`}
rules: [{name: web, repo: shop/web, actions: [http: {url: 'http://127.0.0.1:1'}]}]
`, "HOST", strings.TrimPrefix(registry.URL, "http://"))
	}
	d := startDaemon(t, config("", "b"), "")
	asked := func(wantA, wantB int64) {
		t.Helper()
		until(t, func() bool { return a.Load() >= wantA && b.Load() >= wantB })
		if a.Load() != wantA || b.Load() != wantB {
			t.Errorf("asked %d and %d times, want %d and %d", a.Load(), b.Load(), wantA, wantB)
		}
	}
	asked(1, 1)
	d.mustBecome("# another word\n" + config("", "b"))
	d.mustBecome(config("", "c"))
	asked(1, 2)
	d.mustBecome(config(", rate: 100", "c"))
	asked(2, 3)
}

// A run that waits keeps what it was accepted with, and its moment, when its
// rule changes or goes.
func TestReloadKeepsWhatWaits(t *testing.T) {
	t.Setenv("API_TOKEN", "hush")
	const frozen = "rules: [{name: web, repo: shop/web, freeze: {from: 2020-01-01, to: 2120-01-01}, actions: [http: {url: 'http://127.0.0.1:1'}]}]\n"
	const other = "rules: [{name: other, repo: shop/web, actions: [http: {url: 'http://127.0.0.1:2'}]}]\n"
	d := startDaemon(t, hubOnly+frozen, "")
	if status, reply := d.post("hub", pushOfWeb); status != http.StatusAccepted {
		t.Fatal(status, reply)
	}
	before := d.runs()
	d.mustBecome(hubOnly + other)
	after := d.runs()
	if len(after) != 1 || after[0].State != trigger.Waiting || after[0].Reason != before[0].Reason || !after[0].NotBefore.Equal(before[0].NotBefore) || string(after[0].Spec) != string(before[0].Spec) {
		t.Errorf("%+v\nis now\n%+v", before, after)
	}
}

// Clients are asked for a certificate as soon as a source wants one.
func TestReloadOfTLS(t *testing.T) {
	t.Setenv("API_TOKEN", "hush")
	dir := t.TempDir()
	like := httptest.NewTLSServer(nil)
	like.Close()
	pair := like.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert": {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, "key": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rules := "rules: [{name: web, repo: shop/web, actions: [http: {url: 'http://127.0.0.1:1'}]}]\n"
	d := startDaemon(t, hubOnly+rules, "")
	d.stop()
	text, err := os.ReadFile(d.options.config)
	if err != nil {
		t.Fatal(err)
	}
	secure := strings.Replace(string(text), "server: {", "server: {tls: {cert: "+dir+"/cert, key: "+dir+"/key}, ", 1)
	if err := os.WriteFile(d.options.config, []byte(secure), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start()
	asked := func() (asked bool) {
		t.Helper()
		conn, err := tls.Dial("tcp", strings.TrimPrefix(d.hooks, "http://"), &tls.Config{
			InsecureSkipVerify: true, NextProtos: []string{"h2"},
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				asked = true
				return &tls.Certificate{}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if p := conn.ConnectionState().NegotiatedProtocol; p != "h2" {
			t.Errorf("it speaks %q", p)
		}
		return asked
	}
	if asked() {
		t.Error("a certificate was asked for that no source wants")
	}
	d.mustBecome("sources: {quay: {type: quay, auth: {certificate: {ca: " + dir + "/cert}}}}\n" + rules)
	if !asked() {
		t.Error("no certificate was asked for")
	}
}

const hubOnly = "sources: {hub: {type: dockerhub, auth: none}}\n"

// What cannot change while dockbell runs is told, without a password.
func TestReloadTellsWhatNeedsARestart(t *testing.T) {
	c, err := parseConfig("dockbell.yaml", []byte("server: {listen: ':1', admin: ':2', tls: {cert: a, key: b}}\nstore: sqlite:other.db\n"+oneRule), offlineKinds(t.Context(), true))
	if err != nil {
		t.Fatal(err)
	}
	first, err := parseConfig("dockbell.yaml", []byte("store: 'postgres://bell:hunter2@db/bell'\n"+oneRule), offlineKinds(t.Context(), true))
	if err != nil {
		t.Fatal(err)
	}
	const until = " until a restart"
	want := []string{
		"server.listen cannot change while dockbell runs: it stays :8080" + until,
		"server.admin cannot change while dockbell runs: it stays 127.0.0.1:8081" + until,
		"store cannot change while dockbell runs: it stays postgres://bell:xxxxx@db/bell" + until,
		"server.tls cannot change while dockbell runs: it stays off" + until,
	}
	if got := c.needsRestart(first); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := c.needsRestart(c); len(got) > 0 {
		t.Errorf("of the same: %q", got)
	}
}

// A file counts when it is twice the same, one that was refused is tried again
// after a while, and the same one is not.
func TestChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dockbell.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := &reloader{options: serveOptions{config: path}}
	now := time.Now()
	write("one")
	r.tried = stamp([]byte("one"), nil)
	expect := func(what string, want bool) {
		t.Helper()
		if got := r.changed(now); got != want {
			t.Errorf("%s: %t", what, got)
		}
	}
	expect("the same", false)
	write("tw")
	expect("in the middle of writing", false)
	write("two")
	expect("just written", false)
	expect("written", true)
	r.tried = stamp([]byte("two"), nil)
	expect("loaded", false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expect("gone for a moment", false)
	expect("gone", true)
	r.tried, r.loaded = stamp(os.ReadFile(path)), server.Loaded{Faults: []string{"gone"}, TriedAt: now}
	expect("refused", false)
	now = now.Add(retryEvery)
	expect("refused a while ago", true)
}

// Over a reload the clusters stay open, unless a kubeconfig has changed.
func TestOpenClusters(t *testing.T) {
	dir := t.TempDir()
	kubeconfig, config := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "dockbell.yaml")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(kubeconfig, "{}")
	write(config, "clusters: {other: {kubeconfig: "+kubeconfig+"}}\n"+oneRule)
	r, first, err := begin(t.Context(), serveOptions{config: config}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r.current.Store(first)
	open := func() *openClusters {
		t.Helper()
		next, err := r.prepare()
		if err != nil {
			t.Fatal(err)
		}
		return next.clusters
	}
	write(config, "# another word\nclusters: {other: {kubeconfig: "+kubeconfig+"}}\n"+oneRule)
	if open() != first.clusters {
		t.Error("they were opened anew")
	}
	write(kubeconfig, "{apiVersion: v1}")
	if open() == first.clusters {
		t.Error("the new kubeconfig was not read")
	}
	write(kubeconfig, "{}")
	write(config, "clusters: {other: {kubeconfig: "+kubeconfig+", context: c}}\n"+oneRule)
	if open() == first.clusters {
		t.Error("the new context does not count")
	}
}
