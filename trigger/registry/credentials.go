package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	ecr "github.com/awslabs/amazon-ecr-credential-helper/ecr-login"
	acr "github.com/chrismellard/docker-credential-acr-env/pkg/credhelper"
	"github.com/docker/cli/cli/config"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/google"
)

// helpers are the clouds whose registries take the identity of the machine or
// pod that asks.
var helpers = map[string]func() authn.Keychain{
	"acr": func() authn.Keychain { return authn.NewKeychainFromHelper(acr.NewACRCredentialsHelper()) },
	"ecr": func() authn.Keychain {
		return authn.NewKeychainFromHelper(ecr.NewECRHelper(ecr.WithLogger(io.Discard)))
	},
	"gcr": func() authn.Keychain { return google.Keychain },
}

func helperNames() []string { return slices.Sorted(maps.Keys(helpers)) }

// keychain gives the credentials of a registry whenever they are asked for, so
// that those that changed count.
func (s spec) keychain(out Outside) authn.Keychain {
	switch {
	case s.Username != "":
		return keychain(func(context.Context, string) (authn.Authenticator, error) {
			password, err := s.Password.Read()
			if err != nil {
				return nil, err
			}
			return &authn.Basic{Username: s.Username, Password: password}, nil
		})
	case s.DockerConfig != "":
		return keychain(func(_ context.Context, host string) (authn.Authenticator, error) {
			text, err := os.ReadFile(s.DockerConfig)
			if err != nil {
				return nil, err
			}
			return fromDockerConfig(text, s.DockerConfig, host)
		})
	case s.PullSecret != nil:
		return keychain(func(ctx context.Context, host string) (authn.Authenticator, error) {
			name := fmt.Sprintf("pull secret %s/%s", s.PullSecret.Namespace, s.PullSecret.Name)
			if out.PullSecret == nil {
				return nil, fmt.Errorf("%s: there is no cluster to read it from", name)
			}
			text, err := out.PullSecret(ctx, *s.PullSecret)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			return fromDockerConfig(text, name, host)
		})
	case s.Helper != "":
		return helpers[s.Helper]()
	}
	return authn.DefaultKeychain
}

// keychain is a function that finds the credentials for a registry.
type keychain func(ctx context.Context, host string) (authn.Authenticator, error)

// Resolve implements [authn.Keychain].
func (k keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k(context.Background(), r.RegistryStr())
}

// ResolveContext implements [authn.ContextKeychain].
func (k keychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	return k(ctx, r.RegistryStr())
}

// fromDockerConfig finds the credentials for a registry in the text of a
// Docker configuration.
func fromDockerConfig(text []byte, name, host string) (authn.Authenticator, error) {
	file, err := config.LoadFromReader(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	key := host
	if host == "index.docker.io" {
		key = authn.DefaultAuthKey
	}
	found, err := file.GetAuthConfig(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	auth := authn.AuthConfig{
		Username: found.Username, Password: found.Password, Auth: found.Auth,
		IdentityToken: found.IdentityToken, RegistryToken: found.RegistryToken,
	}
	if auth == (authn.AuthConfig{}) {
		return nil, fmt.Errorf("%s has no credentials for %s", name, host)
	}
	return authn.FromConfig(auth), nil
}
