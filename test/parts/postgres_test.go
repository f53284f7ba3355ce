package parts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func startTestPostgres(t *testing.T) *Postgres {
	t.Helper()
	p, err := StartPostgres(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

func mustExec(t *testing.T, p *Postgres, statements ...string) {
	t.Helper()
	if err := p.exec(t.Context(), statements...); err != nil {
		t.Fatal(err)
	}
}

func mustExpect(t *testing.T, p *Postgres, query, want string) {
	t.Helper()
	if err := p.expect(t.Context(), query, want); err != nil {
		t.Fatal(err)
	}
}

func TestPostgres(t *testing.T) {
	p := startTestPostgres(t)
	for query, want := range map[string]string{
		"SHOW fsync":              "on",
		"SHOW synchronous_commit": "on",
		"SHOW server_encoding":    "UTF8",
		"SHOW lc_collate":         "C",
		"SHOW listen_addresses":   "127.0.0.1",
		"SELECT current_user":     superuser,
	} {
		mustExpect(t, p, query, want)
	}
	if sockets, err := filepath.Glob(filepath.Join(p.dir, ".s.PGSQL.*")); err != nil || len(sockets) == 0 {
		t.Errorf("its folder has no socket: %v", err)
	}
	const name = `shop "web"` // needs quotes
	if err := p.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := p.CreateDatabase(t.Context(), name); err == nil || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("the same database again: %v, want that it exists", err)
	}
	conn, err := pgx.Connect(t.Context(), p.URL(name))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var got string
	if err := conn.QueryRow(t.Context(), "SELECT current_database()").Scan(&got); err != nil || got != name {
		t.Errorf("the URL leads to %q, %v, want %q", got, err, name)
	}
}

// What was committed is there after the server was away, on the same URL.
func TestPostgresComesBack(t *testing.T) {
	const recovers = "automatic recovery in progress"
	p := startTestPostgres(t)
	mustExec(t, p, "CREATE TABLE kept (id int)")
	rows := 0
	for _, tc := range []struct {
		name     string
		away     func(*Postgres)
		recovery bool
	}{
		{"stop", (*Postgres).Stop, false},
		{"kill", (*Postgres).Kill, true},
		{"kill again", (*Postgres).Kill, true},
		{"stop after kill", (*Postgres).Stop, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			url := p.URL("postgres")
			pids := append(children(p.process.cmd.Process.Pid), p.process.cmd.Process.Pid)
			if len(pids) < 3 { // the writer of the log, of the pages, ...
				t.Fatalf("only %d processes", len(pids))
			}
			rows++
			mustExec(t, p, fmt.Sprintf("INSERT INTO kept VALUES (%d)", rows))
			tc.away(p)
			if i := slices.IndexFunc(pids, runs); i >= 0 {
				t.Errorf("process %d still runs", pids[i])
			}
			if err := p.exec(t.Context(), "SELECT 1"); err == nil {
				t.Error("it answers while it is away")
			}
			tc.away(p) // it is gone already
			if err := p.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(p.process.tail(), recovers); got != tc.recovery {
				t.Errorf("it recovers: %t, want %t; its log:\n%s", got, tc.recovery, p.process.tail())
			}
			mustExpect(t, p, "SELECT count(*)::text FROM kept", strconv.Itoa(rows))
			if p.URL("postgres") != url {
				t.Errorf("%s was %s before", p.URL("postgres"), url)
			}
		})
	}
}

