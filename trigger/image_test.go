package trigger

import (
	"strings"
	"testing"
)

var (
	sha256of = "sha256:" + strings.Repeat("ab", 32)
	sha512of = "sha512:" + strings.Repeat("cd", 64)
)

func TestNewImage(t *testing.T) {
	tests := []struct {
		registry, repository, tag, digest string
		want                              Image
	}{
		{"", "shop/web", "v1", "", Image{"", "shop/web", "v1", ""}},
		{"docker.io", "nginx", "1", "", Image{"docker.io", "library/nginx", "1", ""}},
		{"docker.io", "library/nginx", "1", "", Image{"docker.io", "library/nginx", "1", ""}},
		{"docker.io", "shop/web", "", sha256of, Image{"docker.io", "shop/web", "", sha256of}},
		{"index.docker.io", "nginx", "1", "", Image{"docker.io", "library/nginx", "1", ""}},
		{"registry-1.docker.io", "nginx", "1", "", Image{"docker.io", "library/nginx", "1", ""}},
		{"registry.hub.docker.com", "nginx", "1", "", Image{"docker.io", "library/nginx", "1", ""}},
		{"Hub.Docker.com", "nginx", "1", "", Image{"docker.io", "library/nginx", "1", ""}},
		{"ghcr.io", "nginx", "1", "", Image{"ghcr.io", "nginx", "1", ""}},
		{"Registry.Example.COM:5000", "a/b/c/d", "v1", "", Image{"registry.example.com:5000", "a/b/c/d", "v1", ""}},
		{"localhost", "web", "v1", "", Image{"localhost", "web", "v1", ""}},
		{"localhost:5000", "web", "v1", "", Image{"localhost:5000", "web", "v1", ""}},
		{"[::1]:5000", "web", "v1", "", Image{"[::1]:5000", "web", "v1", ""}},
		{"[FE80::1]", "web", "v1", "", Image{"[fe80::1]", "web", "v1", ""}},
		{"r.example", "Shop/Web", "V1", "", Image{"r.example", "Shop/Web", "V1", ""}},
		{"r.example", "a__b/c.d/e--f", "v1", "", Image{"r.example", "a__b/c.d/e--f", "v1", ""}},
		{"r.example", strings.Repeat("a", 255), "v1", "", Image{"r.example", strings.Repeat("a", 255), "v1", ""}},
		{"r.example", "web", strings.Repeat("a", 128), "", Image{"r.example", "web", strings.Repeat("a", 128), ""}},

		// A digest where the tag should be.
		{"r.example", "web", sha256of, "", Image{"r.example", "web", "", sha256of}},
		{"r.example", "web", sha256of, sha512of, Image{"r.example", "web", "", sha512of}},
		{"r.example", "web", "v1", sha512of, Image{"r.example", "web", "v1", sha512of}},

		// A malformed digest leaves the tag good.
		{"r.example", "web", "v1", "sha256:abc", Image{"r.example", "web", "v1", ""}},
		{"r.example", "web", "v1", strings.ToUpper(sha256of), Image{"r.example", "web", "v1", ""}},
		{"r.example", "web", "v1", "md5:" + strings.Repeat("ab", 16), Image{"r.example", "web", "v1", ""}},
		{"r.example", "web", "", "latest", Image{"r.example", "web", "", ""}},
	}
	for _, tt := range tests {
		got, err := NewImage(tt.registry, tt.repository, tt.tag, tt.digest)
		if err != nil || got != tt.want {
			t.Errorf("NewImage(%q, %q, %q, %q) = %+v, %v, want %+v", tt.registry, tt.repository, tt.tag, tt.digest, got, err, tt.want)
		}
	}
}

func TestNewImageRefuses(t *testing.T) {
	tests := []struct{ registry, repository, tag, want string }{
		{"r.example/x", "web", "v1", "registry"},
		{"http://r.example", "web", "v1", "registry"},
		{"r.example:123456", "web", "v1", "registry"},
		{"r.example:", "web", "v1", "registry"},
		{"-r.example", "web", "v1", "registry"},
		{"r example", "web", "v1", "registry"},
		{"[::1", "web", "v1", "registry"},
		{"::1", "web", "v1", "registry"},
		{"", "", "v1", "repository"},
		{"docker.io", "", "v1", "repository"},
		{"", "/web", "v1", "repository"},
		{"", "web/", "v1", "repository"},
		{"", "shop//web", "v1", "repository"},
		{"", "shop/../web", "v1", "repository"},
		{"", "web\n", "v1", "repository"},
		{"", "wéb", "v1", "repository"},
		{"", "web;rm -rf", "v1", "repository"},
		{"", "a___b", "v1", "repository"},
		{"", strings.Repeat("a", 256), "v1", "repository"},
		{"docker.io", strings.Repeat("a", 255), "v1", "repository"},
		{"", "web", "-v1", "tag"},
		{"", "web", "v1 ", "tag"},
		{"", "web", "v1\n", "tag"},
		{"", "web", "v/1", "tag"},
		{"", "web", "$(id)", "tag"},
		{"", "web", strings.Repeat("a", 129), "tag"},
		{"", "web", "sha256:abc", "tag"},
	}
	for _, tt := range tests {
		got, err := NewImage(tt.registry, tt.repository, tt.tag, "")
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) || got != (Image{}) {
			t.Errorf("NewImage(%.40q, %.40q, %.40q) = %+v, %v, want an error about the %s", tt.registry, tt.repository, tt.tag, got, err, tt.want)
		}
	}
	if _, err := NewImage("", strings.Repeat("x", 10_000), "", ""); err == nil || len(err.Error()) > 300 {
		t.Errorf("the error repeats what the sender wrote at length: %d bytes", len(err.Error()))
	}
}

