package action

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/nicholas-fedor/shoutrrr/pkg/router"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
)

// shoutrrrSpec sends a message by a service that the library shoutrrr knows.
type shoutrrrSpec struct {
	URL     secret.Ref `yaml:"url"` // as the library wants it: SERVICE://…
	Message note       `yaml:",inline"`
}

type shoutrrrAction struct {
	client  *Client
	courier []string
	spec    shoutrrrSpec
	service string
}

// elsewhere are services of the library that dockbell does itself: with all of
// what it promises of calls, and for Teams by what is not switched off.
var elsewhere = map[string]string{
	"discord": "discord", "slack": "slack", "teams": "teams", "smtp": "email", "generic": "http", "logger": "http",
}

// Shoutrrr builds actions that send a message by the library. It takes neither
// a context nor, for most services, a client, so each message is sent by a
// process of its own: the command courier, which calls [Deliver].
func Shoutrrr(client *Client, courier ...string) trigger.Builder {
	return func(decode func(any) error) (trigger.Action, error) {
		var spec shoutrrrSpec
		if err := decode(&spec); err != nil {
			return nil, err
		}
		a := &shoutrrrAction{client: client, courier: courier, spec: spec}
		address, err := spec.URL.Read()
		if err == nil {
			a.service, err = shoutrrrService(address)
		}
		if err != nil {
			err = trigger.Field("url", "%w", err)
		}
		if err := errors.Join(err, spec.Message.check()); err != nil {
			return nil, err
		}
		return a, nil
	}
}

// shoutrrrService is the service that an address is of. An error does not show
// the address.
func shoutrrrService(address string) (string, error) {
	var library router.ServiceRouter
	service, _, err := library.ExtractServiceName(address)
	if err != nil {
		return "", errors.New("is not a well-formed URL") // err quotes it
	}
	if kind := elsewhere[service]; kind != "" {
		return "", fmt.Errorf("is one of %s: take the action %s, which does that itself", service, kind)
	}
	known := slices.DeleteFunc(library.ListServices(), func(s string) bool { return elsewhere[s] != "" })
	if !slices.Contains(known, service) {
		slices.Sort(known)
		return "", fmt.Errorf("must begin with a service and ://, one of %s", strings.Join(known, ", "))
	}
	return service, nil
}

// Target names the service and where its address is kept.
func (a *shoutrrrAction) Target() string { return a.service + " " + a.spec.URL.String() }

// courierTime is how long a courier may take to end after it was told to.
const courierTime = time.Second

// Do sends the message. One that comes twice does less harm than one that is
// lost, so it is repeated when it may have arrived.
func (a *shoutrrrAction) Do(ctx context.Context, _ trigger.Run, log io.Writer) error {
	address, err := a.spec.URL.Read()
	if err != nil {
		return trigger.Retry(err) // a secret that is not there; nothing was sent
	}
	made := a.client.outbound
	proxy, err := made.Proxy.read()
	if err != nil {
		return trigger.Retry(err)
	}
	letter, err := json.Marshal(parcel{URL: address, Text: a.spec.Message.cut().plain(), CAFile: made.CAFile, Allow: made.Allow})
	if err != nil {
		return fmt.Errorf("the message cannot be written as JSON: %w", err)
	}
	cmd := exec.CommandContext(ctx, a.courier[0], a.courier[1:]...)
	cmd.Env, cmd.Stdin, cmd.WaitDelay = courierEnvironment(proxy), bytes.NewReader(letter), courierTime
	cmd.SysProcAttr = ownGroup() // it ends with dockbell

	// As for a command: this thread has to live as long as the courier does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return trigger.Retry(fmt.Errorf("%s: %w", a.Target(), context.Cause(ctx)))
	}
	var r receipt
	if jsonErr := json.NewDecoder(bytes.NewReader(out)).Decode(&r); jsonErr != nil {
		return fmt.Errorf("%s: the process that sends it broke down: %w", a.Target(), errors.Join(err, jsonErr))
	}
	return a.judge(r, address, log)
}

// courierEnvironment is all that a courier gets of the environment: how to reach
// others and whom to trust.
func courierEnvironment(proxy string) []string {
	var env []string
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if text, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+text)
		}
	}
	if proxy != "" { // the later one counts
		env = append(env, "HTTP_PROXY="+proxy, "HTTPS_PROXY="+proxy)
	}
	return env
}

// judge says what has become of a message. What the service answered counts
// more than what the library made of it: that takes some failures for success.
func (a *shoutrrrAction) judge(r receipt, address string, log io.Writer) error {
	secrets := partsOf(address)
	fail := func(format string, args ...any) error {
		return errors.New(hide(clip(oneLine(a.Target()+": "+fmt.Sprintf(format, args...)), 2*excerptLimit), secrets))
	}
	switch {
	case r.Unusable:
		return fail("the library does not understand the address of the service, or could not log in there: %s", r.Error)
	case r.Refused != "":
		return fail("was not sent: %s", r.Refused)
	case r.Status >= http.StatusMultipleChoices:
		err := fail("answered %d %s. It says: %s", r.Status, http.StatusText(r.Status), r.Says)
		if slices.Contains(laterStatuses, r.Status) {
			return &trigger.RetryError{Err: err, After: retryAfter(r.RetryAfter, time.Now())}
		}
		return err
	case r.Broken != "":
		return trigger.Retry(fail("got no answer: %s", r.Broken))
	case r.Error != "" && r.Status != 0:
		return fail("answered, but not that it took the message: %s", r.Error)
	case r.Error != "":
		return trigger.Retry(fail("%s", r.Error))
	}
	fmt.Fprintf(log, "%s took the message\n", a.service)
	return nil
}

// laterStatuses are those after which it may go better.
var laterStatuses = []int{
	http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusServiceUnavailable,
	http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout,
}

// partsOf are the parts of an address that may be secrets: which of them are,
// only the library knows.
func partsOf(address string) []string {
	const short = 4 // parts that are in every text
	parts := []string{address}
	u, err := url.Parse(address)
	if err != nil {
		return parts
	}
	password, _ := u.User.Password()
	parts = append(parts, u.User.Username(), password, u.User.String(), u.RawQuery)
	parts = append(parts, base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
	parts = append(parts, strings.FieldsFunc(u.Host+"/"+u.Path, func(r rune) bool { return r == '/' || r == ':' })...)
	for _, values := range u.Query() {
		parts = append(parts, values...)
	}
	return slices.DeleteFunc(parts, func(p string) bool { return len(p) <= short || p == u.Scheme })
}
