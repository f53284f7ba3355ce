package parts

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
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

// Notify says where a registry reports what happens, and how hard it tries.
type Notify struct {
	URL       string
	Headers   http.Header
	Timeout   time.Duration // of one request
	Threshold int           // failures in a row before it waits for Backoff
	Backoff   time.Duration
}

// StartRegistry starts a registry below dir that notifies url, with the given
// Authorization header, as the registry's documentation configures it.
func StartRegistry(ctx context.Context, bin Bin, dir, url, authorization string) (*Registry, error) {
	return StartRegistryNotifying(ctx, bin, dir, Notify{
		URL: url, Headers: http.Header{"Authorization": {authorization}}, Timeout: time.Second, Threshold: 3, Backoff: time.Second,
	})
}

// StartRegistryNotifying starts a registry in a new folder below dir and
// returns when it takes pushes. It keeps images there, and lets them be
// deleted.
func StartRegistryNotifying(ctx context.Context, bin Bin, dir string, notify Notify) (*Registry, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	var r *Registry
	err = onFreePorts(ctx, dir, "registry", 1, func(ctx context.Context, own string, ports []int) error {
		r = &Registry{Addr: fmt.Sprintf("127.0.0.1:%d", ports[0])}
		err := r.start(ctx, bin, own, notify)
		if err != nil {
			r.Stop()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Registry) start(ctx context.Context, bin Bin, dir string, notify Notify) error {
	config, err := json.Marshal(registryConfig(r.Addr, filepath.Join(dir, "images"), notify)) // JSON is YAML
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "registry.yaml")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return err
	}
	if r.process, err = start(dir, "registry", bin.path("registry"), "serve", path); err != nil {
		return err
	}
	return r.process.waitFor(ctx, answers("http://"+r.Addr+"/v2/"))
}

func registryConfig(addr, images string, notify Notify) any {
	type object = map[string]any
	return object{
		"version": "0.1",
		"log":     object{"level": "warn"},
		"storage": object{"filesystem": object{"rootdirectory": images}, "delete": object{"enabled": true}},
		"http":    object{"addr": addr},
		"notifications": object{
			"events": object{"includereferences": true},
			"endpoints": []object{{
				"name": "dockbell", "url": notify.URL, "headers": notify.Headers,
				"timeout": notify.Timeout.String(), "threshold": notify.Threshold, "backoff": notify.Backoff.String(),
			}},
		},
	}
}

// Stop ends the registry.
func (r *Registry) Stop() { r.process.stop() }

// PushImage pushes a new random image and returns its digest.
func (r *Registry) PushImage(ctx context.Context, repository, tag string) (string, error) {
	return pushImage(ctx, authn.Anonymous, r.Addr+"/"+repository+":"+tag)
}

// PushIndex pushes a new multi-arch image with a random manifest for each
// architecture and returns the digest of the index.
func (r *Registry) PushIndex(ctx context.Context, repository, tag string, architectures ...string) (string, error) {
	return pushIndex(ctx, authn.Anonymous, r.Addr+"/"+repository+":"+tag, architectures)
}

func pushImage(ctx context.Context, as authn.Authenticator, image string) (string, error) {
	img, err := random.Image(256, 2)
	if err != nil {
		return "", err
	}
	ref, err := name.NewTag(image, name.Insecure)
	if err != nil {
		return "", err
	}
	if err := remote.Write(ref, img, remote.WithContext(ctx), remote.WithAuth(as)); err != nil {
		return "", err
	}
	return digest(img.Digest())
}

func pushIndex(ctx context.Context, as authn.Authenticator, image string, architectures []string) (string, error) {
	index := v1.ImageIndex(empty.Index)
	for _, arch := range architectures {
		img, err := random.Image(256, 1)
		if err != nil {
			return "", err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	ref, err := name.NewTag(image, name.Insecure)
	if err != nil {
		return "", err
	}
	if err := remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithAuth(as)); err != nil {
		return "", err
	}
	return digest(index.Digest())
}

func digest(h v1.Hash, err error) (string, error) { return h.String(), err }
