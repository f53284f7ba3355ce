package server

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// sender is the address that a request is from: that of the connection or,
// when a trusted proxy made it, the last one in X-Forwarded-For that is not
// itself such a proxy. Whoever is not trusted can write anything into that
// header, but only in front of what proxies add.
func sender(r *http.Request, trusted []netip.Prefix) netip.Addr {
	connection, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	from := connection.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(from) }) {
			return from
		}
		before, ok := parseHop(strings.TrimSpace(hop))
		if !ok {
			return from
		}
		from = before
	}
	return from
}

// parseHop reads an address, to which some proxies add the port.
func parseHop(s string) (netip.Addr, bool) {
	if withPort, err := netip.ParseAddrPort(s); err == nil {
		return withPort.Addr().Unmap(), true
	}
	addr, err := netip.ParseAddr(s)
	return addr.Unmap(), err == nil
}
