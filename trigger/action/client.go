package action

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/dockbell/dockbell/trigger"
)

// The limits of a call, beside the run's own time limit.
const (
	dialTimeout     = 10 * time.Second       // for a connection: longer means that the host is not there
	tlsTimeout      = 10 * time.Second       // for the handshake
	callTimeout     = 10 * time.Minute       // for everything: no call outlives it, whatever its run allows
	idleTimeout     = 30 * time.Second       // for which a connection is kept for the next question
	idleLimit       = 64                     // connections kept so
	headerLimit     = 64 << 10               // bytes of response headers
	bodyLimit       = 8 << 10                // bytes of a response that are looked at
	drainLimit      = 256 << 10              // bytes read beyond that, so that the connection can be used again
	bufferSize      = 2 << 10                // of a connection, each way: a thousand may be open
	excerptLimit    = 400                    // bytes of it that an error shows
	slowAnswer      = 250 * time.Millisecond // after that others need not wait for a worker
	keptLimit       = 4 << 10                // bytes of it that are kept with the run
	redirectLimit   = 5                      // redirects followed on the same host
	retryAfterLimit = time.Hour              // longest wait that another side may ask for
)

// Outbound says how dockbell calls others, as the configuration does.
type Outbound struct {
	Proxy  value    `yaml:"proxy"`  // a secret when it holds a password; that of the environment when left out
	CAFile string   `yaml:"caFile"` // certificates in PEM form, trusted beside those of the system
	Allow  []string `yaml:"allow"`  // networks that are called although they are link-local or a cloud's metadata
}

// Client is what everything that dockbell calls is called with. It follows
// redirects on the same host only and connects to no link-local or cloud
// metadata address that is not allowed, whatever name led there: the address is
// looked at when it is dialled, so that no second answer of the DNS can follow.
//
// Questions share connections. What must not happen twice has one of its own: a
// request on an idle one that the server is just closing looks like one that
// may have happened, and [http.Transport] repeats requests with an
// Idempotency-Key by itself.
type Client struct {
	asks     *http.Client
	does     *http.Client
	outbound Outbound // that it was made of
	way
}

// way is how a client reaches others.
type way struct {
	proxy func(*url.URL) (*url.URL, error)
	tls   *tls.Config
	allow []netip.Prefix
}

// NewClient makes the client that a configuration asks for.
func NewClient(o Outbound) (*Client, error) {
	var w way
	var errs [3]error
	w.proxy, errs[0] = proxyOf(o.Proxy)
	w.tls, errs[1] = trust("caFile", o.CAFile)
	w.allow, errs[2] = networks(o.Allow)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	client := w.client()
	client.outbound = o
	return client, nil
}

func (w way) client() *Client {
	of := func(keep bool) *http.Client {
		dialer := &net.Dialer{Timeout: dialTimeout, Control: w.control}
		return &http.Client{
			Transport: &http.Transport{
				Proxy:                  w.proxyFor,
				DialContext:            dialer.DialContext,
				TLSClientConfig:        w.tls,
				TLSHandshakeTimeout:    tlsTimeout,
				MaxResponseHeaderBytes: headerLimit,
				ReadBufferSize:         bufferSize,
				WriteBufferSize:        bufferSize,
				DisableKeepAlives:      !keep,
				MaxIdleConns:           idleLimit,
				IdleConnTimeout:        idleTimeout,
			},
			CheckRedirect: checkRedirect,
			Timeout:       callTimeout,
		}
	}
	return &Client{asks: of(true), does: of(false), way: w}
}

// HTTP is the client for those who only ask.
func (c *Client) HTTP() *http.Client { return c.asks }

// with is a client that goes another way, for one call: it keeps no connection.
func (c *Client) with(change func(*way)) *Client {
	w := c.way
	w.tls = w.tls.Clone()
	change(&w)
	other := w.client()
	other.asks = other.does
	return other
}

