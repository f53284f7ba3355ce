package parts

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a PostgreSQL server of Debian's package. It flushes each commit
// to the disk, as in production.
type Postgres struct {
	bin     string              // the folder of its programs
	user    *syscall.Credential // nil for that of the test
	dir     string
	port    int
	process *process
}

// superuser needs no password on the loopback address.
const superuser = "postgres"

// StartPostgres starts an empty server in a new folder below dir and returns
// when it takes connections. The folder should lie on a disk.
func StartPostgres(ctx context.Context, dir string) (*Postgres, error) {
	return startPostgres(ctx, dir, func(ctx context.Context, p *Postgres) error {
		// The server flushes, only this first filling does not: nobody has
		// been promised anything yet.
		return p.run(ctx, "initdb", "-D", p.data(), "-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	})
}

// StartStandby starts a copy of the server in a new folder below dir, which
// follows it. From then on a commit returns when both have it on disk, and
// waits while the copy is away. A server has one standby.
func (p *Postgres) StartStandby(ctx context.Context, dir string) (*Postgres, error) {
	standby, err := startPostgres(ctx, dir, func(ctx context.Context, s *Postgres) error {
		// The slot keeps what the copy has yet to read while it is away.
		return s.run(ctx, "pg_basebackup", "-D", s.data(), "-h", "127.0.0.1", "-p", strconv.Itoa(p.port), "-U", superuser,
			"-R", "-X", "stream", "-c", "fast", "--no-sync", "-C", "-S", fmt.Sprintf("standby_%d", s.port))
	})
	if err != nil {
		return nil, err
	}
	err = p.exec(ctx, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
	if err == nil {
		err = standby.process.waitFor(ctx, func(ctx context.Context) error {
			return p.expect(ctx, "SELECT coalesce(min(sync_state), 'absent') FROM pg_stat_replication", "sync")
		})
	}
	if err != nil {
		standby.Stop()
		return nil, err
	}
	return standby, nil
}

// Promote makes a standby a server of its own, which takes writes and waits
// for no other.
func (p *Postgres) Promote(ctx context.Context) error {
	// What it copied may say that commits wait for a standby.
	if err := p.exec(ctx, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	return p.expect(ctx, "SELECT pg_promote()::text", "true")
}

// startPostgres starts a server on what fill puts into its folder.
func startPostgres(ctx context.Context, dir string, fill func(context.Context, *Postgres) error) (*Postgres, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	bin, err := postgresPrograms(debianPostgres)
	if err != nil {
		return nil, err
	}
	user, err := postgresUser()
	if err != nil {
		return nil, err
	}
	if user != nil {
		if err := letThrough(dir); err != nil {
			return nil, err
		}
	}
	var p *Postgres
	err = onFreePorts(ctx, dir, "postgres", 1, func(ctx context.Context, own string, ports []int) error {
		p = &Postgres{bin: bin, user: user, dir: own, port: ports[0]}
		if user != nil {
			if err := os.Chown(own, int(user.Uid), int(user.Gid)); err != nil {
				return err
			}
		}
		if err := fill(ctx, p); err != nil {
			return err
		}
		return p.Start(ctx)
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Start starts the server again after Stop or Kill, on the same port and data.
func (p *Postgres) Start(ctx context.Context) (err error) {
	p.process, err = startAs(p.user, p.dir, "postgres", filepath.Join(p.bin, "postgres"), "-D", p.data(),
		"-h", "127.0.0.1", "-p", strconv.Itoa(p.port),
		"-k", "..", // sockets beside the data; the name of a socket must be short, and is from there
		"-c", "dynamic_shared_memory_type=mmap", // what a killed server leaves is in its folder and goes with it
		"-c", "max_connections=300", // of several replicas and packages at once
		"-c", "wal_retrieve_retry_interval=200ms") // a standby soon follows a server that was away
	if err != nil {
		return err
	}
	err = p.process.waitFor(ctx, func(ctx context.Context) error {
		return p.expect(ctx, "SHOW data_directory", p.data()) // another server may have the port
	})
	if err != nil {
		p.Kill()
	}
	return err
}

// Stop ends the server in order: connections are cut, commits are kept, and
// the next start has nothing to recover.
func (p *Postgres) Stop() {
	if p.process == nil || p.process.ended() {
		return
	}
	_ = p.process.cmd.Process.Signal(os.Interrupt) // if it ends just now, that is fine
	select {
	case <-p.process.done:
	case <-time.After(30 * time.Second): // a standby that hangs can hold it up
		p.Kill()
	}
}

// Kill ends the server and the processes of all its connections at once, as a
// power cut does; but what was written and not flushed is not lost.
func (p *Postgres) Kill() {
	if p.process == nil || p.process.ended() {
		return
	}
	// The first process would tidy up after the others, who are not in its
	// group. While it is stopped it does not see them go, and none comes new.
	first := p.process.cmd.Process
	_ = first.Signal(syscall.SIGSTOP) // if it ends just now, that is fine
	for pids := children(first.Pid); len(pids) > 0; pids = children(first.Pid) {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.process.kill()
}

// children are the processes that a process has started and that still run.
func children(parent int) []int {
	var pids []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is sound
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// PID (NAME) STATE PARENT ..., and a name may have spaces and brackets.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 2 || fields[0] == "Z" || fields[0] == "X" || fields[1] != strconv.Itoa(parent) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// URL is where a database is, as the superuser.
func (p *Postgres) URL(database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", superuser, p.port, url.PathEscape(database))
}

// CreateDatabase makes an empty database.
func (p *Postgres) CreateDatabase(ctx context.Context, name string) error {
	return p.exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// run runs one of PostgreSQL's programs to its end.
func (p *Postgres) run(ctx context.Context, name string, args ...string) error {
	job, err := startAs(p.user, p.dir, name, append([]string{filepath.Join(p.bin, name)}, args...)...)
	if err != nil {
		return err
	}
	select {
	case <-job.done:
	case <-ctx.Done():
		job.kill()
		return fmt.Errorf("%s: %w", name, ctx.Err())
	}
	if !job.cmd.ProcessState.Success() {
		return job.alive()
	}
	return nil
}

// exec executes statements, each in a transaction of its own.
func (p *Postgres) exec(ctx context.Context, statements ...string) error {
	conn, err := pgx.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// expect is an error when a query does not give this text.
func (p *Postgres) expect(ctx context.Context, query, want string) error {
	conn, err := pgx.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var got string
	if err := conn.QueryRow(ctx, query).Scan(&got); err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	if got != want {
		return fmt.Errorf("%s: %s, want %s", query, got, want)
	}
	return nil
}

// debianPostgres is where Debian keeps the programs of each version. What is
// in its PATH are the clients' alone, and they choose a version by themselves.
const debianPostgres = "/usr/lib/postgresql"

// postgresPrograms finds the folder of PostgreSQL's programs: the newest of
// Debian's versions, or where the one in PATH lies.
func postgresPrograms(debian string) (string, error) {
	servers, err := filepath.Glob(filepath.Join(debian, "*", "bin", "postgres"))
	if err != nil {
		return "", err
	}
	if len(servers) > 0 {
		return filepath.Dir(slices.MaxFunc(servers, func(a, b string) int { return majorOf(a) - majorOf(b) })), nil
	}
	server, err := exec.LookPath("postgres")
	if err != nil {
		return "", errors.New("PostgreSQL is not installed: apt-get install postgresql")
	}
	if server, err = filepath.EvalSymlinks(server); err != nil { // the others lie beside the program, not beside a link to it
		return "", err
	}
	return filepath.Dir(server), nil
}

// majorOf is the version in .../VERSION/bin/postgres. Those before 10 have a
// point in it and count as 0.
func majorOf(server string) int {
	version, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(server))))
	return version
}

// postgresUser is who runs the server: PostgreSQL refuses root. Nil is the
// user of the test.
func postgresUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root and there is no user postgres or nobody: run the tests as another user")
}

// letThrough lets every user pass through a folder to those below that are
// theirs. Folders for temporary files are the test's alone when made; any
// other stays as it is.
func letThrough(dir string) error {
	temp := os.TempDir()
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode()&1 != 0 {
			continue
		}
		if below, err := filepath.Rel(temp, dir); err != nil || below == "." || !filepath.IsLocal(below) {
			return fmt.Errorf("PostgreSQL refuses to run as root and another user cannot pass through %s: chmod o+x it, or set TMPDIR to a folder that all can reach", dir)
		}
		if err := os.Chmod(dir, info.Mode().Perm()|1); err != nil {
			return err
		}
	}
	return nil
}
