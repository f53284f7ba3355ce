package git

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/dockbell/dockbell/trigger"
)

const (
	clonesLimit = 1 << 30 // bytes of all clones; those used least recently go first
	filesLeft   = 5000    // files that fetches may leave in one clone before it is made anew
	objectCache = 4 << 20 // bytes of objects held in memory while a clone is in use
	lockLook    = 20 * time.Millisecond
)

// Clones are kept in a folder, so that each time only what is new is fetched.
// They hold nothing that a server has not: the folder may be emptied at any
// time, and several processes may share it.
type Clones struct {
	dirs  []string
	limit int64
}

// NewClones keeps clones in the first of some folders that can be written to.
// It is made when it is needed.
func NewClones(dirs ...string) *Clones { return &Clones{dirs, clonesLimit} }

// folder gives the one to use. One that belongs to somebody else is not
// trusted: what is read there ends in a commit.
func (c *Clones) folder() (string, error) {
	var errs []error
	for _, dir := range c.dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			errs = append(errs, err)
			continue
		}
		info, err := os.Lstat(dir)
		if err == nil {
			if owner, ok := info.Sys().(*syscall.Stat_t); ok && info.IsDir() && int(owner.Uid) == os.Getuid() && syscall.Access(dir, 2) == nil {
				return dir, nil
			}
			err = fmt.Errorf("%s is not dockbell's own to write to", dir)
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("there is no folder for clones: set XDG_CACHE_HOME to one that can be written to: %w", errors.Join(errs...))
}

// Clone is what is kept of a repository, in use by one at a time.
type Clone struct {
	remote *Remote
	clones *Clones
	dir    string
	lock   *os.File
	store  *filesystem.Storage
}

// Open waits until nobody else uses the clone of a repository.
func (c *Clones) Open(ctx context.Context, r *Remote) (*Clone, error) {
	name := fmt.Sprintf("%x", sha256.Sum256([]byte(r.text)))[:32]
	folder, err := c.folder()
	if err != nil {
		return nil, trigger.Retry(err)
	}
	clone := &Clone{remote: r, clones: c, dir: filepath.Join(folder, name)}
	if err := clone.wait(ctx); err != nil {
		return nil, trigger.Retry(fmt.Errorf("the clone is in use by another run: %w", err))
	}
	clone.tidy()
	if err := clone.open(); err != nil {
		clone.Close()
		return nil, trigger.Retry(fmt.Errorf("the clone: %w", err))
	}
	return clone, nil
}

// wait takes the lock. It is a file that stays, beside the clone, which may go.
func (c *Clone) wait(ctx context.Context) error {
	look := time.NewTicker(lockLook)
	defer look.Stop()
	for {
		err := c.tryLock()
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *Clone) tryLock() error {
	f, err := os.OpenFile(c.dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return err
	}
	c.lock = f
	return nil
}

// tidy takes away what a process that was ended in the middle has left, and a
// clone that has become large.
func (c *Clone) tidy() {
	objects := filepath.Join(c.dir, "objects")
	if files, _ := filepath.Glob(filepath.Join(objects, "*", "*")); len(files) >= filesLeft { // the pattern is good
		os.RemoveAll(c.dir)
	}
	parts, _ := filepath.Glob(filepath.Join(objects, "pack", "tmp_*"))
	for _, p := range parts {
		os.Remove(p)
	}
}

func (c *Clone) open() error {
	c.store = filesystem.NewStorage(osfs.New(c.dir), cache.NewObjectLRU(objectCache))
	return c.store.Init()
}

// Close lets others use the clone, and keeps the folder within its limit.
func (c *Clone) Close() {
	if c.store != nil {
		_ = c.store.Close() // it was only read
	}
	now := time.Now()
	_ = os.Chtimes(c.lock.Name(), now, now) // a clone that seems older goes earlier
	c.lock.Close()
	shrink(filepath.Dir(c.dir), c.clones.limit)
}

// shrink removes the clones that were used least recently until the rest is
// small enough. What is in use stays.
func shrink(folder string, limit int64) {
	locks, _ := filepath.Glob(filepath.Join(folder, "*.lock"))
	type used struct {
		dir  string
		at   time.Time
		size int64
	}
	var all []used
	var total int64
	for _, name := range locks {
		info, err := os.Stat(name)
		if err != nil {
			continue
		}
		u := used{dir: strings.TrimSuffix(name, ".lock"), at: info.ModTime()}
		u.size = size(u.dir)
		total += u.size
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b used) int { return a.at.Compare(b.at) })
	for _, u := range all {
		if total <= limit {
			return
		}
		clone := &Clone{dir: u.dir}
		if clone.tryLock() != nil {
			continue
		}
		os.RemoveAll(u.dir)
		clone.lock.Close()
		total -= u.size
	}
}

