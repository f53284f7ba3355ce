package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// disk is a file system of its own in the folder disk of a daemon, which only
// those who are started by run see. It is in memory and goes with the test.
type disk struct {
	t      *testing.T
	holder *exec.Cmd // keeps it
	path   string    // where the test finds it
}

// newDisk makes a disk of some megabytes for a daemon that is not started yet.
func newDisk(t *testing.T, d *daemon, megabytes int) *disk {
	t.Helper()
	if err := os.Mkdir(filepath.Join(d.dir, "disk"), 0o700); err != nil {
		t.Fatal(err)
	}
	mount := fmt.Sprintf("mount -t tmpfs -o size=%dm none disk && echo mounted && exec cat", megabytes)
	holder := exec.Command("sh", "-c", mount)
	holder.Dir = d.dir
	holder.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	var errs bytes.Buffer
	holder.Stderr = &errs
	in, err := holder.StdinPipe() // cat lasts until it is closed
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Skipf("this machine gives no file system of one's own: %v", err)
	}
	// The test's own clean-up runs before that of the daemon, which must be
	// able to write to the end.
	k := &disk{t: t, holder: holder, path: fmt.Sprintf("/proc/%d/root%s/disk", holder.Process.Pid, d.dir)}
	if n, _ := out.Read(make([]byte, 10)); n == 0 {
		_ = holder.Wait() // the message says it
		t.Skipf("this machine gives no file system of one's own: %s", &errs)
	}
	d.argv = append(k.inside(), d.argv...)
	t.Cleanup(func() { d.stop(); in.Close(); _ = holder.Wait() })
	return k
}

// inside is what starts a program where the disk is.
func (k *disk) inside() []string {
	return []string{"nsenter", "--target", strconv.Itoa(k.holder.Process.Pid), "--user", "--preserve-credentials", "--mount", "--wd"}
}

// fill leaves no space on the disk.
func (k *disk) fill() {
	k.t.Helper()
	f, err := os.Create(filepath.Join(k.path, "ballast"))
	if err != nil {
		k.t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 1 << 12} {
		for block := make([]byte, size); err == nil; {
			_, err = f.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			k.t.Fatal(err)
		}
		err = nil
	}
}

// free takes away what fill wrote.
func (k *disk) free() {
	k.t.Helper()
	if err := os.Remove(filepath.Join(k.path, "ballast")); err != nil {
		k.t.Fatal(err)
	}
}

// remount changes how the disk is mounted; nobody may have a file open there.
func (k *disk) remount(how string) {
	k.t.Helper()
	argv := append(k.inside(), "mount", "-o", "remount,"+how, "disk")
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		k.t.Fatalf("mount: %v: %s", err, out)
	}
}

// The disk is full for a while: senders are told to come back, and nothing
// that was acknowledged is lost or done twice. dockbell goes on by itself when
// there is space again, and where it was when it was killed meanwhile.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed=", killed), func(t *testing.T) {
			l := newLoad(t, 8, newReceiver(t, 5*time.Millisecond), "")
			d := prepare(t, l.config("sqlite:disk/dockbell.db", ""))
			k := newDisk(t, d, 32)
			d.start()
			l.to(d)
			l.start(8, forever, 10*time.Millisecond)
			l.flows(50)
			k.fill()
			l.refuses(50)
			if killed {
				d.kill()
			}
			k.free()
			if killed {
				d.start()
				l.to(d)
			}
			l.flows(50)
			l.end()
			if unknown := l.checkOff(d); unknown > 0 && !killed {
				t.Errorf("%d runs were cut off", unknown)
			}
		})
	}
}

// The file system turns read-only under dockbell, as one does that met a fault:
// senders are told to come back until it can be written again.
func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	l := newLoad(t, 8, newReceiver(t, 5*time.Millisecond), "")
	d := serve(t, l.config("sqlite:dockbell.db", ""))
	l.to(d)
	l.start(8, forever, 10*time.Millisecond)
	l.flows(50)
	writable := inject(t, d, "pwrite64,ftruncate,fsync:error=EROFS")
	l.refuses(50)
	writable()
	l.flows(50)
	l.end()
	if unknown := l.checkOff(d); unknown > 0 {
		t.Errorf("%d runs were cut off", unknown)
	}
}

