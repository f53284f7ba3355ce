package parts

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
)

// errPortTaken says that somebody else took a port between the search for it
// and the start of the server that was to have it.
var errPortTaken = errors.New("a port was taken meanwhile")

// Ports are taken from below those that Linux gives to outgoing connections.
// Among those a stopped API server could lose its port to one, even to a
// client that retries until it happens to connect to itself.
const firstPort, lastPort = 10_000, 32_767

// freePorts finds loopback ports that nobody listens on. All are held until
// the last is found, so that none comes twice.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range 100 * n {
		if len(ports) == n {
			return ports, nil
		}
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer l.Close()
		ports = append(ports, port)
	}
	return nil, fmt.Errorf("no %d free ports on the loopback address", n)
}

// onFreePorts starts something on n free ports in a new folder below dir, and
// once more on others if one of them was taken meanwhile.
func onFreePorts(ctx context.Context, dir, name string, n int, start func(ctx context.Context, dir string, ports []int) error) error {
	const tries = 5
	for try := 1; ; try++ {
		ports, err := freePorts(n)
		if err != nil {
			return err
		}
		own, err := os.MkdirTemp(dir, name+"-")
		if err != nil {
			return err
		}
		err = start(ctx, own, ports)
		if try == tries || !errors.Is(err, errPortTaken) {
			return err
		}
	}
}
