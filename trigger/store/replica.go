package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

const (
	// leaseTime is how long a replica may act without having told the others
	// that it is alive. After that they may take its runs.
	leaseTime = 10 * time.Second

	// beats is how often it tells them during a lease.
	beats = 5

	// leaveTimeout is how long a replica that ends tries to say so.
	leaveTimeout = 2 * time.Second
)

// replica is this dockbell among those that share the store.
type replica struct {
	lasts time.Duration // of a lease; leaseTime, but in tests

	mu     sync.Mutex
	lease  context.Context
	end    context.CancelCauseFunc
	expiry *time.Timer

	seen map[int64]sighting // of the others
}

// sighting is since when a replica has shown the same beat.
type sighting struct {
	beat  int64
	since time.Time
}

// errLeaseLost is why work is cut off.
var errLeaseLost = errors.New("this dockbell could not tell the store that it is alive, so another one may have taken its runs")

// Lease ends when runs that were claimed since may have been taken by another
// replica: none of them may be started, or go on, after that.
func (s *Store) Lease() context.Context {
	s.replica.mu.Lock()
	defer s.replica.mu.Unlock()
	return s.replica.lease
}

// Shared reports whether several replicas may use the store.
func (s *Store) Shared() bool { return s.shared }

// join makes this replica known, and keeps it so.
func (s *Store) join(ctx context.Context) error {
	s.replica.renew(time.Now(), s.shared)
	s.writer.lapse = s.replica.lapse
	err := s.writer.do(ctx, func(w *writer) error {
		if w.shared {
			return nil // a writer that nobody knows makes itself known
		}
		// Nobody else has the file: who is in it is no more.
		if err := w.exec("DELETE FROM replicas"); err != nil {
			return err
		}
		return w.rejoin()
	})
	if err != nil || !s.shared {
		return err
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var both sync.WaitGroup
	both.Go(func() { s.keepAlive(ctx) })
	both.Go(func() { s.listen(ctx) })
	s.releases = append(s.releases, func() error {
		stop()
		both.Wait()
		s.leave()
		return nil
	})
	return nil
}

// rejoin makes the writer a replica of which nobody has known.
func (w *writer) rejoin() error {
	before := w.me
	w.me = rand.Int64()
	if before != 0 {
		w.lapse() // the others have taken its runs
	}
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	return w.exec("INSERT INTO replicas (id, name, beat) VALUES (?, ?, 0)", w.me, name)
}

// leave lets the others take what is left at once.
func (s *Store) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	// If this fails they notice by themselves, a little later.
	_ = s.writer.do(ctx, func(w *writer) error {
		w.due = true
		return w.exec("DELETE FROM replicas WHERE id = ?", w.me)
	})
}

// keepAlive tells the others that this replica is alive, until ctx ends.
func (s *Store) keepAlive(ctx context.Context) {
	tick := time.NewTicker(s.replica.lasts / beats)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		began := time.Now()
		err := s.writer.do(ctx, func(w *writer) error {
			return w.exec("UPDATE replicas SET beat = beat + 1 WHERE id = ?", w.me)
		})
		if err == nil {
			s.replica.renew(began, true)
		}
	}
}

// renew keeps the lease from a beat that was sent at a time, or begins a new
// one.
func (r *replica) renew(sent time.Time, ends bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lease == nil || r.lease.Err() != nil {
		r.lease, r.end = context.WithCancelCause(context.Background())
	}
	if !ends {
		return
	}
	if r.expiry != nil {
		r.expiry.Stop()
	}
	r.expiry = time.AfterFunc(time.Until(sent.Add(r.lasts)), r.lapse)
}

// lapse ends the lease.
func (r *replica) lapse() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end(errLeaseLost)
}

// Recover deals with the runs of replicas that have died in the middle of
// them, and of an earlier life of this one. Those of a kind that may be
// repeated run again; the others end as unknown, since nobody knows whether
// they had their effect. It must be called before the first Claim, and now and
// then after it, and returns the runs it dealt with.
func (s *Store) Recover(ctx context.Context, now time.Time, repeatable func(kind string) bool) ([]trigger.Run, error) {
	dead, err := s.dead(ctx)
	if err != nil {
		return nil, err
	}
	if len(dead) == 0 {
		if left, err := s.queryRow(ctx, "SELECT 1"+leftOver+" LIMIT 1", nil, new(int)); err != nil || !left {
			return nil, err
		}
	}
	var runs []trigger.Run
	err = s.writer.do(ctx, func(w *writer) error {
		runs = nil
		for id, beat := range dead {
			if err := w.exec("DELETE FROM replicas WHERE id = ? AND beat = ?", id, beat); err != nil {
				return err
			}
		}
		err := w.rows(selectRuns+" WHERE r.id IN (SELECT run_id"+leftOver+") ORDER BY r.id", nil, addTo(&runs))
		if err != nil {
			return err
		}
		for i := range runs {
			r := &runs[i]
			res, err := w.finish(*r, r.CutOff(repeatable(r.Kind), now))
			if err != nil {
				return err
			}
			r.State, r.Reason = res.State, res.Reason
		}
		return nil
	})
	return runs, err
}

// leftOver are the running runs whose replica is no more.
const leftOver = " FROM running WHERE owner NOT IN (SELECT id FROM replicas)"

// dead gives the replicas, with their last beat, that have shown no other one
// for as long as a lease lasts. What was not seen does not count: after the
// database was away all have time to come back.
func (s *Store) dead(ctx context.Context) (map[int64]int64, error) {
	if !s.shared {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, transactionTimeout)
	defer cancel()
	now, seen, dead := time.Now(), map[int64]sighting{}, map[int64]int64{}
	err := each(s.query(ctx, "SELECT id, beat FROM replicas"))(func(rows rowScanner) error {
		var id int64
		at := sighting{since: now}
		err := rows.Scan(&id, &at.beat)
		seen[id] = at
		return err
	})
	s.replica.mu.Lock()
	defer s.replica.mu.Unlock()
	if err != nil {
		s.replica.seen = nil
		return nil, err
	}
	for id, at := range seen {
		if before, ok := s.replica.seen[id]; ok && before.beat == at.beat {
			seen[id] = before
			if now.Sub(before.since) > s.replica.lasts {
				dead[id] = at.beat
			}
		}
	}
	s.replica.seen = seen
	return dead, nil
}

// Lead reports whether this is the replica that does a single duty, and keeps
// it that way as long as it is alive.
func (s *Store) Lead(ctx context.Context, duty string) (leads bool, err error) {
	err = s.writer.do(ctx, func(w *writer) error {
		const take = `INSERT INTO duties (duty, owner) VALUES (?, ?)
			ON CONFLICT (duty) DO UPDATE SET owner = excluded.owner WHERE duties.owner NOT IN (SELECT id FROM replicas)`
		if err := w.exec(take, duty, w.me); err != nil {
			return err
		}
		leads, err = w.row("SELECT 1 FROM duties WHERE duty = ? AND owner = ?", []any{duty, w.me}, new(int))
		return err
	})
	return leads, err
}