// A kill reaches the connections too, also one in the middle of a statement,
// and nothing of a transaction that was not committed is left.
func TestPostgresKillEndsConnections(t *testing.T) {
	p := startTestPostgres(t)
	mustExec(t, p, "CREATE TABLE kept (id int)")
	ended := make(chan error)
	go func() {
		ended <- p.exec(context.WithoutCancel(t.Context()), "WITH row AS (INSERT INTO kept VALUES (1)) SELECT pg_sleep(3600)")
	}()
	eventually(t, "the statement runs", func() (bool, error) {
		err := p.expect(t.Context(), "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1")
		return err == nil, err
	})
	p.Kill()
	if err := <-ended; err == nil {
		t.Error("the statement ended well")
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustExpect(t, p, "SELECT count(*)::text FROM kept", "0")
}

func TestPostgresStandby(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // a commit may wait for ever
	defer cancel()
	p := startTestPostgres(t)
	mustExec(t, p, "CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (1)")
	s, err := p.StartStandby(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	if err := s.exec(ctx, "INSERT INTO kept VALUES (0)"); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a write to the standby: %v, want that it is read-only", err)
	}
	mustExec(t, p, "INSERT INTO kept VALUES (2)")

	// A commit waits for a standby that is away, and goes on when it is back.
	s.Stop()
	waited := make(chan error)
	go func() { waited <- p.exec(ctx, "INSERT INTO kept VALUES (3)") }()
	eventually(t, "the commit waits", func() (bool, error) {
		err := p.expect(ctx, "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1")
		return err == nil, err
	})
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Errorf("the commit that waited: %v", err)
	}

	// It is promoted as if it had been copied from a server that waits for a
	// standby, and has one in its turn.
	mustExec(t, s, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
	p.Kill()
	if err := s.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	mustExpect(t, s, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM kept", "1 2 3")
	if err := s.exec(ctx, "INSERT INTO kept VALUES (4)"); err != nil {
		t.Fatalf("a write after the promotion: %v", err)
	}
	next, err := s.StartStandby(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(next.Stop)
	if err := s.exec(ctx, "INSERT INTO kept VALUES (5)"); err != nil {
		t.Fatalf("a write with the new standby: %v", err)
	}
	eventually(t, "the new standby has all", func() (bool, error) {
		err := next.expect(ctx, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM kept", "1 2 3 4 5")
		return err == nil, err
	})
}

// TestHoldPostgres is not a test: it starts a server, names its processes and
// waits to be killed.
func TestHoldPostgres(t *testing.T) {
	dir := os.Getenv(holdDir)
	if dir == "" {
		t.Skip("only TestPostgresEndsWithTheTest runs it")
	}
	p, err := StartPostgres(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), p.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	// Those that last: one that serves a connection may end just now.
	rows, err := conn.Query(t.Context(), "SELECT pid FROM pg_stat_activity WHERE backend_type IN ('checkpointer', 'background writer', 'walwriter')")
	if err != nil {
		t.Fatal(err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range append(pids, p.process.cmd.Process.Pid) {
		fmt.Println("server", pid)
	}
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until it is killed, or its parent is
}

// A test that is killed takes its server along, though that is another user's.
func TestPostgresEndsWithTheTest(t *testing.T) {
	endWithTheTest(t, "TestHoldPostgres", 4) // it is several processes
}

// A start that fails says why, and leaves nothing running.
func TestPostgresStartFails(t *testing.T) {
	p := startTestPostgres(t)
	p.Stop()
	if err := os.WriteFile(filepath.Join(p.data(), "postgresql.auto.conf"), []byte("max_connections = many\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "many") {
		t.Errorf("%v, want the log of the server", err)
	}
	if !p.process.ended() {
		t.Error("it still runs")
	}
}

// A server whose port another has is not taken for that one.
func TestPostgresPortTaken(t *testing.T) {
	first, second := startTestPostgres(t), startTestPostgres(t)
	second.Stop()
	second.port = first.port
	if err := second.Start(t.Context()); !errors.Is(err, errPortTaken) {
		t.Errorf("%v, want %v", err, errPortTaken)
	}
	mustExpect(t, first, "SHOW data_directory", first.data())
}

func TestPostgresProgramFails(t *testing.T) {
	p := startTestPostgres(t)
	for _, tc := range []struct {
		name, want string
		limit      time.Duration
	}{
		{"says why", `directory "` + p.data() + `" exists but is not empty`, time.Minute},
		{"has no time", "initdb: context deadline exceeded", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), tc.limit)
			defer cancel()
			if err := p.run(ctx, "initdb", "-D", p.data()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}

func TestPostgresPrograms(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files []string
		links map[string]string // name -> file
		want  string            // below the folder
		err   string
	}{
		{name: "the newest of Debian's", files: []string{"debian/9.6/bin/postgres", "debian/15/bin/postgres", "debian/13/bin/postgres", "path/postgres"}, want: "debian/15/bin"},
		{name: "Debian's clients alone", files: []string{"debian/15/bin/psql", "path/postgres"}, want: "path"},
		{name: "a link in PATH", files: []string{"opt/bin/postgres"}, links: map[string]string{"path/postgres": "opt/bin/postgres"}, want: "opt/bin"},
		{name: "none", files: []string{"debian/15/bin/psql", "path/psql"}, err: "apt-get install postgresql"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			inside := func(name string) string {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				return path
			}
			for _, name := range tc.files {
				if err := os.WriteFile(inside(name), nil, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for name, to := range tc.links {
				if err := os.Symlink(inside(to), inside(name)); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", filepath.Join(dir, "path"))
			got, err := postgresPrograms(filepath.Join(dir, "debian"))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%s, %v, want %s", got, err, tc.err)
				}
			} else if err != nil || got != filepath.Join(dir, tc.want) {
				t.Errorf("%s, %v, want %s", got, err, tc.want)
			}
		})
	}
}

// Folders for temporary files are opened, no others.
func TestLetThrough(t *testing.T) {
	private := func(parts ...string) string {
		path := filepath.Join(parts...)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mode := func(path string) os.FileMode {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	root := t.TempDir()
	if err := letThrough(root); err != nil {
		t.Fatal(err)
	}
	temp, home := filepath.Join(root, "temp"), private(root, "home")
	if err := os.Mkdir(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	inner, outer := private(temp, "a", "b"), private(home, "a")
	t.Setenv("TMPDIR", temp)
	if err := letThrough(inner); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{inner, filepath.Dir(inner)} {
		if mode(path) != 0o701 {
			t.Errorf("%s has mode %o, want 701", path, mode(path))
		}
	}
	if err := letThrough(outer); err == nil || !strings.Contains(err.Error(), "chmod o+x it, or set TMPDIR") {
		t.Errorf("%v, want what to do", err)
	}
	if mode(outer) != 0o700 || mode(home) != 0o700 {
		t.Errorf("modes %o and %o, want 700", mode(outer), mode(home))
	}
}