func TestParseImage(t *testing.T) {
	tests := []struct {
		ref          string
		want         Image
		text, pinned string // what String and Pinned give
	}{
		{"nginx", Image{"docker.io", "library/nginx", "", ""}, "docker.io/library/nginx", "docker.io/library/nginx"},
		{"nginx:1.27", Image{"docker.io", "library/nginx", "1.27", ""}, "docker.io/library/nginx:1.27", "docker.io/library/nginx:1.27"},
		{"library/nginx:1", Image{"docker.io", "library/nginx", "1", ""}, "docker.io/library/nginx:1", "docker.io/library/nginx:1"},
		{"shop/web:v1", Image{"docker.io", "shop/web", "v1", ""}, "docker.io/shop/web:v1", "docker.io/shop/web:v1"},
		{"index.docker.io/shop/web:v1", Image{"docker.io", "shop/web", "v1", ""}, "docker.io/shop/web:v1", "docker.io/shop/web:v1"},
		{"ghcr.io/a/b/c:v1", Image{"ghcr.io", "a/b/c", "v1", ""}, "ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"},
		{"GHCR.io/a/b:v1", Image{"ghcr.io", "a/b", "v1", ""}, "ghcr.io/a/b:v1", "ghcr.io/a/b:v1"},
		{"registry:5000/web", Image{"registry:5000", "web", "", ""}, "registry:5000/web", "registry:5000/web"},
		{"registry:5000/web:v1", Image{"registry:5000", "web", "v1", ""}, "registry:5000/web:v1", "registry:5000/web:v1"},
		{"registry/web:v1", Image{"docker.io", "registry/web", "v1", ""}, "docker.io/registry/web:v1", "docker.io/registry/web:v1"},
		{"localhost/web:v1", Image{"localhost", "web", "v1", ""}, "localhost/web:v1", "localhost/web:v1"},
		{"localhost:5000", Image{"docker.io", "library/localhost", "5000", ""}, "docker.io/library/localhost:5000", "docker.io/library/localhost:5000"},
		{"[::1]:5000/web:v1", Image{"[::1]:5000", "web", "v1", ""}, "[::1]:5000/web:v1", "[::1]:5000/web:v1"},
		{"[::1]/web", Image{"[::1]", "web", "", ""}, "[::1]/web", "[::1]/web"},
		{"r.example/web@" + sha256of, Image{"r.example", "web", "", sha256of}, "r.example/web@" + sha256of, "r.example/web@" + sha256of},
		{"r.example/web:v1@" + sha512of, Image{"r.example", "web", "v1", sha512of}, "r.example/web:v1", "r.example/web:v1@" + sha512of},
	}
	for _, tt := range tests {
		got, err := ParseImage(tt.ref)
		if err != nil || got != tt.want {
			t.Errorf("ParseImage(%q) = %+v, %v, want %+v", tt.ref, got, err, tt.want)
			continue
		}
		if got.String() != tt.text || got.Pinned() != tt.pinned {
			t.Errorf("%q: String %q and Pinned %q, want %q and %q", tt.ref, got, got.Pinned(), tt.text, tt.pinned)
		}
	}
	if got := (Image{Repository: "shop/web", Tag: "v1"}).String(); got != "shop/web:v1" {
		t.Errorf("without a registry: %q", got)
	}
}

func TestParseImageRefuses(t *testing.T) {
	for _, ref := range []string{
		"", ":v1", "@" + sha256of, "web:", "web@", "web@sha256:abc", "web@" + sha256of + "@" + sha256of, "docker.io/", "r.example/:v1",
		"web:v1:v2", "r.example:port/web", "https://r.example/web", "web v1", "web:" + sha256of, "../web", "r.example/../web", "web\x00",
	} {
		if got, err := ParseImage(ref); err == nil {
			t.Errorf("ParseImage(%q) = %+v, want an error", ref, got)
		}
	}
}

// What is parsed is written so that it parses to the same again.
func FuzzParseImage(f *testing.F) {
	for _, seed := range []string{
		"nginx", "nginx:1", "shop/web:v1@" + sha256of, "r.example:5000/a/b:v1", "[::1]:5000/web", "localhost/web@" + sha512of, "INDEX.docker.io/x", "a:b:c", "LOCALHOST/a",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		img, err := ParseImage(ref)
		if err != nil {
			return
		}
		if again, err := ParseImage(img.Pinned()); err != nil || again != img {
			t.Errorf("%q is %+v, and its Pinned %q is %+v, %v", ref, img, img.Pinned(), again, err)
		}
		if same, err := NewImage(img.Registry, img.Repository, img.Tag, img.Digest); err != nil || same != img {
			t.Errorf("%q is %+v, and normalising that gives %+v, %v", ref, img, same, err)
		}
		if strings.ContainsAny(img.Pinned(), " \t\n\x00\"'`$;&|<>\\") {
			t.Errorf("%q lets through %q", ref, img.Pinned())
		}
	})
}