// Each flush of the disk takes a fifth of a second: many deliveries share one,
// so that 64 senders at once hardly notice.
func TestSlowDisk(t *testing.T) {
	t.Parallel()
	const senders, flush = 64, 200 * time.Millisecond
	l := newLoad(t, senders, newReceiver(t, 0), "")
	d := prepare(t, l.config("sqlite:dockbell.db", ""))
	flushes := slow(t, d, flush)
	d.start()
	l.to(d)
	l.start(senders, forever, 0)
	l.flows(senders)
	acknowledged, flushed, began := l.acknowledged.Load(), flushes(), time.Now()
	l.flows(int64(soak(5, 100)) * senders)
	took := time.Since(began)
	acknowledged, flushed = l.acknowledged.Load()-acknowledged, flushes()-flushed
	t.Logf("%d deliveries in %s, %.0f a second, with %d flushes", acknowledged, took, float64(acknowledged)/took.Seconds(), flushed)
	if perFlush := float64(acknowledged) / float64(flushed); perFlush < senders/4 {
		t.Errorf("%.1f deliveries share a flush, want %d", perFlush, senders/4)
	}
	if least := senders / 4 * time.Second / flush; acknowledged < int64(took.Seconds()*float64(least)) {
		t.Errorf("less than %d deliveries a second", least)
	}
	if n := l.refused.Load(); n > 0 {
		t.Errorf("%d deliveries were refused", n)
	}
	l.end()
	l.checkOff(d)
}

// slow makes each flush of a daemon that is not started yet take a while, and
// gives what counts them. The daemon stays the test's own child, so that it can
// be killed.
func slow(t *testing.T, d *daemon, flush time.Duration) (count func() int64) {
	t.Helper()
	file := filepath.Join(d.dir, "flushes")
	d.argv = append([]string{strace(t), "-D", "-f", "--seccomp-bpf", "-o", file, "-e", "trace=fsync,fdatasync",
		"-e", fmt.Sprintf("inject=fsync,fdatasync:delay_exit=%d", flush.Microseconds())}, d.argv...)
	return func() int64 {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return int64(bytes.Count(data, []byte("(DELAYED)")))
	}
}

// On a file system that is read-only from the start dockbell says so and does
// not serve.
func TestReadOnlyAtStart(t *testing.T) {
	t.Parallel()
	l := newLoad(t, 4, newReceiver(t, 0), "")
	d := prepare(t, l.config("sqlite:disk/dockbell.db", ""))
	k := newDisk(t, d, 32)
	d.start()
	l.to(d)
	l.start(4, 10, 0)
	l.senders.Wait()
	d.kill()
	k.remount("ro")
	if d.starts() {
		t.Error("it started")
	}
	if text := d.log.tail(2); !strings.Contains(text, "disk/dockbell.db") || !strings.Contains(text, "read-only") {
		t.Errorf("it says %s", text)
	}
	k.remount("rw")
	d.start()
	l.checkOff(d)
}

// refuses waits until so many more pushes are told to come back.
func (l *load) refuses(more int64) {
	l.t.Helper()
	before := l.refused.Load()
	eventually(l.t, "pushes are answered 503", func() error {
		if n := l.refused.Load() - before; n < more {
			return fmt.Errorf("%d of %d", n, more)
		}
		return nil
	})
}

// strace finds the program that makes system calls fail.
func strace(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("there is no strace; apt-get install strace")
	}
	return path
}

// inject makes system calls of a running daemon fail, until what it returns is
// called.
func inject(t *testing.T, d *daemon, fault string) (end func()) {
	t.Helper()
	calls, _, _ := strings.Cut(fault, ":")
	cmd := exec.Command(strace(t), "-f", "-o", os.DevNull, "-e", "trace="+calls, "-e", "inject="+fault, "-p", strconv.Itoa(d.cmd.Process.Pid))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said := &logBuffer{}
	said.expect(attached)
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // a signal ends it
	end = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // ended already is fine
		<-ended
	})
	t.Cleanup(end)
	select {
	case <-said.found:
	case <-ended:
		t.Skipf("this machine lets no process look into another: %s", said.tail(5))
	}
	return end
}

