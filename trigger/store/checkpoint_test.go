package store

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/dockbell/dockbell/trigger"
)

// The log begins anew again and again while somebody writes all the time.
func TestCheckpoints(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	b, s := newBench(t, path)
	s.writer.engine.(*sqlite).checkpoints.every = 100
	const most = 16 << 20
	written := int64(0)
	for i := 0; written < 3*most; i++ {
		b.accept(b.push(fmt.Sprint("v", i)), planned(fmt.Sprint("lane", i), trigger.Queue))
		log, err := os.Stat(path + "-wal")
		if err != nil || log.Size() > most {
			t.Fatalf("a log of %d MB, %v", log.Size()>>20, err)
		}
		written += 12 * 4096 // a push writes more pages than that
	}
	if problems, err := s.check(t.Context(), s.read); err != nil || len(problems) > 0 {
		t.Errorf("%q, %v", problems, err)
	}
}

// A reader that takes long keeps the log from beginning anew, and nobody from
// writing.
func TestCheckpointsBesideReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	b, s := newBench(t, path)
	s.writer.engine.(*sqlite).checkpoints.every = 100
	b.accept(b.push("v0"), planned("a", trigger.Queue))
	tx, err := s.read.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	count := func() (n int) {
		if err := tx.QueryRow("SELECT count(*) FROM runs").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	count()
	for i := range 3 * checkpointLook {
		b.accept(b.push(fmt.Sprint("v", i+1)), planned(fmt.Sprint("lane", i), trigger.Queue))
	}
	if n := count(); n != 1 {
		t.Errorf("the reader sees %d runs", n)
	}
}
