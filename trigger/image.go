package trigger

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// DockerHub is the registry host under which images without a host are known.
const DockerHub = "docker.io"

// Image names a container image the way dockbell compares names: the registry
// lower-case and Docker Hub always [DockerHub], official images below
// "library/", the digest never in the tag.
type Image struct {
	Registry   string `json:"registry"`   // host[:port]; "" when the sender does not tell
	Repository string `json:"repository"` // path below the registry
	Tag        string `json:"tag"`        // "" for a push by digest
	Digest     string `json:"digest"`     // "algorithm:hex"; "" when the sender does not tell
}

// The grammar is that of the OCI distribution specification 1.1 ("Pulling
// manifests"); upper-case letters in a repository are let through because one
// sender (Aliyun) sends them.
var (
	repositoryGrammar = regexp.MustCompile(`^[A-Za-z0-9]+(?:(?:\.|_{1,2}|-+)[A-Za-z0-9]+)*(?:/[A-Za-z0-9]+(?:(?:\.|_{1,2}|-+)[A-Za-z0-9]+)*)*$`)
	registryGrammar   = regexp.MustCompile(`^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?$`)
)

// NewImage normalises the parts of a name as a sender gave them. A registry
// that is an alias of Docker Hub becomes [DockerHub]; a repository there that
// has no namespace gets "library/". A tag that is really a digest moves to the
// digest; a malformed digest is dropped, since senders' own samples hold some
// and the tag is still good. Everything else that is malformed is an error, so
// that nothing but these alphabets reaches a template.
func NewImage(registry, repository, tag, digest string) (Image, error) {
	host, ok := RegistryHost(registry)
	if !ok && registry != "" {
		return Image{}, fmt.Errorf("registry %q is not host[:port]", registry)
	}
	img := Image{Registry: host, Repository: repository, Tag: tag, Digest: digest}
	if img.Registry == DockerHub && repository != "" && !strings.Contains(repository, "/") {
		img.Repository = "library/" + repository
	}
	if len(img.Repository) > 255 || !repositoryGrammar.MatchString(img.Repository) {
		return Image{}, fmt.Errorf("repository %q is not a repository name", clip(repository))
	}
	if IsDigest(tag) {
		img.Tag = ""
		if digest == "" {
			img.Digest = tag
		}
	}
	if img.Tag != "" && !isTag(img.Tag) {
		return Image{}, fmt.Errorf("tag %q is not a tag", clip(tag))
	}
	if !IsDigest(img.Digest) {
		img.Digest = ""
	}
	return img, nil
}

// RegistryHost is the normal name of a registry; ok is false when it cannot be
// that of one.
func RegistryHost(name string) (host string, ok bool) {
	host = NormalRegistry(name)
	return host, registryGrammar.MatchString(host)
}

// isTag reports whether s is a tag.
func isTag(s string) bool {
	return s != "" && len(s) <= 128 && s[0] != '.' && s[0] != '-' && only(s, letters+"._-")
}

// IsDigest reports whether s is a digest, as sha256:… or sha512:….
func IsDigest(s string) bool {
	algorithm, sum, _ := strings.Cut(s, ":")
	return (algorithm == "sha256" && len(sum) == 64 || algorithm == "sha512" && len(sum) == 128) && only(sum, "0123456789abcdef")
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

// only reports whether s has none but these characters.
func only(s, characters string) bool { return strings.Trim(s, characters) == "" }

// NormalRegistry lower-cases a registry host and maps the names of Docker Hub
// to [DockerHub].
func NormalRegistry(host string) string {
	host = strings.ToLower(host)
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "hub.docker.com":
		return DockerHub
	}
	return host
}

// Aliases tell of registries that have several names, inside of a network and
// outside of it say, which one counts. Keys and values are normal.
type Aliases map[string]string

// Canonical is the name of a registry that counts.
func (a Aliases) Canonical(host string) string {
	host = NormalRegistry(host)
	if name, ok := a[host]; ok {
		return name
	}
	return host
}

// ParseImage reads a reference as Kubernetes and docker do: the first segment
// is a registry when it has a dot or a colon or is "localhost"; without one
// the image is on Docker Hub.
func ParseImage(ref string) (Image, error) {
	name, digest, hasDigest := strings.Cut(ref, "@")
	if hasDigest && !IsDigest(digest) {
		return Image{}, fmt.Errorf("image %q: the digest is malformed", clip(ref))
	}
	tag := ""
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, tag = name[:i], name[i+1:]
		if tag == "" {
			return Image{}, fmt.Errorf("image %q: the tag is empty", clip(ref))
		}
	}
	if name == "" {
		return Image{}, errors.New("the image reference is empty")
	}
	registry, repository := DockerHub, name
	if first, rest, ok := strings.Cut(name, "/"); ok && IsRegistry(first) {
		registry, repository = first, rest
	}
	img, err := NewImage(registry, repository, tag, digest)
	if err != nil {
		return Image{}, fmt.Errorf("image %q: %w", clip(ref), err)
	}
	return img, nil
}

// IsRegistry reports whether the first segment of a name is a registry host
// rather than a part of the repository.
func IsRegistry(segment string) bool {
	return segment == "localhost" || strings.ContainsAny(segment, ".:")
}

// Name is the image without tag and digest.
func (i Image) Name() string {
	if i.Registry == "" {
		return i.Repository
	}
	return i.Registry + "/" + i.Repository
}

// String is the reference that pulls the image: by tag when there is one, by
// digest otherwise.
func (i Image) String() string {
	switch {
	case i.Tag != "":
		return i.Name() + ":" + i.Tag
	case i.Digest != "":
		return i.Name() + "@" + i.Digest
	}
	return i.Name()
}

// Pinned is the reference that pulls exactly this content: tag and digest,
// the tag for people. It equals String when the digest is not known.
func (i Image) Pinned() string {
	if i.Digest == "" || i.Tag == "" {
		return i.String()
	}
	return i.Name() + ":" + i.Tag + "@" + i.Digest
}

// clip keeps what a sender wrote from filling a log line.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
