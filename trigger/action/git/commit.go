package git

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/memory"
)

const (
	fileLimit  = 4 << 20 // bytes of a file that is changed
	filesLimit = 1000    // files that a pattern may match
)

// Commit is a state of the repository.
type Commit struct {
	Hash    plumbing.Hash
	Message string
	tree    *object.Tree
	clone   *Clone
}

// hash is that of nothing for a branch that is not there.
func (c *Commit) hash() plumbing.Hash {
	if c == nil {
		return plumbing.ZeroHash
	}
	return c.Hash
}

func (c *Clone) commit(h plumbing.Hash) (*Commit, error) {
	found, err := object.GetCommit(c.store, h)
	if err != nil {
		return nil, err
	}
	tree, err := found.Tree()
	if err != nil {
		return nil, err
	}
	return &Commit{h, found.Message, tree, c}, nil
}

// IsPattern reports whether a name stands for several files.
func IsPattern(name string) bool { return strings.ContainsAny(name, "*?[{") }

// Files gives the files of a name, or of a pattern in which ** goes across
// folders. There is at least one.
func (c *Commit) Files(name string) (map[string][]byte, error) {
	files := map[string][]byte{}
	var err error
	if IsPattern(name) {
		err = c.collect(c.tree, "", name, files)
	} else {
		err = c.file(name, files)
	}
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("there is no file %s on the branch", name)
	}
	return files, err
}

// file reads one file. A library's search would not tell one that is not there
// from a clone that lacks something.
func (c *Commit) file(name string, files map[string][]byte) error {
	at, rest := c.tree, name
	for {
		var deeper bool
		var segment string
		segment, rest, deeper = strings.Cut(rest, "/")
		i := slices.IndexFunc(at.Entries, func(e object.TreeEntry) bool { return e.Name == segment })
		switch {
		case i < 0 || deeper == at.Entries[i].Mode.IsFile():
			return nil
		case !deeper:
			return c.read(at.Entries[i], name, files)
		}
		var err error
		if at, err = object.GetTree(c.clone.store, at.Entries[i].Hash); err != nil {
			return c.clone.damaged(err)
		}
	}
}

// collect reads the files below a folder that match a pattern.
func (c *Commit) collect(tree *object.Tree, folder, pattern string, files map[string][]byte) error {
	for _, e := range tree.Entries {
		name := path.Join(folder, e.Name)
		if e.Mode == filemode.Dir {
			below, err := object.GetTree(c.clone.store, e.Hash)
			if err != nil {
				return c.clone.damaged(err)
			}
			if err := c.collect(below, name, pattern, files); err != nil {
				return err
			}
			continue
		}
		if match, err := doublestar.Match(pattern, name); err != nil || !match || e.Mode == filemode.Symlink || !e.Mode.IsFile() {
			continue // the pattern was found good
		}
		if len(files) == filesLimit {
			return fmt.Errorf("%s matches more than %d files: name a folder", pattern, filesLimit)
		}
		if err := c.read(e, name, files); err != nil {
			return err
		}
	}
	return nil
}

func (c *Commit) read(e object.TreeEntry, name string, files map[string][]byte) error {
	if e.Mode == filemode.Symlink {
		return fmt.Errorf("%s is a link: name the file itself", name)
	}
	blob, err := object.GetBlob(c.clone.store, e.Hash)
	if err != nil {
		return c.clone.damaged(err)
	}
	if blob.Size > fileLimit {
		return fmt.Errorf("%s has more than %d MB", name, fileLimit>>20)
	}
	r, err := blob.Reader()
	if err != nil {
		return c.clone.damaged(err)
	}
	defer r.Close()
	if files[name], err = io.ReadAll(r); err != nil {
		return c.clone.damaged(err)
	}
	return nil
}

// Meta is what a commit says beside its files.
type Meta struct {
	Message     string
	Name, Email string // of author and committer
	At          time.Time
	Sign        Signer // nil: not signed
}

// Signer signs a commit; its answer goes into the commit's header.
type Signer func(commit []byte) (signature string, err error)

// NewCommit is a commit that the server has not yet.
type NewCommit struct {
	Hash    plumbing.Hash
	hashes  []plumbing.Hash
	objects *memory.Storage
}

// With makes a commit on top of another, with the text of some of its files
// changed.
func (c *Commit) With(files map[string][]byte, m Meta) (*NewCommit, error) {
	n := &NewCommit{objects: memory.NewStorage()}
	changes := map[string]plumbing.Hash{}
	for name, text := range files {
		blob := n.objects.NewEncodedObject()
		blob.SetType(plumbing.BlobObject)
		w, err := blob.Writer()
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(text); err != nil {
			return nil, err
		}
		if changes[name], err = n.add(blob); err != nil {
			return nil, err
		}
	}
	tree, err := n.addTree(c, c.tree, changes)
	if err != nil {
		return nil, err
	}
	who := object.Signature{Name: m.Name, Email: m.Email, When: m.At}
	commit := &object.Commit{Author: who, Committer: who, Message: m.Message, TreeHash: tree, ParentHashes: []plumbing.Hash{c.Hash}}
	if m.Sign != nil {
		if err := sign(commit, m.Sign); err != nil {
			return nil, err
		}
	}
	n.Hash, err = n.encode(commit)
	return n, err
}

func sign(commit *object.Commit, signer Signer) error {
	var bare plumbing.MemoryObject
	if err := commit.EncodeWithoutSignature(&bare); err != nil {
		return err
	}
	r, err := bare.Reader()
	if err != nil {
		return err
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	commit.PGPSignature, err = signer(text)
	return err
}

// addTree makes a folder with other files; those that change are there.
func (n *NewCommit) addTree(c *Commit, from *object.Tree, changes map[string]plumbing.Hash) (plumbing.Hash, error) {
	tree := &object.Tree{Entries: append([]object.TreeEntry(nil), from.Entries...)}
	below := map[string]map[string]plumbing.Hash{}
	for name, h := range changes {
		folder, rest, deeper := strings.Cut(name, "/")
		if !deeper {
			rest = ""
		}
		if below[folder] == nil {
			below[folder] = map[string]plumbing.Hash{}
		}
		below[folder][rest] = h
	}
	for i, e := range tree.Entries {
		inside, ok := below[e.Name]
		if !ok {
			continue
		}
		if h, isFile := inside[""]; isFile {
			tree.Entries[i].Hash = h
			continue
		}
		folder, err := object.GetTree(c.clone.store, e.Hash)
		if err != nil {
			return plumbing.ZeroHash, c.clone.damaged(err)
		}
		if tree.Entries[i].Hash, err = n.addTree(c, folder, inside); err != nil {
			return plumbing.ZeroHash, err
		}
	}
	return n.encode(tree)
}

func (n *NewCommit) encode(o interface {
	Encode(plumbing.EncodedObject) error
}) (plumbing.Hash, error) {
	encoded := n.objects.NewEncodedObject()
	if err := o.Encode(encoded); err != nil {
		return plumbing.ZeroHash, err
	}
	return n.add(encoded)
}

func (n *NewCommit) add(o plumbing.EncodedObject) (plumbing.Hash, error) {
	h, err := n.objects.SetEncodedObject(o)
	n.hashes = append(n.hashes, h)
	return h, err
}
