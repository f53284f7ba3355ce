package parts

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is a started server. The kernel ends it with the test, also when
// that panics or is killed. It is in a group of its own, so that Ctrl-C
// reaches the test alone, which then stops its servers in order.
type process struct {
	name string
	log  string
	from int64 // where in the log this start begins
	cmd  *exec.Cmd
	done chan struct{}
}

// start runs a program in dir; what it prints is added to a file there. Of the
// developer's environment it gets where programs are, no more: the registry
// and etcd take settings from variables, kwok from a file in HOME.
func start(dir, name string, argv ...string) (*process, error) {
	return startAs(nil, dir, name, argv...)
}

// startAs starts it as another user; nil is the user of the test.
func startAs(user *syscall.Credential, dir, name string, argv ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if p.from, err = out.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	p.cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "OTEL_TRACES_EXPORTER=none"} // the registry would look for a collector
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: user}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }() // how it ended is in its log
	return p, nil
}

// stop ends a process, by force if it takes long. It may have ended already.
func (p *process) stop() {
	if p == nil || p.ended() {
		return
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM) // if it ends just now, that is fine
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.kill()
	}
}

// kill ends a process at once.
func (p *process) kill() {
	if p == nil || p.ended() {
		return
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // if it ends just now, that is fine
	<-p.done
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// alive is an error with the end of its log when the process has ended.
func (p *process) alive() error {
	if !p.ended() {
		return nil
	}
	tail := p.tail()
	if strings.Contains(strings.ToLower(tail), "address already in use") {
		return fmt.Errorf("%w: %s\n%s", errPortTaken, p.name, tail)
	}
	return fmt.Errorf("%s ended: %s\n%s", p.name, p.cmd.ProcessState, tail)
}

// waitFor asks until ready or the process ends; the error has the end of its
// log.
func (p *process) waitFor(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	go func() { // who has its port instead may never answer
		select {
		case <-p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		err := ready(ctx)
		if err == nil || p.ended() {
			return p.alive()
		}
		select {
		case <-ctx.Done():
			return errors.Join(p.alive(), fmt.Errorf("%s is not ready: %w\n%s", p.name, err, p.tail()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tail is the end of what it printed since it was started.
func (p *process) tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data[min(p.from, int64(len(data))):])), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// answers asks a URL for a 200. Nobody signed the certificates of servers
// that are started here.
func answers(url string) func(context.Context) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: true, // the connection would stay when the client is gone
	}}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answered %s", url, resp.Status)
		}
		return nil
	}
}