func size(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				bytes += info.Size()
			}
		}
		return nil // what goes away meanwhile has no size
	})
	return bytes
}

// Fetch gives what some branches are at now; nil where there is no such branch.
func (c *Clone) Fetch(ctx context.Context, branches ...string) ([]*Commit, error) {
	l, err := c.remote.call(ctx, uploadPack)
	if err != nil {
		return nil, err
	}
	defer l.close()
	there, err := ask(ctx, l)
	if err != nil {
		return nil, err
	}
	var wants []plumbing.Hash
	for _, b := range branches {
		if tip := there.branch(b); !tip.IsZero() && !c.has(tip) {
			wants = append(wants, tip)
		}
	}
	if len(wants) > 0 {
		err := fetch(ctx, l, there.capabilities, wants, c.have(), c.store)
		if errors.Is(err, errPack) && ctx.Err() == nil {
			return nil, c.damaged(err)
		} else if err != nil {
			return nil, err
		}
	}
	commits := make([]*Commit, len(branches))
	for i, b := range branches {
		tip := there.branch(b)
		if tip.IsZero() {
			continue
		}
		if commits[i], err = c.commit(tip); err != nil {
			return nil, c.damaged(err)
		}
		if err := c.keep(b, tip); err != nil {
			return nil, c.damaged(err)
		}
	}
	return commits, nil
}

// keep remembers that all of a commit is there.
func (c *Clone) keep(branch string, tip plumbing.Hash) error {
	return c.store.SetReference(plumbing.NewHashReference(plumbing.NewBranchReferenceName(branch), tip))
}

// have are the commits of which all is there.
func (c *Clone) have() (all []plumbing.Hash) {
	iter, err := c.store.IterReferences()
	if err != nil {
		return nil
	}
	defer iter.Close()
	_ = iter.ForEach(func(r *plumbing.Reference) error {
		if r.Type() == plumbing.HashReference && !r.Hash().IsZero() && !slices.Contains(all, r.Hash()) {
			all = append(all, r.Hash())
		}
		return nil
	})
	return all
}

func (c *Clone) has(tip plumbing.Hash) bool { return slices.Contains(c.have(), tip) }

// damaged drops a clone that lacks something, so that the next try makes it
// anew.
func (c *Clone) damaged(err error) error {
	os.RemoveAll(c.dir)
	return trigger.Retry(fmt.Errorf("the clone is damaged and will be made anew: %w", err))
}

// RefusedError is a push that the server does not take, and why.
type RefusedError struct{ Reason, Says string }

func (e *RefusedError) Error() string {
	text := "it refuses the push (" + e.Reason + "): may the key or token push to this branch, or is it protected?"
	if e.Says != "" {
		text += " It says: " + e.Says
	}
	return text
}

// Push moves a branch from the commit that it is at, nil for a new branch, to
// a new one. It gives [ErrMoved] when the branch is elsewhere.
func (c *Clone) Push(ctx context.Context, branch string, from *Commit, to *NewCommit) error {
	l, err := c.remote.call(ctx, receivePack)
	if err != nil {
		return err
	}
	defer l.close()
	there, err := ask(ctx, l)
	if err != nil {
		return err
	}
	at := from.hash()
	if there.branch(branch) != at {
		return ErrMoved
	}
	var pack bytes.Buffer
	if _, err := packfile.NewEncoder(&pack, to.objects, false).Encode(to.hashes, 0); err != nil {
		return err
	}
	report, says, err := push(ctx, l, there.capabilities, branch, at, to.Hash, pack.Bytes())
	if err != nil || report == nil || report.Error() == nil {
		return err
	}
	return c.refused(ctx, branch, at, report, says)
}

// refused tells a branch that has moved in the last moment from one that may
// not be pushed to: servers word both as they like.
func (c *Clone) refused(ctx context.Context, branch string, at plumbing.Hash, report *packp.ReportStatus, says string) error {
	if l, err := c.remote.call(ctx, uploadPack); err == nil {
		defer l.close()
		if there, err := ask(ctx, l); err == nil && there.branch(branch) != at {
			return ErrMoved
		}
	}
	if report.UnpackStatus != "ok" {
		return trigger.Retry(fmt.Errorf("it could not store the commit: %s %s", report.UnpackStatus, says))
	}
	reason := report.CommandStatuses[0].Status
	if strings.Contains(reason, "lock") || strings.Contains(reason, "failed to update ref") { // another push is under way
		return ErrMoved
	}
	return &RefusedError{reason, says}
}