var attached = regexp.MustCompile(`(Process) (\d+) attached`)

// The database file is damaged while dockbell is stopped. It says so, with the
// file and what to do, and leaves the file as it is. Damage that shows only
// later is told then, and nothing is acknowledged that cannot be kept. With a
// backup in its place all is there again.
func TestDamagedStore(t *testing.T) {
	t.Parallel()
	l := newLoad(t, 4, newReceiver(t, 0), "")
	d := serve(t, l.config("sqlite:dockbell.db", ""))
	l.to(d)
	l.start(4, 50, 0)
	l.senders.Wait()
	l.checkOff(d)
	d.stop()
	file := filepath.Join(d.dir, "dockbell.db")
	if out, err := d.command("db", "backup", "copy.db").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	noise := rand.NewChaCha8([32]byte{})
	tests := []struct {
		name   string
		damage func(data []byte) []byte
		starts bool // it may: what is damaged has not been read yet
	}{
		{"cut short", func(data []byte) []byte { return data[:len(data)/2] }, false},
		{"first page lost", func(data []byte) []byte { _, _ = noise.Read(data[:4096]); return data }, false},
		{"middle lost", func(data []byte) []byte { _, _ = noise.Read(data[len(data)/4 : len(data)*3/4]); return data }, true},
		{"all but the first page lost", func(data []byte) []byte { _, _ = noise.Read(data[4096:]); return data }, true},
	}
	const tell, advise = "dockbell.db", "`dockbell db check`"
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			damaged := tt.damage(bytes.Clone(good))
			put(t, file, damaged)
			out, err := d.command("db", "check").CombinedOutput()
			if err == nil || !strings.Contains(string(out), tell) || !strings.Contains(string(out), "malformed") && !strings.Contains(string(out), "not a database") {
				t.Errorf("db check says, with %v: %s", err, out)
			}
			switch served := d.starts(); {
			case served && !tt.starts:
				t.Error("it started")
			case served:
				d.tellsOfDamage(t, advise)
			default:
				if text := d.log.tail(3); !strings.Contains(text, tell) || !strings.Contains(text, advise) {
					t.Errorf("it did not start and says %s", text)
				}
				if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, damaged) {
					t.Errorf("the file was changed, %v", err)
				}
			}
			d.kill()
		})
	}
	backup, err := os.ReadFile(filepath.Join(d.dir, "copy.db"))
	if err != nil {
		t.Fatal(err)
	}
	put(t, file, backup)
	d.start()
	l.checkOff(d)
}

// put puts a database file in the place of another and what belongs to that.
func put(t *testing.T, file string, data []byte) {
	t.Helper()
	for _, end := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(file + end); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// tellsOfDamage pushes to a daemon whose store is damaged, until that shows.
func (d *daemon) tellsOfDamage(t *testing.T, advise string) {
	t.Helper()
	eventually(t, "it tells of the damage", func() error {
		for v := range 10 {
			body := distribution(fmt.Sprint("damaged-", v), "registry.example.com", "shop/app-0", fmt.Sprintf("v2.%d.0", v), digestOf(v), "2026-11-21T10:00:00Z")
			r, err := d.post("registry", body)
			if err != nil {
				if text := d.log.tail(100); strings.Contains(text, "runs left over from before") && strings.Contains(text, advise) {
					return nil // it has met the damage at its start, and ended
				}
				return err
			}
			if r.Status/100 != 2 && r.Status != http.StatusServiceUnavailable {
				return fmt.Errorf("a push is answered %d", r.Status)
			}
		}
		resp, err := client.Get(d.admin + "/readyz")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			return fmt.Errorf("/readyz says %s", resp.Status)
		}
		if text := d.log.tail(100); !strings.Contains(text, advise) {
			return fmt.Errorf("the log does not say what to do")
		}
		return nil
	})
}
