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
		before, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			return from
		}
		from = before.Unmap()
	}
	return from
}
