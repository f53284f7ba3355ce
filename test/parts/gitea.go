package parts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

const giteaModule = "code.gitea.io/gitea"

// The users of a Gitea that has just been started. The owner may do
// everything, also what administrators may; the robot owns nothing.
const (
	GiteaOwner = "shop"
	GiteaRobot = "robot"
	// GiteaPassword is that of both.
	GiteaPassword = "s3cret-of-the-shop"
)

// Gitea is a running Gitea: git by HTTP and by its own SSH server, its API and
// its container registry.
type Gitea struct {
	Addr       string // host:port, the host part of its images
	SSH        string // user@host:port
	Token      string // the robot's, for repositories and packages
	Key        string // file with the robot's private key
	KnownHosts string // file with the key of the SSH server

	process *process
}

// StartGitea starts a Gitea in a new folder below dir and returns when it
// answers. Its webhooks reach this machine, and nothing else is called.
func StartGitea(ctx context.Context, bin Bin, dir string) (*Gitea, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	static, err := moduleDir(ctx, giteaModule+"@"+giteaVersion)
	if err != nil {
		return nil, err
	}
	var g *Gitea
	err = onFreePorts(ctx, dir, "gitea", 2, func(ctx context.Context, own string, ports []int) error {
		g = &Gitea{Addr: fmt.Sprintf("127.0.0.1:%d", ports[0]), SSH: fmt.Sprintf("git@127.0.0.1:%d", ports[1]), Key: filepath.Join(own, "key"), KnownHosts: filepath.Join(own, "known_hosts")}
		err := g.start(ctx, bin, own, static, ports)
		if err != nil {
			g.Stop()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// Stop ends it.
func (g *Gitea) Stop() { g.process.stop() }

func (g *Gitea) start(ctx context.Context, bin Bin, dir, static string, ports []int) error {
	// Left to itself it would make a key of RSA, for seconds.
	server, hostKey, err := newKey()
	if err != nil {
		return err
	}
	robot, key, err := newKey()
	if err != nil {
		return err
	}
	address := fmt.Sprintf("127.0.0.1:%d", ports[1])
	config, hostKeyFile := filepath.Join(dir, "app.ini"), filepath.Join(dir, "host_key")
	for path, text := range map[string]string{
		hostKeyFile: string(hostKey), g.Key: string(key),
		g.KnownHosts: knownhosts.Line([]string{knownhosts.Normalize(address)}, server.PublicKey()) + "\n",
		config:       fmt.Sprintf(giteaConfig, ports[0], ports[1], dir, static, hostKeyFile),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	program := []string{bin.path("gitea"), "--config", config, "--work-path", dir}
	if g.process, err = start(dir, "gitea", append(program, "web")...); err != nil {
		return err
	}
	if err := g.process.waitFor(ctx, answers("http://"+g.Addr+"/api/healthz")); err != nil {
		return err
	}
	if err := g.addUsers(ctx, dir, program, robot.PublicKey()); err != nil {
		return errors.Join(g.process.alive(), fmt.Errorf("%w\n%s", err, g.process.tail()))
	}
	return nil
}

// giteaConfig is its app.ini. Whoever runs the tests may be root.
const giteaConfig = `
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true

[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = %[1]d
ROOT_URL = http://127.0.0.1:%[1]d/
START_SSH_SERVER = true
BUILTIN_SSH_SERVER_USER = git
SSH_DOMAIN = 127.0.0.1
SSH_LISTEN_HOST = 127.0.0.1
SSH_LISTEN_PORT = %[2]d
SSH_PORT = %[2]d
SSH_ROOT_PATH = %[3]s/ssh
SSH_CREATE_AUTHORIZED_KEYS_FILE = false
SSH_SERVER_HOST_KEYS = %[5]s
STATIC_ROOT_PATH = %[4]s
OFFLINE_MODE = true

[database]
DB_TYPE = sqlite3
PATH = %[3]s/gitea.db
SQLITE_JOURNAL_MODE = WAL

[security]
INSTALL_LOCK = true
PASSWORD_HASH_ALGO = pbkdf2_v1

[webhook]
ALLOWED_HOST_LIST = loopback

[service]
DISABLE_REGISTRATION = true

[cron]
ENABLED = false

[cron.update_checker]
ENABLED = false

[actions]
ENABLED = false

[log]
LEVEL = Warn
`

// addUsers makes the first user by the command line, as an administrator does,
// and the other one by the API.
func (g *Gitea) addUsers(ctx context.Context, dir string, program []string, key ssh.PublicKey) error {
	created, err := start(dir, "gitea-user", append(program, "admin", "user", "create", "--admin", "--must-change-password=false",
		"--username", GiteaOwner, "--email", GiteaOwner+"@example.com", "--password", GiteaPassword)...)
	if err != nil {
		return err
	}
	select {
	case <-created.done:
	case <-ctx.Done():
		created.kill()
	}
	if !created.cmd.ProcessState.Success() {
		return created.alive()
	}
	robot := map[string]any{"username": GiteaRobot, "email": GiteaRobot + "@example.com", "password": GiteaPassword, "must_change_password": false}
	if err := g.Call(ctx, GiteaOwner, http.MethodPost, "/admin/users", robot, nil); err != nil {
		return err
	}
	if err := g.Call(ctx, GiteaRobot, http.MethodPost, "/user/keys", map[string]any{"title": "of the robot", "key": string(ssh.MarshalAuthorizedKey(key))}, nil); err != nil {
		return err
	}
	g.Token, err = g.NewToken(ctx, GiteaRobot, "write:repository", "write:package")
	return err
}

// PushImage pushes a new random image as the owner, whose repository it must
// be, and returns its digest.
func (g *Gitea) PushImage(ctx context.Context, repository, tag string) (string, error) {
	return pushImage(ctx, giteaLogin(), g.Addr+"/"+repository+":"+tag)
}

// PushIndex pushes a new multi-arch image, as Registry's does.
func (g *Gitea) PushIndex(ctx context.Context, repository, tag string, architectures ...string) (string, error) {
	return pushIndex(ctx, giteaLogin(), g.Addr+"/"+repository+":"+tag, architectures)
}

// DeleteTag deletes a tag as the owner, by the registry's API.
func (g *Gitea) DeleteTag(ctx context.Context, repository, tag string) error {
	ref, err := name.NewTag(g.Addr+"/"+repository+":"+tag, name.Insecure)
	if err != nil {
		return err
	}
	return remote.Delete(ref, remote.WithContext(ctx), remote.WithAuth(giteaLogin()))
}

func giteaLogin() authn.Authenticator {
	return &authn.Basic{Username: GiteaOwner, Password: GiteaPassword}
}

// NewToken makes a token of a user that has only these rights.
func (g *Gitea) NewToken(ctx context.Context, user string, scopes ...string) (string, error) {
	var token struct {
		SHA1 string `json:"sha1"`
	}
	err := g.Call(ctx, user, http.MethodPost, "/users/"+user+"/tokens", map[string]any{"name": strings.Join(scopes, " "), "scopes": scopes}, &token)
	return token.SHA1, err
}

// Call calls the API as a user, with a body and for an answer in JSON, each of
// which may be nil.
func (g *Gitea) Call(ctx context.Context, user, method, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+g.Addr+"/api/v1"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.SetBasicAuth(user, GiteaPassword)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, got)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(got, into)
}
