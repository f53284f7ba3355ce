package server

import (
	"net/http/httptest"
	"net/netip"
	"testing"
)

func TestSender(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:ffff::/48")}
	tests := []struct {
		name       string
		connection string
		forwarded  []string
		want       string
	}{
		{"no proxy", "203.0.113.7:1234", nil, "203.0.113.7"},
		{"no proxy, IPv6", "[2001:db8::7]:1234", nil, "2001:db8::7"},
		{"IPv4 in IPv6", "[::ffff:203.0.113.7]:1234", nil, "203.0.113.7"},
		{"who is not trusted is not believed", "203.0.113.7:1234", []string{"192.0.2.1"}, "203.0.113.7"},
		{"nor about a proxy", "203.0.113.7:1234", []string{"192.0.2.1, 10.0.0.1"}, "203.0.113.7"},
		{"proxy for itself", "10.0.0.1:1234", nil, "10.0.0.1"},
		{"proxy that says nothing", "10.0.0.1:1234", []string{""}, "10.0.0.1"},
		{"one proxy", "10.0.0.1:1234", []string{"203.0.113.7"}, "203.0.113.7"},
		{"one proxy, IPv4 in IPv6", "[::ffff:10.0.0.1]:1234", []string{"::ffff:203.0.113.7"}, "203.0.113.7"},
		{"one proxy, IPv6", "[2001:db8:ffff::1]:1234", []string{"2001:db8::7"}, "2001:db8::7"},
		{"a proxy that adds ports", "10.0.0.1:1234", []string{"203.0.113.7:4321"}, "203.0.113.7"},
		{"a proxy that adds ports, IPv6", "10.0.0.1:1234", []string{"[2001:db8::7]:4321"}, "2001:db8::7"},
		{"two proxies", "10.0.0.1:1234", []string{"203.0.113.7, 10.0.0.2"}, "203.0.113.7"},
		{"two proxies, of two kinds", "10.0.0.1:1234", []string{"203.0.113.7,2001:db8:ffff::1"}, "203.0.113.7"},
		{"two proxies, two headers", "10.0.0.1:1234", []string{"203.0.113.7", "10.0.0.2"}, "203.0.113.7"},
		{"made up before the proxy", "10.0.0.1:1234", []string{"192.0.2.1, 203.0.113.7"}, "203.0.113.7"},
		{"made up in another header", "10.0.0.1:1234", []string{"192.0.2.1", "203.0.113.7"}, "203.0.113.7"},
		{"made up with a proxy", "10.0.0.1:1234", []string{"192.0.2.1, 10.0.0.3, 203.0.113.7, 10.0.0.2"}, "203.0.113.7"},
		{"proxy that is not ours", "10.0.0.1:1234", []string{"192.0.2.1, 198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"nothing but proxies", "10.0.0.1:1234", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"no address", "10.0.0.1:1234", []string{"192.0.2.1, unknown"}, "10.0.0.1"},
		{"no address before a proxy", "10.0.0.1:1234", []string{"192.0.2.1, _hidden, 10.0.0.2"}, "10.0.0.2"},
		{"comma at the end", "10.0.0.1:1234", []string{"192.0.2.1,"}, "10.0.0.1"},
		{"a connection of no address", "@", []string{"203.0.113.7"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "/hooks/x", nil)
			r.RemoteAddr = tt.connection
			r.Header["X-Forwarded-For"] = tt.forwarded
			r.Header.Set("X-Real-Ip", "192.0.2.1")
			var want netip.Addr
			if tt.want != "" {
				want = netip.MustParseAddr(tt.want)
			}
			if got := sender(r, trusted); got != want {
				t.Errorf("got %s", got)
			}
			if got := sender(r, nil); got.IsValid() && got != netip.MustParseAddrPort(tt.connection).Addr().Unmap() {
				t.Errorf("with no proxy trusted: got %s", got)
			}
		})
	}
}
