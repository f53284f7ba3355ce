package store

import (
	"context"
	"database/sql"
	"sync/atomic"
)

// checkpointer moves what is in SQLite's log into the file, beside the writer.
// Where the writer does that itself, as SQLite would have it, all who write wait
// for a tenth of a second each time. What the writer adds meanwhile is moved
// after that, and so on until little is left: that is for the writer, which
// begins the log anew when nothing is left in it.
type checkpointer struct {
	db       *sql.DB
	every    int // pages in the log
	progress chan struct{}
	ended    chan struct{}
	little   atomic.Bool // is left
}

const (
	// A checkpoint writes each changed page once, however often it changed:
	// with 32 MB of log between them a write costs a fifth less than with
	// SQLite's 4.
	checkpointEvery = 8_000

	// From here on the writer does not wait for the checkpointer any more.
	checkpointAtOnce = 4 * checkpointEvery

	// So many pages take the writer a few milliseconds.
	littleToMove = 400

	// The checkpointer looks how long the log is once in so many transactions.
	checkpointLook = 64
)

func startCheckpointer(file string, every int) (*checkpointer, error) {
	db, err := sql.Open("sqlite", file+"?_pragma=synchronous(FULL)&_pragma=wal_autocheckpoint(0)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	c := &checkpointer{db: db, every: every, progress: make(chan struct{}, 1), ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		for range c.progress {
			if _, inLog, err := checkpoint(db, "NOOP"); err == nil && inLog >= c.every {
				c.little.Store(c.move() == nil)
			}
		}
	}()
	return c, nil
}

// move ends when little is left. Should it fail, the log goes on growing, and the
// writer meets the same error.
func (c *checkpointer) move() error {
	for before := 0; ; {
		moved, _, err := checkpoint(c.db, "PASSIVE")
		if err != nil || moved-before < littleToMove {
			return err
		}
		before = moved
	}
}

// checkpoint gives how many pages of the log are in the file, and how many it has.
func checkpoint(db interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}, mode string) (moved, inLog int, err error) {
	err = db.QueryRowContext(context.Background(), "PRAGMA wal_checkpoint("+mode+")").Scan(new(int), &inLog, &moved)
	return moved, inLog, err
}

func (c *checkpointer) stop() error {
	close(c.progress)
	<-c.ended
	return c.db.Close()
}
