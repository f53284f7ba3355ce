package rules

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/dockbell/dockbell/trigger"
)

func TestGlobs(t *testing.T) {
	tests := []struct {
		pattern  string
		match    string // images, with their registry, that it matches
		mismatch string
	}{
		// Without a registry: the repository alone, on any registry.
		{"shop/web", "docker.io/shop/web ghcr.io/shop/web localhost:5000/shop/web", "ghcr.io/shop/web2 ghcr.io/a/shop/web ghcr.io/shop ghcr.io/Shop/web"},
		{"web", "ghcr.io/web docker.io/library/web", "ghcr.io/library/web docker.io/shop/web"},
		{"library/web", "ghcr.io/library/web docker.io/library/web", "ghcr.io/web"},
		{"my.app", "ghcr.io/my.app", "ghcr.io/my/app"},

		// With one: a dot, a colon or localhost in the first segment.
		{"ghcr.io/shop/web", "ghcr.io/shop/web", "docker.io/shop/web quay.io/ghcr.io/shop/web ghcr.io:443/shop/web"},
		{"GHCR.io/shop/web", "ghcr.io/shop/web", "docker.io/shop/web"},
		{"localhost/web", "localhost/web", "ghcr.io/localhost/web"},
		{"registry:5000/shop/web", "registry:5000/shop/web", "registry:5001/shop/web ghcr.io/shop/web"},
		{"registry/web", "ghcr.io/registry/web", "registry:5000/web"},
		{"*.azurecr.io/**", "dock.azurecr.io/a dock.azurecr.io/a/b", "dock.azurecr.example.com/a azurecr.io/a ghcr.io/a"},
		{"*:5000/web", "registry:5000/web localhost:5000/web", "registry:5001/web ghcr.io/web"},
		{"{ghcr.io,quay.io}/shop/web", "ghcr.io/shop/web quay.io/shop/web", "docker.io/shop/web"},

		// * within a segment, ** across.
		{"shop/*", "ghcr.io/shop/web docker.io/shop/api", "ghcr.io/shop ghcr.io/shop/a/b"},
		{"shop/**", "ghcr.io/shop/web ghcr.io/shop/a/b", "ghcr.io/shop ghcr.io/shopping/web"},
		{"**/web", "ghcr.io/web ghcr.io/shop/web ghcr.io/a/b/web", "ghcr.io/web/a ghcr.io/myweb"},
		{"shop/**/web", "ghcr.io/shop/web ghcr.io/shop/a/web ghcr.io/shop/a/b/web", "ghcr.io/shop/webs ghcr.io/web"},
		{"**", "ghcr.io/web docker.io/library/redis localhost/a/b/c", ""},
		{"*", "ghcr.io/web docker.io/library/redis", "ghcr.io/shop/web docker.io/shop/redis"},
		{"web-*", "ghcr.io/web-1", "ghcr.io/web ghcr.io/web-1/a"},
		{"web-?", "ghcr.io/web-1", "ghcr.io/web- ghcr.io/web-12"},
		{"web-[0-9]", "ghcr.io/web-1", "ghcr.io/web-a"},
		{"shop/{web,api-*}", "ghcr.io/shop/web ghcr.io/shop/api-1", "ghcr.io/shop/api ghcr.io/shop/{web"},
		{"ghcr.io/**", "ghcr.io/a ghcr.io/a/b", "ghcr.iox/a docker.io/ghcr.io/a"},
		{"ghcr.io/*/web", "ghcr.io/shop/web", "ghcr.io/web ghcr.io/a/b/web"},

		// One repository by all its names.
		{"redis", "docker.io/library/redis ghcr.io/redis", "docker.io/shop/redis"},
		{"docker.io/redis", "docker.io/library/redis", "ghcr.io/redis docker.io/shop/redis"},
		{"docker.io/library/redis", "docker.io/library/redis", "ghcr.io/library/redis"},
		{"index.docker.io/library/redis", "docker.io/library/redis", "ghcr.io/library/redis"},
		{"index.docker.io/redis", "docker.io/library/redis", "ghcr.io/redis"},
		{"Registry-1.Docker.io/redis", "docker.io/library/redis", "ghcr.io/redis"},
		{"docker.io/redis*", "docker.io/library/redis docker.io/library/redis-stack", "docker.io/shop/redis"},
		{"docker.io/{redis,postgres}", "docker.io/library/redis docker.io/library/postgres", "docker.io/library/mysql"},
		{"docker.io/*", "docker.io/library/redis", "docker.io/shop/redis ghcr.io/redis"},
		{"docker.io/library/*", "docker.io/library/redis", "docker.io/shop/redis"},
		{"docker.io/**", "docker.io/library/redis docker.io/shop/redis", "ghcr.io/redis"},
	}
	for _, tt := range tests {
		g, err := compileRepo(tt.pattern, nil)
		if err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
			continue
		}
		x := newIndex([]*rule{{repos: []repoGlob{g}}})
		for _, c := range []struct {
			names string
			want  bool
		}{{tt.match, true}, {tt.mismatch, false}} {
			for name := range strings.FieldsSeq(c.names) {
				img := imageOf(name)
				if got := g.matches(namesOf(img)); got != c.want {
					t.Errorf("%s and %s: %t", tt.pattern, name, got)
				}
				if c.want && len(x.candidates(nil, namesOf(img))) != 1 {
					t.Errorf("%s and %s: not in the index", tt.pattern, name)
				}
			}
		}
	}
}

