package action

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// The limits of a call, beside the run's own time limit.
const (
	dialTimeout     = 10 * time.Second // for a connection: longer means that the host is not there
	tlsTimeout      = 10 * time.Second // for the handshake
	callTimeout     = 10 * time.Minute // for everything: no call outlives it, whatever its run allows
	headerLimit     = 64 << 10         // bytes of response headers
	bodyLimit       = 64 << 10         // bytes of a response that are looked at
	excerptLimit    = 400              // bytes of it that an error shows
	redirectLimit   = 5                // redirects followed on the same host
	retryAfterLimit = time.Hour        // longest wait that another side may ask for
)

// NewClient makes the one client for everything that dockbell calls. It uses
// the proxies of the environment, follows redirects on the same host only and
// connects to no link-local or cloud metadata address, whatever name led there.
//
// Connections are not kept: a request on an idle one that the server is just
// closing looks like one that may have happened, and [http.Transport] repeats
// requests with an Idempotency-Key by itself. Both end with one request per
// connection.
func NewClient() *http.Client {
	dialer := &net.Dialer{
		Timeout: dialTimeout,
		Control: func(_, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return nil // not an IP network
			}
			return refuse(to.Addr())
		},
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  proxy,
			DialContext:            dialer.DialContext,
			TLSHandshakeTimeout:    tlsTimeout,
			MaxResponseHeaderBytes: headerLimit,
			DisableKeepAlives:      true,
		},
		CheckRedirect: checkRedirect,
		Timeout:       callTimeout,
	}
}

// proxy is that of the environment. An address written out is checked here,
// since behind a proxy the dialer sees only the proxy; names are then the
// proxy's to resolve and to refuse.
func proxy(req *http.Request) (*url.URL, error) {
	if err := refuseHost(req.URL); err != nil {
		return nil, err
	}
	return http.ProxyFromEnvironment(req)
}

// refusedError is an address that dockbell does not call.
type refusedError struct{ addr netip.Addr }

func (e *refusedError) Error() string {
	return fmt.Sprintf("%s is a link-local or cloud metadata address, which dockbell does not call", e.addr)
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

func refuse(addr netip.Addr) error {
	plain := addr.WithZone("").Unmap()
	if nat64.Contains(plain) {
		b := plain.As16()
		plain = netip.AddrFrom4([4]byte(b[12:]))
	}
	bad := plain.IsLinkLocalUnicast()
	for _, n := range refusedNetworks {
		bad = bad || n.Contains(plain)
	}
	if bad {
		return &refusedError{addr}
	}
	return nil
}

func refuseHost(u *url.URL) error {
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return nil // a name: what it resolves to is checked when dialing
	}
	return refuse(addr)
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
