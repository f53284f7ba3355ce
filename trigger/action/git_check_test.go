package action

import (
	"strings"
	"testing"
)

// What is wrong with a specification is found when the rules are loaded.
func TestGitSpecification(t *testing.T) {
	t.Setenv("GIT_TOKEN", "a token")
	const repo, change = "repository: https://example.com/shop/deploy.git", "changes: [{file: a.yaml, path: b, value: tag}]"
	for spec, want := range map[string]string{
		repo + ", " + change: "",
		repo + ", " + change + ", auth: {token: {env: GIT_TOKEN}}, pushTo: stage, gather: 5s, pin: digest":             "",
		repo + ", " + change + ", auth: {token: {env: GIT_TOKEN}}, pullRequest: {provider: gitea}":                     "",
		"repository: https://github.com/shop/deploy, auth: {token: {env: GIT_TOKEN}}, " + change + ", pullRequest: {}": "",

		change:                            "repository: is missing: what you give to git clone",
		"repository: /srv/git, " + change: "repository: must be what you give to git clone",
		"repository: http://169.254.169.254/a, " + change: "link-local or cloud metadata address",
		repo:                                 "changes: is missing",
		repo + ", bogus: 1, " + change:       `unknown key "bogus"`,
		repo + ", changes: [{file: a.yaml}]": "changes: a.yaml: give one of kustomize, helm, path and marker, not 0",
		repo + ", changes: [{file: a.yaml, helm: b, path: c, value: tag}]":                                           "give one of kustomize, helm, path and marker, not 2",
		repo + ", changes: [{path: b, value: tag}]":                                                                  "file: must be a file below the repository's root",
		repo + ", changes: [{file: ../a.yaml, path: b, value: tag}]":                                                 "must be a file below",
		repo + ", changes: [{file: /a.yaml, path: b, value: tag}]":                                                   "must be a file below",
		repo + ", changes: [{file: 'a[.yaml', path: b, value: tag}]":                                                 "must be a file below",
		repo + ", changes: [{file: a.yaml, path: b}]":                                                                "value must say what the field holds",
		repo + ", changes: [{file: a.yaml, path: b, value: x}]":                                                      `image, tag, digest or repository, not "x"`,
		repo + ", changes: [{file: a.yaml, path: b, value: tag, text: x}]":                                           "there are a value and a text",
		repo + ", changes: [{file: a.yaml, helm: b, value: tag}]":                                                    "value and text are for path",
		repo + ", changes: [{file: a.yaml, path: 'a..b', value: tag}]":                                               "a..b cannot be read at",
		repo + ", changes: [{file: a.yaml, marker: web}]":                                                            "must be as in the comments",
		repo + ", branch: 'a b', " + change:                                                                          `branch: "a b" is not the name of a branch`,
		repo + ", pushTo: main, " + change:                                                                           "pushTo: is the branch itself",
		repo + ", pushTo: 'a..b', " + change:                                                                         "pushTo: ",
		repo + ", pin: both, " + change:                                                                              "pin: must be tag or digest",
		repo + ", gather: 5m, " + change:                                                                             "gather: must be at most 1m0s",
		repo + ", author: {email: nobody}, " + change:                                                                "author.email: ",
		repo + ", author: {name: 'a <b>', email: a@example.com}, " + change:                                          "author.name: ",
		repo + ", sign: {ssh: {env: GIT_TOKEN}}, " + change:                                                          "sign: <secret env GIT_TOKEN>: is not a private key of SSH",
		repo + ", sign: {gpg: {env: GIT_TOKEN}}, " + change:                                                          "sign: <secret env GIT_TOKEN>: is not one private key of GPG",
		repo + ", sign: {gpg: {env: GIT_TOKEN}, ssh: {env: GIT_TOKEN}}, " + change:                                   "give one of them",
		repo + ", auth: {user: ci}, " + change:                                                                       "auth.token: is missing",
		repo + ", auth: {token: {env: ABSENT}}, " + change:                                                           "auth.token: environment variable ABSENT is not set",
		repo + ", auth: {sshKey: {env: GIT_TOKEN}}, " + change:                                                       "auth: sshKey, knownHosts and anyHostKey are for SSH",
		"repository: 'git@example.com:a.git', " + change:                                                             "auth.sshKey: is missing",
		"repository: 'git@example.com:a.git', auth: {token: {env: GIT_TOKEN}}, " + change:                            "by SSH give sshKey",
		"repository: 'git@example.com:a.git', auth: {sshKey: {env: GIT_TOKEN}}, " + change:                           "auth.sshKey: <secret env GIT_TOKEN>: is not a private key of SSH",
		"repository: 'git@example.com:a.git', auth: {anyHostKey: true, knownHosts: x}, " + change:                    "auth.anyHostKey: there is knownHosts, too",
		repo + ", auth: {token: {env: GIT_TOKEN}}, pullRequest: {}, " + change:                                       `pullRequest.provider: must be one of gitea, github, gitlab, not ""`,
		repo + ", pullRequest: {provider: gitea}, " + change:                                                         "pullRequest.token: is missing",
		repo + ", auth: {token: {env: GIT_TOKEN}}, pullRequest: {provider: gitea, api_url: 'ftp://x'}, " + change:    "pullRequest.api_url: must begin with",
		"repository: https://example.com/a/b/c, pullRequest: {provider: github, token: {env: GIT_TOKEN}}, " + change: `"a/b/c" is not owner/name`,
	} {
		_, err := build(newGit(t), "{"+spec+"}")
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", spec, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %q", spec, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "a token") {
			t.Errorf("%s: the error shows the secret: %v", spec, err)
		}
	}
}

// Runs that could be lost if one superseded the other have different targets,
// and so different lanes.
func TestGitTargets(t *testing.T) {
	const change = "changes: [{file: a.yaml, kustomize: web}]"
	seen := map[string]string{}
	for _, spec := range []string{
		"repository: https://example.com/shop/deploy.git, " + change,
		"repository: https://example.com/shop/other.git, " + change,
		"repository: https://example.com/shop/deploy.git, branch: stage, " + change,
		"repository: https://example.com/shop/deploy.git, pushTo: stage, " + change,
		"repository: https://example.com/shop/deploy.git, dryRun: true, " + change,
		"repository: https://example.com/shop/deploy.git, changes: [{file: a.yaml, kustomize: api}]",
		"repository: https://example.com/shop/deploy.git, changes: [{file: b.yaml, kustomize: web}]",
		"repository: https://example.com/shop/deploy.git, changes: [{file: a.yaml, helm: web}]",
	} {
		target := mustBuild(t, newGit(t), "{"+spec+"}").Target()
		if other := seen[target]; other != "" {
			t.Errorf("%s and %s have the target %s", spec, other, target)
		}
		seen[target] = spec
	}
}