// imageOf is the image of a name whose first segment is the registry, even
// where docker would not see one.
func imageOf(name string) trigger.Image {
	registry, repository, _ := strings.Cut(name, "/")
	return trigger.Image{Registry: registry, Repository: repository, Tag: "v1"}
}

func TestRegistryNotTold(t *testing.T) {
	img := trigger.Image{Repository: "library/redis"}
	for pattern, want := range map[string]bool{"library/redis": true, "**": true, "redis": false, "docker.io/redis": false, "*.io/**": false, "localhost/library/redis": false} {
		g, err := compileRepo(pattern, nil)
		if err != nil || g.matches(namesOf(img)) != want {
			t.Errorf("%s: %v, want %t", pattern, err, want)
		}
	}
}

func TestPatternsThatCanNeverMatch(t *testing.T) {
	for pattern, want := range map[string]string{
		"":                      "not a valid pattern",
		"shop/[a":               "not a valid pattern",
		"shop/{a":               "not a valid pattern",
		`shop/\`:                "not a valid pattern",
		"https://ghcr.io/shop":  "without https://",
		"ghcr.io/shop/web:v1":   "without tag and digest",
		"redis:7":               "without tag and digest",
		"shop/web@" + digest:    "without tag and digest",
		"localhost:5000/web:v1": "without tag and digest",
		"/shop/web":             "an empty path segment",
		"ghcr.io/shop/":         "an empty path segment",
		"ghcr.io//web":          "an empty path segment",
		"shop/web**":            "** must be a path segment of its own",
		"**web":                 "** must be a path segment of its own",
		"ghcr.io/a**b/web":      "** must be a path segment of its own",
		"ghcr.io/shop/***":      "** must be a path segment of its own",
	} {
		if _, err := compileRepo(pattern, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", pattern, err, want)
		}
	}
}

// randomPattern and randomName make words of a small alphabet, so that they
// meet often.
func randomPattern(r *rand.Rand) string {
	segments := []string{"a", "b", "ab", "library", "*", "**", "a*", "*b", "?", "[ab]", "{a,b}", "{a,b*}", "a?"}
	first := []string{"a", "b", "**", "*", "library", "docker.io", "index.docker.io", "r.io", "r:5", "localhost", "*.io", "r.*", "{r,docker}.io", "?.io"}
	parts := []string{first[r.IntN(len(first))]}
	for range r.IntN(4) {
		parts = append(parts, segments[r.IntN(len(segments))])
	}
	return strings.Join(parts, "/")
}

func randomName(r *rand.Rand) trigger.Image {
	registries := []string{"", "docker.io", "r.io", "r:5", "localhost", "q.io"}
	segments := []string{"a", "b", "ab", "abb", "c", "library", "localhost", "r.io"}
	var parts []string
	for range 1 + r.IntN(4) {
		parts = append(parts, segments[r.IntN(len(segments))])
	}
	return trigger.Image{Registry: registries[r.IntN(len(registries))], Repository: strings.Join(parts, "/"), Tag: "v1"}
}

func TestIndexFindsWhatAScanFinds(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		var rules []*rule
		for range 200 {
			one := &rule{}
			for range 1 + r.IntN(3) {
				if g, err := compileRepo(randomPattern(r), nil); err == nil {
					one.repos = append(one.repos, g)
				}
			}
			rules = append(rules, one)
		}
		x := newIndex(rules)
		found := 0
		for range 300 {
			img := randomName(r)
			n := namesOf(img)
			var scan, indexed []int
			for i, one := range rules {
				if slices.ContainsFunc(one.repos, func(g repoGlob) bool { return g.matches(n) }) {
					scan = append(scan, i)
				}
			}
			candidates := x.candidates(nil, n)
			for _, i := range candidates {
				if slices.ContainsFunc(rules[i].repos, func(g repoGlob) bool { return g.matches(n) }) {
					indexed = append(indexed, i)
				}
			}
			if !slices.Equal(scan, indexed) || !slices.IsSorted(candidates) {
				t.Fatalf("seed %d, %s: a scan finds %v, the index %v of %v", seed, img.Name(), scan, indexed, candidates)
			}
			found += len(scan)
		}
		if found == 0 {
			t.Errorf("seed %d: nothing matched at all", seed)
		}
	}
}

// For every rule, what Explain says is what Match does.
func TestExplainEqualsMatch(t *testing.T) {
	tags := []string{"", "v1.2.3", "1.0.0", "main", "v2.0.0-rc.1", "latest"}
	conditions := []string{
		"tag: 'v.*'", "tag: main|latest", "semver: '>=1.1'", "untagged: true", "event: delete", "sources: hub", "exclude: {tag: 'v2.*'}", "exclude: {repo: '*.io/a/**'}",
		"tag: 'v(?P<version>.*)'\n  semver: '<2'", "tag: '.*'\n  untagged: true",
	}
	matched, not := 0, 0
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		var b strings.Builder
		for i := range 40 {
			pattern := randomPattern(r)
			for _, err := compileRepo(pattern, nil); err != nil; _, err = compileRepo(pattern, nil) {
				pattern = randomPattern(r)
			}
			fmt.Fprintf(&b, "- name: r%d\n  repo: %q\n  actions: [call: {to: '{{.Image}}'}, set: {to: x}]\n", i, pattern)
			if c := r.IntN(len(conditions) + 3); c < len(conditions) {
				fmt.Fprintf(&b, "  %s\n", conditions[c])
			}
		}
		set := mustLoad(t, b.String())
		for range 200 {
			e := trigger.Event{Image: randomName(r), Source: []string{"hub", "registry"}[r.IntN(2)], Action: []string{trigger.Push, trigger.Push, trigger.Delete}[r.IntN(3)]}
			e.Tag = tags[r.IntN(len(tags))]
			runs, reason := set.Match(e, now)
			var want, got []string
			for _, v := range set.Explain(e) {
				if v.Matched != (v.Condition == "" && v.Reason == "") {
					t.Fatalf("verdict %+v", v)
				}
				if v.Matched {
					want = append(want, v.Rule+"/0", v.Rule+"/1")
					matched++
				} else {
					not++
				}
			}
			for _, run := range runs {
				got = append(got, fmt.Sprintf("%s/%d", run.Rule, run.Index))
			}
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d, %+v: Explain says %v, Match does %v", seed, e, want, got)
			}
			if (reason == "") != (len(runs) > 0) {
				t.Fatalf("seed %d, %+v: %d runs with the reason %q", seed, e, len(runs), reason)
			}
		}
	}
	if matched < 100 || not < 100 {
		t.Errorf("only %d verdicts matched and %d did not", matched, not)
	}
}

func manyRules(t testing.TB, size int, pattern string) *Set {
	t.Helper()
	var text strings.Builder
	for i := range size {
		fmt.Fprintf(&text, "- {name: r%d, repo: %q, tag: 'v.*', actions: [call: {to: x}]}\n", i, fmt.Sprintf(pattern, i))
	}
	return mustLoad(t, text.String())
}

func TestMoreRulesCostNoMoreMemory(t *testing.T) {
	for _, pattern := range []string{"ghcr.io/team%d/app", "ghcr.io/team%d/**"} {
		few, many := manyRules(t, 10, pattern), manyRules(t, 3000, pattern)
		e := push(t, "ghcr.io/team5/app:v1")
		count := func(set *Set) float64 {
			return testing.AllocsPerRun(100, func() {
				if runs, _ := set.Match(e, now); len(runs) != 1 {
					t.Fatalf("%d runs", len(runs))
				}
			})
		}
		if a, b := count(few), count(many); b > a {
			t.Errorf("%s: %v allocations with 10 rules, %v with 3,000", pattern, a, b)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, size := range []int{10, 1_000, 100_000} {
		for _, pattern := range []string{"registry.example.com/team%d/app", "registry.example.com/team%d/*", "team%d/app"} {
			set := manyRules(b, size, pattern)
			name := map[bool]string{true: "prefix", false: "literal"}[strings.HasSuffix(pattern, "*")]
			if !strings.HasPrefix(pattern, "registry") {
				name = "bare"
			}
			e := push(b, fmt.Sprintf("registry.example.com/team%d/app:v1.2.3", size/2))
			miss := push(b, "registry.example.com/nobody/app:v1.2.3")
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if runs, _ := set.Match(e, now); len(runs) != 1 {
						b.Fatal(len(runs))
					}
				}
			})
			b.Run(fmt.Sprintf("%s-miss/%d", name, size), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if runs, _ := set.Match(miss, now); len(runs) != 0 {
						b.Fatal(len(runs))
					}
				}
			})
		}
	}
	b.Run("template", func(b *testing.B) {
		set := mustLoad(b, `[{name: r, repo: shop/web, tag: 'v(?P<version>.*)', actions: [call: {to: x, any: {image: "{{.Image}}", version: "{{.Match.version}}"}}]}]`)
		e := push(b, "shop/web:v1.2.3")
		b.ReportAllocs()
		for b.Loop() {
			if runs, _ := set.Match(e, now); len(runs) != 1 {
				b.Fatal(len(runs))
			}
		}
	})
}
