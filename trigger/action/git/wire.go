package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/dockbell/dockbell/trigger"
)

// The two services of a git server.
const (
	uploadPack  = "git-upload-pack"
	receivePack = "git-receive-pack"
)

const (
	packLimit    = 1 << 30 // bytes that one fetch may bring
	messageLimit = 2 << 10 // bytes of what a server says that are looked at
	excerptLimit = 500     // bytes of it that an error shows
)

// agent is how dockbell calls itself to a server.
const agent = "dockbell"

// ErrMoved says that somebody else has pushed to the branch meanwhile.
var ErrMoved = errors.New("the branch has moved")

// errPack says that what was fetched could not be added to what is there.
var errPack = errors.New("the objects cannot be stored")

// line is a connection to a service of the server, for one request.
type line interface {
	refs(ctx context.Context) (*packp.AdvRefs, error)
	// send gives the answer to a request.
	send(ctx context.Context, request []byte) (io.Reader, error)
	close()
}

func (r *Remote) call(ctx context.Context, service string) (line, error) {
	if r.ssh {
		return r.callSSH(ctx, service)
	}
	return r.callHTTP(service), nil
}

// refs are the branches that a server has.
type refs struct {
	tips         map[string]plumbing.Hash
	capabilities *capability.List
}

func (r refs) branch(name string) plumbing.Hash {
	return r.tips[plumbing.NewBranchReferenceName(name).String()]
}

func ask(ctx context.Context, l line) (refs, error) {
	adv, err := l.refs(ctx)
	switch {
	case errors.Is(err, packp.ErrEmptyAdvRefs):
		return refs{capabilities: capability.NewList()}, nil
	case err != nil:
		return refs{}, err
	}
	return refs{adv.References, adv.Capabilities}, nil
}

// fetch brings the newest state of some commits, and not what was before.
// Those that are there already need not be sent again.
func fetch(ctx context.Context, l line, offered *capability.List, wants, have []plumbing.Hash, into storer.Storer) error {
	req := packp.NewUploadPackRequest()
	err := offer(req.Capabilities, offered, capability.Sideband64k, capability.OFSDelta, capability.NoProgress, capability.Shallow)
	if err != nil {
		return err
	}
	req.Wants = wants
	if req.Capabilities.Supports(capability.Shallow) {
		req.Depth, req.Shallows, req.Haves = packp.DepthCommits(1), have, have
	}
	if len(have) > 0 {
		// Only a thin pack leaves out what a shallow clone has. It builds on
		// objects that are there, so its own are kept one by one.
		if err := offer(req.Capabilities, offered, capability.ThinPack); err != nil {
			return err
		}
		into = struct{ storer.Storer }{into}
	}
	var request bytes.Buffer
	if err := errors.Join(req.UploadRequest.Encode(&request), req.UploadHaves.Encode(&request, false)); err != nil {
		return err
	}
	request.WriteString("0009done\n")
	body, err := l.send(ctx, request.Bytes())
	if err != nil {
		return err
	}
	resp := packp.NewUploadPackResponse(req)
	if err := resp.Decode(io.NopCloser(body)); err != nil {
		return failed(ctx, "reading what it sends", err)
	}
	var pack io.Reader = resp
	if req.Capabilities.Supports(capability.Sideband64k) {
		pack = sideband.NewDemuxer(sideband.Sideband64k, resp)
	}
	limited := &io.LimitedReader{R: pack, N: packLimit}
	if err := packfile.UpdateObjectStorage(into, limited); err != nil {
		if limited.N <= 0 {
			return fmt.Errorf("its newest state alone is larger than %d MB, which is too large for dockbell: use a repository for manifests", packLimit>>20)
		}
		return failed(ctx, "reading what it sends", fmt.Errorf("%w: %w", errPack, err))
	}
	return nil
}

// push sends new objects and moves a branch from one commit to another.
func push(ctx context.Context, l line, offered *capability.List, branch string, from, to plumbing.Hash, objects []byte) (report *packp.ReportStatus, says string, err error) {
	req := packp.NewReferenceUpdateRequest()
	if err := offer(req.Capabilities, offered, capability.ReportStatus, capability.Sideband64k); err != nil {
		return nil, "", err
	}
	req.Commands = []*packp.Command{{Name: plumbing.NewBranchReferenceName(branch), Old: from, New: to}}
	req.Packfile = io.NopCloser(bytes.NewReader(objects))
	var request bytes.Buffer
	if err := req.Encode(&request); err != nil {
		return nil, "", err
	}
	body, err := l.send(ctx, request.Bytes())
	if err != nil || !req.Capabilities.Supports(capability.ReportStatus) {
		return nil, "", err
	}
	var message limitedText
	if req.Capabilities.Supports(capability.Sideband64k) {
		demuxer := sideband.NewDemuxer(sideband.Sideband64k, body)
		demuxer.Progress = &message
		body = demuxer
	}
	report = packp.NewReportStatus()
	if err := report.Decode(body); err != nil {
		return nil, "", failed(ctx, "reading whether it took the commit", err)
	}
	return report, message.excerpt(), nil
}

// offer takes those capabilities that the server has, too.
func offer(ours, theirs *capability.List, wanted ...capability.Capability) error {
	if theirs.Supports(capability.Agent) {
		if err := ours.Set(capability.Agent, agent); err != nil {
			return err
		}
	}
	for _, c := range wanted {
		if theirs.Supports(c) {
			if err := ours.Set(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// failed is an error of a connection, after which another try may help.
func failed(ctx context.Context, doing string, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return trigger.Retry(fmt.Errorf("%s: %w", doing, err))
}

// limitedText keeps the beginning of what is written to it.
type limitedText struct{ text []byte }

func (t *limitedText) Write(p []byte) (int, error) {
	t.text = append(t.text, p[:min(len(p), messageLimit-len(t.text))]...)
	return len(p), nil
}

// excerpt is that on one line.
func (t *limitedText) excerpt() string {
	words := strings.FieldsFunc(strings.ToValidUTF8(string(t.text), "�"), func(r rune) bool { return r <= ' ' || r == 0x7f })
	words = slices.DeleteFunc(words, func(word string) bool { return word == "error:" }) // some servers begin each line with it
	s := strings.Join(words, " ")
	if len(s) > excerptLimit {
		s = strings.ToValidUTF8(s[:excerptLimit], "") + "…"
	}
	return s
}
