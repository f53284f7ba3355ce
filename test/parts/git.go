package parts

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// Git serves a repository by HTTP and by SSH, with the machine's git behind
// both. It is called shop/deploy.git and has a branch main.
type Git struct {
	Dir        string // the bare repository
	HTTP       string // its URL; the password of anybody is Token
	SSH        string // its URL
	Token      string
	Key        string // file with the private key of the one who may come by SSH
	KnownHosts string // file with the key of the server

	root     string
	program  string
	server   *httptest.Server
	listener net.Listener
	work     sync.WaitGroup
}

// StartGit serves a new repository in a new folder below dir.
func StartGit(dir string) (*Git, error) {
	program, err := exec.LookPath("git")
	if err != nil {
		return nil, errors.New("there is no git on this machine: apt-get install git")
	}
	root, err := os.MkdirTemp(dir, "git-")
	if err != nil {
		return nil, err
	}
	g := &Git{root: root, program: program, Dir: filepath.Join(root, "shop", "deploy.git"), Token: "token-of-a-robot", Key: filepath.Join(root, "key"), KnownHosts: filepath.Join(root, "known_hosts")}
	for _, args := range [][]string{
		{"init", "--quiet", "--bare", "--initial-branch=main", g.Dir},
		{"-C", g.Dir, "config", "http.receivepack", "true"},
	} {
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("git %s: %w\n%s", args[0], err, out)
		}
	}
	if err := g.listenSSH(); err != nil {
		return nil, err
	}
	backend := &cgi.Handler{Path: program, Args: []string{"http-backend"}, Dir: root, Env: append(g.environment(), "GIT_PROJECT_ROOT="+root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=robot")}
	g.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != g.Token {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	g.HTTP = g.server.URL + "/shop/deploy.git"
	return g, nil
}

// Stop ends both servers.
func (g *Git) Stop() {
	g.server.Close()
	g.listener.Close()
	g.work.Wait()
}

// environment keeps git from the settings of whoever runs the test.
func (g *Git) environment() []string { return []string{"HOME=" + g.root, "GIT_CONFIG_NOSYSTEM=1"} }

func (g *Git) listenSSH() error {
	server, _, err := newKey()
	if err != nil {
		return err
	}
	client, text, err := newKey()
	if err != nil {
		return err
	}
	if g.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	address := g.listener.Addr().String()
	g.SSH = "ssh://git@" + address + "/shop/deploy.git"
	if err := os.WriteFile(g.Key, text, 0o600); err != nil {
		return err
	}
	line := knownhosts.Line([]string{knownhosts.Normalize(address)}, server.PublicKey()) + "\n"
	if err := os.WriteFile(g.KnownHosts, []byte(line), 0o600); err != nil {
		return err
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(client.PublicKey().Marshal()) {
			return nil, errors.New("nobody knows this key")
		}
		return nil, nil
	}}
	config.AddHostKey(server)
	g.work.Go(func() {
		for {
			conn, err := g.listener.Accept()
			if err != nil {
				return // it was closed
			}
			g.work.Go(func() { g.serveSSH(conn, config) })
		}
	})
	return nil
}

func newKey() (ssh.Signer, []byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, nil, err
	}
	return signer, pem.EncodeToMemory(block), nil
}

func (g *Git) serveSSH(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return // the client has been told
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		if c.ChannelType() != "session" {
			_ = c.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		channel, asked, err := c.Accept()
		if err != nil {
			return
		}
		for r := range asked {
			ok := r.Type == "exec" && len(r.Payload) > 4
			_ = r.Reply(ok, nil)
			if ok {
				g.serveCommand(channel, string(r.Payload[4:])) // behind its length
				break
			}
		}
		channel.Close()
	}
}

var gitCommand = regexp.MustCompile(`^git-(upload-pack|receive-pack) '/?([^']+)'$`)

// serveCommand runs one of the two programs that a git server has.
func (g *Git) serveCommand(channel ssh.Channel, command string) {
	status := uint32(128)
	if m := gitCommand.FindStringSubmatch(command); m != nil {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		cmd := exec.CommandContext(ctx, g.program, m[1], m[2])
		cmd.Dir, cmd.Env = g.root, g.environment()
		cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			go func() { _, _ = io.Copy(in, channel); in.Close() }() // until the client has gone
			_ = cmd.Wait()                                          // its status says how
			status = uint32(cmd.ProcessState.ExitCode())
		}
	}
	_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
}
