package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// status is what the admin side answers to a GET.
func (d *daemon) status(path string) int {
	d.t.Helper()
	resp, err := client.Get(d.admin + path)
	if err != nil {
		d.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// metric is the value of a line of /metrics; 0 when there is no such line.
func (d *daemon) metric(name string) float64 {
	d.t.Helper()
	resp, err := client.Get(d.admin + "/metrics")
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				d.t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// write gives the daemon another configuration, in one step.
func (d *daemon) write(config string) {
	d.t.Helper()
	path := filepath.Join(d.dir, "dockbell.yaml")
	if err := os.WriteFile(path+".new", []byte(config), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		d.t.Fatal(err)
	}
}

// loaded is what is known of a configuration.
type loaded struct {
	Error            string
	LoadedAt         time.Time
	Faults, Warnings []string
}

// reload asks for one, in the name of an administrator.
func (d *daemon) reload(token string) (int, loaded) {
	d.t.Helper()
	req, err := http.NewRequest(http.MethodPost, d.admin+"/-/reload", nil)
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	var l loaded
	if err := json.NewDecoder(resp.Body).Decode(&l); err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, l
}

// reloadable is a configuration with rules for some repositories.
func reloadable(more string, repositories ...string) string {
	var b strings.Builder
	b.WriteString(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0", token: {env: DOCKBELL_TOKEN}, people: {anna: {token: {env: ANNA_TOKEN}, role: approver}}}
store: sqlite:dockbell.db
sources: {registry: {type: distribution, auth: none}` + more + `}
rules:
`)
	for _, name := range repositories {
		fmt.Fprintf(&b, "- {name: %[1]s, repo: shop/%[1]s, actions: [{command: {argv: ['true']}}]}\n", name)
	}
	return b.String()
}

var reloadTokens = []string{"DOCKBELL_TOKEN=hush", "ANNA_TOKEN=anna"}

func pushTo(name string, n int) []byte {
	return distribution(fmt.Sprintf("%s-%d", name, n), "registry.example.com", "shop/"+name, fmt.Sprintf("v%d", n), digestOf(n), time.Now().UTC().Format(time.RFC3339))
}

// A changed file counts: by itself, by SIGHUP, and when somebody asks who may.
func TestReload(t *testing.T) {
	d := serve(t, reloadable("", "web"), reloadTokens...)
	d.mustPost(http.StatusOK, "registry", pushTo("api", 1))
	began := d.metric("dockbell_config_reload_last_success_timestamp_seconds")

	d.write(reloadable(", hub: {type: dockerhub, auth: none}", "web", "api"))
	d.reloaded(1)
	d.mustPost(http.StatusAccepted, "registry", pushTo("api", 2))

	d.write(reloadable("", "web", "api", "shop"))
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	d.reloaded(2)
	d.mustPost(http.StatusAccepted, "registry", pushTo("shop", 1))
	d.mustPost(http.StatusNotFound, "hub", []byte("{}")) // the source was removed

	if code, l := d.reload("anna"); code != http.StatusForbidden {
		t.Errorf("an approver: %d %+v", code, l)
	}
	if code, l := d.reload("wrong"); code != http.StatusUnauthorized {
		t.Errorf("nobody: %d %+v", code, l)
	}
	d.write(strings.Replace(reloadable("", "web"), `listen: "127.0.0.1:0"`, `listen: "127.0.0.1:1"`, 1))
	code, l := d.reload("hush")
	if code != http.StatusOK || len(l.Warnings) != 1 || !strings.HasPrefix(l.Warnings[0], "server.listen cannot change while dockbell runs") {
		t.Errorf("%d %+v", code, l)
	}
	d.mustPost(http.StatusOK, "registry", pushTo("api", 3))
	if at := d.metric("dockbell_config_reload_last_success_timestamp_seconds"); at <= began {
		t.Errorf("loaded at %v, and at %v", began, at)
	}
	for _, run := range d.ended() {
		if run.State != "succeeded" {
			t.Errorf("%+v", run)
		}
	}
}

// reloaded waits until the log tells of so many reloads.
func (d *daemon) reloaded(n int) {
	d.t.Helper()
	eventually(d.t, "it is reloaded", func() error {
		if got := d.log.count(`msg="configuration reloaded"`); got < n {
			return fmt.Errorf("%d times", got)
		}
		return nil
	})
}

// A bad configuration changes nothing, and everybody who asks is told.
func TestReloadOfABadFile(t *testing.T) {
	d := serve(t, reloadable("", "web"), reloadTokens...)
	bad := strings.Replace(reloadable("", "web"), "argv:", "arvg:", 1) + "- {name: web, repo: 'shop/['}\n"
	d.write(bad)
	eventually(t, "it is refused", func() error {
		if d.log.count("the configuration cannot be used; that from before stays in force") == 0 {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	const fault = `dockbell.yaml:6: rules[0].actions[0].command: unknown key "arvg"`
	code, l := d.reload("hush")
	if code != http.StatusBadRequest || len(l.Faults) < 4 || !strings.HasPrefix(l.Faults[0], fault) || !strings.HasPrefix(l.Faults[len(l.Faults)-1], "dockbell.yaml:7: rules[1]") || l.Error == "" {
		t.Errorf("%d %+v", code, l)
	}
	var ready struct {
		Status        string
		Configuration loaded
	}
	if d.get("/readyz", &ready); ready.Status != "ready" || len(ready.Configuration.Faults) != len(l.Faults) || ready.Configuration.LoadedAt.IsZero() {
		t.Errorf("/readyz says %+v", ready)
	}
	if v := d.metric("dockbell_config_reload_successful"); v != 0 {
		t.Errorf("the metric is %v", v)
	}
	d.mustPost(http.StatusAccepted, "registry", pushTo("web", 1)) // that from before is in force
	if n := d.log.count("the configuration cannot be used; that from before stays in force"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	d.write(reloadable("", "web", "api"))
	d.reloaded(1)
	ready.Configuration = loaded{}
	if d.get("/readyz", &ready); len(ready.Configuration.Faults) != 0 || d.metric("dockbell_config_reload_successful") != 1 {
		t.Errorf("/readyz says %+v", ready)
	}
}

// A ConfigMap is swapped by a link to another folder.
func TestReloadOfAConfigMap(t *testing.T) {
	d := prepare(t, "", reloadTokens...)
	mount := func(version, config string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(d.dir, version), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d.dir, version, "dockbell.yaml"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(version, filepath.Join(d.dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(d.dir, "..data_tmp"), filepath.Join(d.dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(d.dir, "dockbell.yaml")); err != nil {
		t.Fatal(err)
	}
	mount("..1", reloadable("", "web"))
	if err := os.Symlink("..data/dockbell.yaml", filepath.Join(d.dir, "dockbell.yaml")); err != nil {
		t.Fatal(err)
	}
	d.start()
	d.mustPost(http.StatusOK, "registry", pushTo("api", 1))
	mount("..2", reloadable("", "web", "api"))
	d.reloaded(1)
	d.mustPost(http.StatusAccepted, "registry", pushTo("api", 2))
}

// Nothing is lost and nobody is turned away while the configuration is reloaded
// again and again.
func TestReloadUnderLoad(t *testing.T) {
	const reloads, perSecond, senders = 50, 500, 16
	d := serve(t, reloadable("", "web"), reloadTokens...)
	stop := make(chan struct{})
	var group sync.WaitGroup
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	for s := range senders {
		group.Go(func() {
			tick := time.NewTicker(time.Second * senders / perSecond)
			defer tick.Stop()
			for n := s; ; n += senders {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				r, err := d.post("registry", pushTo("web", n))
				if err != nil || r.Status != http.StatusAccepted {
					t.Errorf("push %d: %d %s %v", n, r.Status, r.Error, err)
					return
				}
				mu.Lock()
				acknowledged[r.Events[0].Runs[0]] = true
				mu.Unlock()
			}
		})
	}
	for i := range reloads {
		d.write(reloadable("", "web", fmt.Sprintf("other-%d", i)))
		if code, l := d.reload("hush"); code != http.StatusOK {
			t.Errorf("%d %+v", code, l)
		}
		time.Sleep(50 * time.Millisecond) // so that pushes come between two
	}
	close(stop)
	group.Wait()
	t.Logf("%d pushes acknowledged during %d reloads", len(acknowledged), reloads)
	done := map[string]bool{}
	for _, run := range d.ended() {
		done[run.ID] = run.State == "succeeded"
	}
	for id := range acknowledged {
		if !done[id] {
			t.Errorf("run %s did not succeed", id)
		}
	}
}
