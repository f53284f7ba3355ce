package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// HostKeys says which servers are those they claim to be.
type HostKeys struct {
	Files []string // as known_hosts of OpenSSH; the user's and the machine's when there are none
	Any   bool     // whoever answers is believed
}

// check gives what checks the key of a host, and which kinds of keys to ask it
// for: a host has several, and not all of them are known.
func (h *HostKeys) check(address string) (ssh.HostKeyCallback, []string, error) {
	if h.Any {
		return ssh.InsecureIgnoreHostKey(), nil, nil
	}
	files := h.Files
	if len(files) == 0 {
		home, _ := os.UserHomeDir() // "" leads to no file
		for _, f := range []string{filepath.Join(home, ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"} {
			if _, err := os.Stat(f); err == nil {
				files = append(files, f)
			}
		}
	}
	known, err := knownhosts.New(files...)
	if err != nil {
		return nil, nil, fmt.Errorf("known hosts: %w", err)
	}
	var wrong *knownhosts.KeyError
	if err := known(address, &net.TCPAddr{}, noKey{}); !errors.As(err, &wrong) || len(wrong.Want) == 0 {
		return nil, nil, errors.New("the key of the host is not known: put what `ssh-keyscan` prints for it into the file of `knownHosts`, once you have compared it with what the server's operator says")
	}
	var algorithms []string
	for _, k := range wrong.Want {
		if t := k.Key.Type(); t == ssh.KeyAlgoRSA {
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			algorithms = append(algorithms, t)
		}
	}
	return known, algorithms, nil
}

// noKey is nobody's key, to be told whose is known.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return nil }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// sshLine is a session in which a service runs.
type sshLine struct {
	client *ssh.Client
	in     io.WriteCloser
	out    io.Reader
	beside io.Reader // what it writes beside the protocol
	ended  func() bool
}

func (r *Remote) callSSH(ctx context.Context, service string) (line, error) {
	address := r.Host
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(address, "22")
	}
	check, algorithms, err := r.HostKeys.check(address)
	if err != nil {
		return nil, err
	}
	conn, err := r.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, failed(ctx, "no connection", err)
	}
	l := &sshLine{ended: context.AfterFunc(ctx, func() { conn.Close() })}
	user := r.user
	if user == "" {
		user = "git"
	}
	config := &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(r.Key)},
		HostKeyCallback: check, HostKeyAlgorithms: algorithms, ClientVersion: "SSH-2.0-" + agent,
	}
	c, channels, requests, err := ssh.NewClientConn(conn, address, config)
	if err != nil {
		conn.Close()
		return nil, greeting(ctx, err)
	}
	l.client = ssh.NewClient(c, channels, requests)
	if err := l.begin(service + " '" + r.Path + "'"); err != nil {
		l.close()
		return nil, failed(ctx, "starting "+service, err)
	}
	return l, nil
}

// greeting says why the server and dockbell did not come together.
func greeting(ctx context.Context, err error) error {
	var wrong *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case errors.As(err, &wrong):
		return errors.New("the host shows another key than the one that is known: somebody may be listening, or the key was changed; nothing was sent")
	case errors.As(err, &revoked):
		return errors.New("the host shows a key that is marked as revoked; nothing was sent")
	case strings.Contains(err.Error(), "unable to authenticate"):
		return errors.New("the server does not take the key: is it a deploy key of the repository, with the right to write?")
	}
	return failed(ctx, "no SSH", err)
}

// begin starts the service. The path has no quotes; see repositoryPath.
func (l *sshLine) begin(command string) error {
	session, err := l.client.NewSession()
	if err != nil {
		return err
	}
	if l.in, err = session.StdinPipe(); err != nil {
		return err
	}
	if l.out, err = session.StdoutPipe(); err != nil {
		return err
	}
	if l.beside, err = session.StderrPipe(); err != nil {
		return err
	}
	return session.Start(command)
}

func (l *sshLine) refs(ctx context.Context) (*packp.AdvRefs, error) {
	adv := packp.NewAdvRefs()
	err := adv.Decode(l.out)
	switch {
	case err == nil, errors.Is(err, packp.ErrEmptyAdvRefs):
		return adv, err
	case ctx.Err() != nil:
		return nil, failed(ctx, "reading its branches", err)
	}
	var says limitedText
	_, _ = io.Copy(&says, io.LimitReader(l.beside, messageLimit)) // as much as comes
	if says := says.excerpt(); says != "" {
		return nil, fmt.Errorf("it lets nobody see the repository, or there is none. It says: %s", says)
	}
	return nil, failed(ctx, "reading its branches", err)
}

func (l *sshLine) send(ctx context.Context, request []byte) (io.Reader, error) {
	if _, err := io.Copy(l.in, bytes.NewReader(request)); err != nil {
		return nil, failed(ctx, "sending", err)
	}
	return l.out, nil
}

func (l *sshLine) close() {
	l.ended()
	l.client.Close()
}
