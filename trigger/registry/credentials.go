package registry

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	ecr "github.com/awslabs/amazon-ecr-credential-helper/ecr-login"
	acr "github.com/chrismellard/docker-credential-acr-env/pkg/credhelper"
	"github.com/docker/cli/cli/config"
	dockercreds "github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/google"

	"github.com/dockbell/dockbell/trigger"
)

// credentialsTime is for how long credentials are kept whose finding takes a
// request or a program. Some registries want them with every request.
const credentialsTime = time.Minute

// helpers are the clouds whose registries take the identity of the machine or
// pod that asks.
var helpers = map[string]func(log *slog.Logger) find{
	"acr": func(*slog.Logger) find { return fromHelper(acr.NewACRCredentialsHelper()) },
	"ecr": func(log *slog.Logger) find {
		// What it returns does not say what is wrong; what it logs does.
		return fromHelper(ecr.NewECRHelper(ecr.WithLogger(slog.NewLogLogger(log.Handler(), slog.LevelDebug).Writer())))
	},
	"gcr": func(*slog.Logger) find {
		return func(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
			return authn.Resolve(ctx, google.Keychain, r)
		}
	},
}

func helperNames() []string { return slices.Sorted(maps.Keys(helpers)) }

// find finds the credentials for a registry or a repository.
type find func(ctx context.Context, r authn.Resource) (authn.Authenticator, error)

// keychain gives the credentials that the entry names.
func (s spec) keychain(out Outside) *keychain {
	switch {
	case s.Username != "":
		return &keychain{find: func(context.Context, authn.Resource) (authn.Authenticator, error) {
			password, err := s.Password.Read()
			return &authn.Basic{Username: s.Username, Password: password}, err
		}}
	case s.DockerConfig != "":
		return &keychain{keep: credentialsTime, find: func(_ context.Context, r authn.Resource) (authn.Authenticator, error) {
			text, err := os.ReadFile(s.DockerConfig)
			if err != nil {
				return nil, err
			}
			return fromDockerConfig(text, s.DockerConfig, r.RegistryStr())
		}}
	case s.PullSecret != nil:
		return &keychain{keep: credentialsTime, find: func(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
			return fromPullSecret(ctx, *s.PullSecret, out, r.RegistryStr())
		}}
	case s.Helper == "gcr": // keeps its tokens itself, until they expire
		return &keychain{find: helpers[s.Helper](out.Log)}
	case s.Helper != "":
		return &keychain{keep: credentialsTime, find: helpers[s.Helper](out.Log)}
	}
	return &keychain{keep: credentialsTime, each: true, find: authn.DefaultKeychain.ResolveContext}
}

// keychain gives credentials that find themselves anew whenever they are
// needed, so that those that were rotated or have expired are replaced: whoever
// asks for them keeps them for as long as the program runs.
type keychain struct {
	find find
	keep time.Duration
	each bool // of a registry may have its own

	mu    sync.Mutex
	found map[string]foundAuth
}

type foundAuth struct {
	config *authn.AuthConfig
	at     time.Time
}

// credentialsError is that there are no credentials to come with.
type credentialsError struct{ error }

func (e credentialsError) Unwrap() error { return e.error }

// Resolve implements [authn.Keychain].
func (k *keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return &login{k, r}, nil
}

// config gives the credentials for a registry or a repository.
func (k *keychain) config(ctx context.Context, r authn.Resource) (*authn.AuthConfig, error) {
	key := r.RegistryStr()
	if k.each {
		key = r.String()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if f, ok := k.found[key]; ok && time.Since(f.at) < k.keep {
		return f.config, nil
	}
	auth, err := k.find(ctx, r)
	if err != nil {
		return nil, credentialsError{fmt.Errorf("credentials: %w", err)}
	}
	config, err := authn.Authorization(ctx, auth)
	if err != nil {
		return nil, credentialsError{fmt.Errorf("credentials: %w", err)}
	}
	if k.found == nil {
		k.found = map[string]foundAuth{}
	}
	k.found[key] = foundAuth{config, time.Now()}
	return config, nil
}

// login is the credentials for one registry or repository.
type login struct {
	keychain *keychain
	resource authn.Resource
}

// Authorization implements [authn.Authenticator].
func (l *login) Authorization() (*authn.AuthConfig, error) {
	return l.AuthorizationContext(context.Background())
}

// AuthorizationContext implements [authn.ContextAuthenticator].
func (l *login) AuthorizationContext(ctx context.Context) (*authn.AuthConfig, error) {
	return l.keychain.config(ctx, l.resource)
}

// fromHelper asks a credential helper. That of go-containerregistry goes on
// without credentials when there are none, and so hides why.
func fromHelper(h authn.Helper) find {
	return func(_ context.Context, r authn.Resource) (authn.Authenticator, error) {
		user, password, err := h.Get(r.RegistryStr())
		if err != nil {
			return nil, err
		}
		if user == "<token>" { // by the protocol of the helpers
			return authn.FromConfig(authn.AuthConfig{Username: user, IdentityToken: password}), nil
		}
		return authn.FromConfig(authn.AuthConfig{Username: user, Password: password}), nil
	}
}

func fromPullSecret(ctx context.Context, s PullSecret, out Outside, host string) (authn.Authenticator, error) {
	name := fmt.Sprintf("pull secret %s/%s", s.Namespace, s.Name)
	if out.PullSecret == nil {
		return nil, fmt.Errorf("%s: there is no cluster to read it from", name)
	}
	text, err := out.PullSecret(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return fromDockerConfig(text, name, host)
}

// fromDockerConfig finds the credentials for a registry in the text of a
// Docker configuration.
func fromDockerConfig(text []byte, name, host string) (authn.Authenticator, error) {
	file, err := config.LoadFromReader(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	found, err := file.GetAuthConfig(host)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if found == (types.AuthConfig{}) && trigger.NormalRegistry(host) == trigger.DockerHub {
		found = ofDockerHub(file.AuthConfigs)
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

// ofDockerHub finds the credentials for Docker Hub under any of its names. The
// docker command knows it only as https://index.docker.io/v1/, the kubelet by
// its other names, too.
func ofDockerHub(all map[string]types.AuthConfig) types.AuthConfig {
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if trigger.NormalRegistry(dockercreds.ConvertToHostname(key)) == trigger.DockerHub {
			return all[key]
		}
	}
	return types.AuthConfig{}
}
