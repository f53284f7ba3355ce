package parts

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry is a running distribution registry.
type Registry struct {
	Addr    string // host:port, the host part of its images
	process *process
}

// StartRegistry starts a registry below dir that notifies url, with the given
// Authorization header.
func StartRegistry(ctx context.Context, bin Bin, dir, url, authorization string) (*Registry, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	r := &Registry{Addr: fmt.Sprintf("127.0.0.1:%d", ports[0])}
	config := filepath.Join(dir, "registry.yaml")
	err = os.WriteFile(config, fmt.Appendf(nil, `version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}
http: {addr: %q}
notifications:
  events: {includereferences: true}
  endpoints:
    - name: dockbell
      url: %q
      headers: {Authorization: [%q]}
      timeout: 1s
      threshold: 3
      backoff: 1s
`, filepath.Join(dir, "registry"), r.Addr, url, authorization), 0o600)
	if err != nil {
		return nil, err
	}
	if r.process, err = start(dir, "registry", bin.path("registry"), "serve", config); err != nil {
		return nil, err
	}
	if err := r.process.waitFor(ctx, answers(&http.Client{Timeout: time.Second}, "http://"+r.Addr+"/v2/")); err != nil {
		r.Stop()
		return nil, err
	}
	return r, nil
}

// Stop ends the registry.
func (r *Registry) Stop() { r.process.stop() }

// PushImage pushes a new random image and returns its digest.
func (r *Registry) PushImage(ctx context.Context, repository, tag string) (string, error) {
	img, err := random.Image(256, 2)
	if err != nil {
		return "", err
	}
	ref, err := name.NewTag(r.Addr+"/"+repository+":"+tag, name.Insecure)
	if err != nil {
		return "", err
	}
	if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
		return "", err
	}
	return digest(img.Digest())
}

// PushIndex pushes a new multi-arch image with a random manifest for each
// architecture and returns the digest of the index.
func (r *Registry) PushIndex(ctx context.Context, repository, tag string, architectures ...string) (string, error) {
	index := v1.ImageIndex(empty.Index)
	for _, arch := range architectures {
		img, err := random.Image(256, 1)
		if err != nil {
			return "", err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	ref, err := name.NewTag(r.Addr+"/"+repository+":"+tag, name.Insecure)
	if err != nil {
		return "", err
	}
	if err := remote.WriteIndex(ref, index, remote.WithContext(ctx)); err != nil {
		return "", err
	}
	return digest(index.Digest())
}

func digest(h v1.Hash, err error) (string, error) { return h.String(), err }
