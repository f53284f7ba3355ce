package main

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/dockbell/dockbell/k8s"
)

// keelReport says what differs from keel, a line each.
func keelReport(keel k8s.Keel) (lines []string) {
	for _, r := range keel.Rules {
		for _, note := range r.Notes {
			lines = append(lines, fmt.Sprintf("rule %s, of %s: %s", r.Name, r.Workload, note))
		}
	}
	for _, left := range keel.Left {
		lines = append(lines, "not imported: "+left)
	}
	for _, general := range keel.General {
		lines = append(lines, "all rules: "+general)
	}
	return lines
}

// keelRules writes the rules, each with what differs from keel.
func keelRules(keel k8s.Keel) []byte {
	var b bytes.Buffer
	comment(&b, "", "Differs from keel, for all rules:", keel.General)
	comment(&b, "", "Not imported:", keel.Left)
	b.WriteString("rules:\n")
	for i, r := range keel.Rules {
		if i > 0 {
			b.WriteByte('\n')
		}
		comment(&b, "  ", fmt.Sprintf("Of %s, keel.sh/policy: %s", r.Workload, r.Policy), r.Notes)
		b.Write(element(r))
	}
	return b.Bytes()
}

// comment writes a headline and points below it. Of points that make no
// headline without them there is none.
func comment(b *bytes.Buffer, indent, headline string, points []string) {
	if len(points) == 0 && strings.HasSuffix(headline, ":") {
		return
	}
	fmt.Fprintf(b, "%s# %s\n", indent, headline)
	for _, p := range points {
		fmt.Fprintf(b, "%s# - %s\n", indent, strings.ReplaceAll(p, "\n", " "))
	}
}

// element writes an element of a list below a key.
func element(v any) []byte {
	return below([]any{v})
}

// below writes what stands below a key.
func below(v any) []byte {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	_ = enc.Encode(map[string]any{"x": v}) // structs of strings and numbers always encode
	_, text, _ := bytes.Cut(b.Bytes(), []byte("\n"))
	return text
}

// keelConfig writes a whole configuration. Its secrets are the variables that
// the comments name.
func keelConfig(keel k8s.Keel) []byte {
	b := keelFrame(keel)
	if !bytes.Contains(b.Bytes(), []byte("\nsources:")) {
		b.WriteString("\nsources:\n")
	}
	for _, p := range keel.Polls {
		b.Write(below(map[string]k8s.KeelPoll{p.Name: p}))
	}
	b.WriteByte('\n')
	b.Write(keelRules(keel))
	return b.Bytes()
}

// keelLive writes the configuration of a dockbell that makes the rest itself,
// of the workloads as they are at each moment.
func keelLive(keel k8s.Keel) []byte {
	b := keelFrame(k8s.Keel{Rules: keel.Rules})
	b.WriteString("\n# Rules, pollers and pull secrets are made of what keel's labels and annotations\n# say, and follow when these change. Give it the namespaces where there is no\n# ClusterRole: followKeel: {namespaces: [shop]}\nfollowKeel: true\n")
	return b.Bytes()
}

// keelFrame writes everything up to the sources that receive.
func keelFrame(keel k8s.Keel) *bytes.Buffer {
	b := &bytes.Buffer{}
	b.WriteString("# Made by `dockbell import keel`. Secrets are read from the variables named here.\n\n")
	if slices.ContainsFunc(keel.Rules, func(r k8s.KeelRule) bool { return r.Approve != nil }) {
		b.WriteString("server:\n  token: {env: DOCKBELL_TOKEN}   # of who approves; see server.people for a token for each person\n")
	}
	b.WriteString("store: sqlite:dockbell.db\n")
	if len(keel.Registries) > 0 {
		b.WriteString("\n# To read these secrets needs a Role that allows get on each.\nregistries:\n")
		for _, r := range keel.Registries {
			b.Write(element(r))
		}
	}
	var named []string
	for _, r := range keel.Rules {
		s := senderOf(r.Repo)
		if r.Polled || slices.Contains(named, s.name) {
			continue
		}
		if len(named) == 0 {
			b.WriteString("\nsources:\n")
		}
		named = append(named, s.name)
		variable := "HOOK_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(s.name))
		fmt.Fprintf(b, "  %s:   # POST /hooks/%s%s\n    type: %s\n    auth: {%s: {env: %s}}\n", s.name, s.name, s.remark, s.kind, s.scheme, variable)
	}
	return b
}

// keelSender is a registry that keel was told by.
type keelSender struct{ hosts, name, kind, scheme, remark string }

// keelSenders are the registries that are known by their host.
var keelSenders = []keelSender{
	{"docker.io", "dockerhub", "dockerhub", "token", "?token=…"},
	{"ghcr.io", "github", "github", "signature", ""},
	{"quay.io", "quay", "quay", "token", "?token=…"},
	{"*.azurecr.io", "azure", "azure-acr", "token", "?token=…"},
	{"gcr.io", "gcr", "google-gcr", "token", "?token=…"},
	{"*.gcr.io", "gcr", "google-gcr", "token", "?token=…"},
	{"*.pkg.dev", "gar", "google-gar", "token", "?token=…"},
	{"*.amazonaws.com", "ecr", "aws-ecr", "token", "?token=…"},
}

// senderOf is the source for the pushes of a repository.
func senderOf(repo string) keelSender {
	host, _, _ := strings.Cut(repo, "/")
	for _, s := range keelSenders {
		if ok, _ := path.Match(s.hosts, host); ok {
			return s
		}
	}
	name := strings.Trim(strings.NewReplacer("[", "", "]", "", ":", "-").Replace(host), "-")
	return keelSender{host, name, "distribution", "bearer", "; say what it is: harbor, gitlab, jfrog, …"}
}
