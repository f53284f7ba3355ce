package store

import (
	"context"
	"maps"
	"slices"
)

// Polled is what a poller has seen of a repository: the digest of each tag, ""
// where it has not been looked up. seen is false when it was never saved as a
// whole.
func (s *Store) Polled(ctx context.Context, source, repository string) (digests map[string]string, seen bool, err error) {
	digests = map[string]string{}
	err = each(s.query(ctx, "SELECT tag, digest FROM polled WHERE source = ? AND repository = ?", source, repository))(func(rows rowScanner) error {
		var tag, digest string
		err := rows.Scan(&tag, &digest)
		if tag == "" {
			seen = true
		} else {
			digests[tag] = digest
		}
		return err
	})
	return digests, seen, err
}

// pollChunk is how many tags are written in one go: deliveries wait for no
// more than that.
const pollChunk = 500

// SavePolled keeps what has changed in a repository: tags that are new or point
// elsewhere, and tags that are gone. A repository counts as seen only once all
// of it is kept.
func (s *Store) SavePolled(ctx context.Context, source, repository string, set map[string]string, gone []string) error {
	const upsert = `INSERT INTO polled (source, repository, tag, digest) VALUES (?, ?, ?, ?)
		ON CONFLICT (source, repository, tag) DO UPDATE SET digest = excluded.digest`
	const remove = "DELETE FROM polled WHERE source = ? AND repository = ? AND tag = ?"
	for tags := range slices.Chunk(slices.Sorted(maps.Keys(set)), pollChunk) {
		err := s.writer.do(ctx, func(w *writer) error {
			for _, tag := range tags {
				if err := w.exec(upsert, source, repository, tag, set[tag]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for tags := range slices.Chunk(gone, pollChunk) {
		err := s.writer.do(ctx, func(w *writer) error {
			for _, tag := range tags {
				if err := w.exec(remove, source, repository, tag); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.writer.do(ctx, func(w *writer) error { return w.exec(upsert, source, repository, "", "") })
}
