package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/gorilla/mux"
)

// daemon is a dockbell that is measured.
type daemon struct {
	hooks, admin string
	cmd          *exec.Cmd
}

var listening = regexp.MustCompile(`msg=listening hooks=(\S+) admin=(\S+)`)

// serve starts dockbell below a folder of its own.
func (b *bench) serve(ctx context.Context, name, config string) (*daemon, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "dockbell.yaml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	return b.serveAgain(ctx, name)
}

// serveAgain starts dockbell on what an earlier one left.
func (b *bench) serveAgain(ctx context.Context, name string) (*daemon, error) {
	d := &daemon{cmd: exec.CommandContext(ctx, b.program, "serve")}
	d.cmd.Dir = filepath.Join(b.dir, name)
	d.cmd.Env = os.Environ()
	if b.cluster != nil {
		d.cmd.Env = append(d.cmd.Env, "KUBECONFIG="+b.cluster.Kubeconfig)
	}
	return d, d.start()
}

// start starts the process and waits until it says where it listens.
func (d *daemon) start() error {
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := d.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := d.cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			d.hooks, d.admin = "http://"+m[1]+"/hooks/registry", "http://"+m[2]
			go func() { _, _ = io.Copy(io.Discard, stderr) }() // until it ends
			return nil
		}
	}
	return fmt.Errorf("%s did not start: %w", d.cmd.Path, d.cmd.Wait())
}

// idleMode is the argument by which this program becomes a server that does
// nothing: a process of its own, as dockbell is one.
const idleMode = "idle"

func startIdle(ctx context.Context) (*daemon, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d := &daemon{cmd: exec.CommandContext(ctx, self, idleMode)}
	return d, d.start()
}

func serveIdle(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	fmt.Fprintf(os.Stderr, "msg=listening hooks=%s admin=%s\n", l.Addr(), l.Addr())
	// The same server as dockbell's: its router, and its bounds of time and size.
	r := mux.NewRouter().SkipClean(true)
	r.HandleFunc("/hooks/{source}", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, 1<<20)) // as a handler must to keep the connection
		w.WriteHeader(http.StatusAccepted)
	}).Methods(http.MethodPost)
	srv := &http.Server{
		Handler: r, MaxHeaderBytes: 64 << 10,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
	}
	return srv.Serve(l)
}

func (d *daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // ended already is fine
	_ = d.cmd.Wait()
}

// kill ends it as a power cut does, in the middle of its runs.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill() // ended already is fine
	_ = d.cmd.Wait()
}

// ready asks whether it takes deliveries.
func (d *daemon) ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.admin+"/readyz", nil)
	if err != nil {
		return err
	}
	return answered(req)
}

// client has a connection for each sender.
var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}

// post sends a notification and wants a 2xx.
func post(ctx context.Context, url string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	return answered(req)
}

// answered sends a request and wants a 2xx.
func answered(req *http.Request) error {
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s answered %s", req.URL, resp.Status)
	}
	return nil
}

// senders do n things, several at once.
func senders(together, n int, do func(i int) error) error {
	var wg sync.WaitGroup
	failed := make(chan error, together)
	for first := range together {
		wg.Go(func() {
			for i := first; i < n; i += together {
				if err := do(i); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(failed)
	return <-failed
}

// notification is what a registry sends about one push, about 1.5 KB of it.
func notification(id, repository, tag string, n int) []byte {
	return fmt.Appendf(nil, `{"events":[{"id":%q,"timestamp":%q,"action":"push","target":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":522,"length":522,"repository":%q,"tag":%q,"url":"https://registry.example.com/v2/%s/manifests/%s","references":[{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":55},{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"%s","size":120},{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"%s","size":4120}]},"request":{"id":"7c66f28b-de19-40a4-821c-6f5f6c0003a4","addr":"10.0.0.1:41234","host":"registry.example.com","method":"PUT","useragent":"docker/28.2.2 go/go1.24.3 kernel/6.8.0 os/linux arch/amd64 UpstreamClient(Docker-Client/28.2.2 (linux))"},"actor":{"name":"ci-bot"},"source":{"addr":"registry-7d9c5b6f4-x2x7p:5000","instanceID":"01a1fc46-1c2a-7286-baf5-295d1aae7b44"}}]}`,
		id, time.Now().UTC().Format(time.RFC3339Nano), digest(n), repository, tag, repository, digest(n), digest(n+1), digest(n+2), digest(n+3))
}

// digest is one that does not pack better than others do.
func digest(n int) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(strconv.Itoa(n))))
}