// proxyOf reads where a proxy is. What NO_PROXY names is reached without it, and
// this machine.
func proxyOf(v value) (func(*url.URL) (*url.URL, error), error) {
	text, err := v.read()
	if err != nil {
		return nil, trigger.Field("proxy", "%w", err)
	}
	if text == "" {
		return httpproxy.FromEnvironment().ProxyFunc(), nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5":
		return nil, trigger.Field("proxy", "must be the URL of a proxy, as in http://proxy.example.com:3128") // the text may hold a password
	case u.User != nil && !v.isSecret():
		return nil, trigger.Field("proxy", "holds a user or password: keep it as a secret, {env: NAME} or {file: PATH}")
	}
	return (&httpproxy.Config{HTTPProxy: text, HTTPSProxy: text, NoProxy: cmp.Or(os.Getenv("NO_PROXY"), os.Getenv("no_proxy"))}).ProxyFunc(), nil
}

// trust is TLS that also trusts the certificates of a file, if one is named.
func trust(field, file string) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if file == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, trigger.Field(field, "%w", err)
	}
	if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
		conf.RootCAs = x509.NewCertPool()
	}
	if !conf.RootCAs.AppendCertsFromPEM(pem) {
		return nil, trigger.Field(field, "%s holds no certificate in PEM form", file)
	}
	return conf, nil
}

func networks(list []string) (all []netip.Prefix, err error) {
	for _, s := range list {
		p, parseErr := netip.ParsePrefix(s)
		if addr, addrErr := netip.ParseAddr(s); addrErr == nil {
			p, parseErr = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if parseErr != nil {
			err = errors.Join(err, trigger.Field("allow", "%q is not an address or network, as in 169.254.10.0/24", s))
		}
		all = append(all, p)
	}
	return all, err
}

// control looks at an address just before it is connected to.
func (w way) control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil // not an IP network
	}
	return w.refuse(to.Addr())
}

// proxyFor is the proxy of a request. An address written out is checked here,
// since behind a proxy the dialer sees only the proxy; names are then the
// proxy's to resolve and to refuse.
func (w way) proxyFor(req *http.Request) (*url.URL, error) {
	if err := w.refuseHost(req.URL); err != nil {
		return nil, err
	}
	return w.proxy(req.URL)
}

// refusedError is an address that dockbell does not call.
type refusedError struct{ addr netip.Addr }

func (e *refusedError) Error() string {
	return fmt.Sprintf("%s is a link-local or cloud metadata address, which dockbell does not call unless outbound.allow names it", e.addr)
}

// refusedNetworks are metadata services outside the link-local networks.
var refusedNetworks = []netip.Prefix{
	netip.MustParsePrefix("fd00:ec2::/32"),      // Amazon
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle
}

// nat64 holds IPv4 addresses in its last four bytes (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

func (w way) refuse(addr netip.Addr) error {
	plain := addr.WithZone("").Unmap()
	if nat64.Contains(plain) {
		b := plain.As16()
		plain = netip.AddrFrom4([4]byte(b[12:]))
	}
	bad := plain.IsLinkLocalUnicast()
	for _, n := range refusedNetworks {
		bad = bad || n.Contains(plain)
	}
	for _, n := range w.allow {
		bad = bad && !n.Contains(plain)
	}
	if bad {
		return &refusedError{addr}
	}
	return nil
}

func (w way) refuseHost(u *url.URL) error {
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return nil // a name: what it resolves to is checked when dialing
	}
	return w.refuse(addr)
}

// checkURL checks that an address can be called, and may be.
func (w way) checkURL(s string) (*url.URL, error) {
	u, err := checkURL(s)
	if err != nil {
		return nil, err
	}
	return u, w.refuseHost(u)
}

// checkRedirect lets a redirect be followed that stays on the host, keeps the
// method and does not leave TLS. Any other is left to the caller as the answer
// that it is. The method matters: a POST redirected by 301, 302 or 303 goes on
// as a GET, which answers 200 and has done nothing.
func checkRedirect(req *http.Request, via []*http.Request) error {
	from := via[len(via)-1]
	sameScheme := req.URL.Scheme == from.URL.Scheme
	upgrade := from.URL.Scheme == "http" && req.URL.Scheme == "https"
	switch {
	case len(via) > redirectLimit,
		req.Method != from.Method,
		!strings.EqualFold(req.URL.Hostname(), from.URL.Hostname()),
		!sameScheme && !upgrade,
		sameScheme && req.URL.Port() != from.URL.Port():
		return http.ErrUseLastResponse
	}
	return nil
}
