package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// transactionTimeout ends a transaction that the server, or the way to it,
	// does not let come to its end. The server itself gives up as late, and
	// with it the lock that the others wait for.
	transactionTimeout = 15 * time.Second

	// connectTimeout is how long one address of the server may take.
	connectTimeout = 3 * time.Second

	// channel is where replicas tell each other that something may be due.
	channel = "dockbell"

	// relisten is how long a lost connection is left alone.
	relisten = time.Second

	// awayFor is how long a server that did not answer is not asked again.
	awayFor = 500 * time.Millisecond

	// lookAnyway is how often the queue looks without having been told.
	lookAnyway = 2 * time.Second
)

// postgres is the engine of a server.
type postgres struct {
	db *sql.DB

	// While the server is away senders are told so at once, and not after the
	// time that a search for it takes.
	away  error
	until time.Time
}

func (s *Store) openPostgres(ctx context.Context, where place) (engine, error) {
	config, err := pgx.ParseConfig(where.config)
	if err != nil {
		return nil, errors.New("the URL cannot be read: " + scrub(err, where.config))
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "dockbell"
	}
	s.write = stdlib.OpenDB(*config, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, writerSettings, pgx.QueryExecModeSimpleProtocol)
		return err
	}))
	s.write.SetMaxOpenConns(1)
	s.releases = append(s.releases, s.write.Close)
	s.read = stdlib.OpenDB(*config)
	s.read.SetMaxOpenConns(readers + 1) // one listens
	s.read.SetMaxIdleConns(readers + 1)
	s.releases = append(s.releases, s.read.Close)
	if err := s.write.PingContext(ctx); err != nil {
		return nil, fmt.Errorf("PostgreSQL does not answer: %s", scrub(err, where.config))
	}
	return &postgres{db: s.write}, nil
}

// withoutPassword is a URL as it may be shown.
func withoutPassword(location string) string {
	u, err := url.Parse(location)
	if err != nil {
		return "postgres://…" // its password could be anywhere
	}
	query := u.Query()
	query.Del("password")
	u.RawQuery = query.Encode()
	return u.Redacted()
}

// scrub is what an error says, unless it quotes a URL with its password.
func scrub(err error, location string) string {
	var parse *pgconn.ParseConfigError
	if errors.As(err, &parse) {
		return "see https://www.postgresql.org/docs/current/libpq-connect.html for its form, in " + withoutPassword(location)
	}
	return err.Error()
}

func (e *postgres) connect(ctx context.Context) (*sql.Conn, error) {
	if time.Now().Before(e.until) {
		return nil, e.away
	}
	conn, err := e.db.Conn(ctx)
	if err != nil {
		e.away, e.until = fmt.Errorf("PostgreSQL does not answer: %w", err), time.Now().Add(awayFor)
		return nil, e.away
	}
	return conn, nil
}

// writerSettings make the server give up a transaction, and with it the lock
// that the other replicas wait for, when this one does not go on. And they make
// every statement use the index that was made for it: the planner keeps the
// plan that it made when a table was small, or was not yet told how it has
// grown, and would read a million runs to find one.
var writerSettings = fmt.Sprintf(`SET idle_in_transaction_session_timeout = %d;
	SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off`, transactionTimeout.Milliseconds())

// begin waits for the other replicas' transactions to end and keeps them from
// beginning another one. It reads after that, each statement on its own, what
// they have committed.
func (e *postgres) begin(w *writer, ops []*op) error {
	q := inOrder(ops)
	ctx, cancel := context.WithTimeout(context.Background(), transactionTimeout)
	w.ctx, w.cancel = ctx, cancel
	alive, err := e.tryBegin(w, q)
	if err != nil && w.lost() {
		// The server may have been restarted since the last transaction.
		alive, err = e.tryBegin(w, q)
	}
	if err != nil {
		return errors.Join(err, e.rollback(w))
	}
	if !alive {
		if err := w.rejoin(); err != nil {
			return errors.Join(err, e.rollback(w))
		}
	}
	return nil
}

// tryBegin also asks the questions. It reports whether the others still take
// this replica for alive.
func (e *postgres) tryBegin(w *writer, q question) (alive bool, err error) {
	w.forget()
	if w.conn == nil {
		if w.conn, err = e.connect(w.ctx); err != nil {
			w.conn = nil
			return false, err
		}
	}
	b := &pgx.Batch{}
	b.Queue("BEGIN ISOLATION LEVEL READ COMMITTED") // whatever the server's default is
	b.Queue("SELECT one FROM writer FOR UPDATE")
	b.Queue("SELECT id FROM replicas WHERE id = $1", w.me).Query(func(rows pgx.Rows) error {
		alive = rows.Next()
		rows.Close()
		return rows.Err()
	})
	w.ask(b, q)
	err = w.send(b)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == readOnlyTransaction {
		w.disconnect() // it is the standby now; another address may be that of the primary
	}
	return alive, err
}

// readOnlyTransaction is what a standby says to those who want to write.
const readOnlyTransaction = "25006"

// commit also tells the other replicas when something may be due.
func (e *postgres) commit(w *writer) error {
	b := &pgx.Batch{}
	w.queueKept(b)
	w.giveBack(b)
	if w.due {
		b.Queue("NOTIFY " + channel)
	}
	b.Queue("COMMIT").Exec(func(tag pgconn.CommandTag) error {
		if tag.String() != "COMMIT" {
			return errors.New("PostgreSQL rolled back")
		}
		return nil
	})
	err := w.send(b)
	if err == nil {
		w.cancel()
		return nil
	}
	if w.lost() {
		w.cancel()
		return fmt.Errorf("%w: %w", errDoubtful, err)
	}
	return err
}

func (e *postgres) rollback(w *writer) error {
	defer w.cancel()
	if w.lost() {
		return nil // the server rolls back what it has lost
	}
	return w.raw(func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.PgConn().Exec(ctx, "ROLLBACK").ReadAll()
		return err
	})
}

// lost reports whether the connection is gone, and lets the next transaction
// make a new one.
func (w *writer) lost() bool {
	if w.conn == nil {
		return true
	}
	closed := true // unless the driver knows better
	_ = w.raw(func(_ context.Context, c *pgx.Conn) error {
		closed = c.IsClosed()
		return nil
	})
	if closed {
		w.disconnect()
	}
	return closed
}

// listen wakes the queue when another replica says that something may be due,
// and now and then all the same, until ctx ends.
func (s *Store) listen(ctx context.Context) {
	for ctx.Err() == nil {
		_ = s.listenOnce(ctx) // the connection is gone; the writer's errors tell of it
		rouse(s.writer.wake)
		select {
		case <-ctx.Done():
		case <-time.After(relisten):
		}
	}
}

func (s *Store) listenOnce(ctx context.Context) error {
	conn, err := s.read.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(c any) error {
		pg := c.(*stdlib.Conn).Conn()
		if _, err := pg.Exec(ctx, "LISTEN "+channel); err != nil {
			return err
		}
		for {
			wait, cancel := context.WithTimeout(ctx, lookAnyway)
			_, err := pg.WaitForNotification(wait)
			cancel()
			if err != nil && (ctx.Err() != nil || wait.Err() == nil || pg.IsClosed()) {
				return errors.Join(err, pg.Close(context.WithoutCancel(ctx)))
			}
			rouse(s.writer.wake)
		}
	})
}
