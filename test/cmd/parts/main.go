// Command parts builds and starts the real servers of the tests.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/dockbell/dockbell/test/parts"
)

const usage = `usage:
  parts build        builds what is missing into the cache, with progress
  parts up           starts a control plane and a registry until Ctrl-C, to try
                     dockbell by hand
  parts postgres -- COMMAND [ARGUMENT...]
                     starts a PostgreSQL, runs the command with the URL of its
                     superuser in DOCKBELL_TEST_POSTGRES, and ends as the
                     command does. If that is set already, it starts none.
                     The tests of the store on a real server:

                       go run ./cmd/parts postgres -- go -C .. test ./trigger/store`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if ended, ok := err.(*exec.ExitError); ok && ended.Exited() { // what parts itself ran in vain is wrapped
		os.Exit(ended.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "parts:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 1 && args[0] == "build":
		_, err := parts.Build(ctx, os.Stderr)
		return err
	case len(args) == 1 && args[0] == "up":
		return up(ctx)
	case len(args) > 2 && args[0] == "postgres" && args[1] == "--":
		return withPostgres(ctx, args[2:])
	case len(args) == 1 && (args[0] == "help" || args[0] == "-h" || args[0] == "--help"):
		fmt.Println(usage)
		return nil
	default:
		return errors.New(usage)
	}
}

func up(ctx context.Context) error {
	bin, err := parts.Build(ctx, os.Stderr, append(parts.ForCluster, "registry")...)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "dockbell-parts-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cluster, err := parts.StartCluster(ctx, bin, dir)
	if err != nil {
		return err
	}
	defer cluster.Stop()
	registry, err := parts.StartRegistry(ctx, bin, dir, "http://127.0.0.1:8080/hooks/registry", "Bearer dev")
	if err != nil {
		return err
	}
	defer registry.Stop()
	fmt.Printf("export KUBECONFIG=%s\nregistry: %s, notifies http://127.0.0.1:8080/hooks/registry with the token dev\nCtrl-C ends both.\n", cluster.Kubeconfig, registry.Addr)
	<-ctx.Done()
	return nil
}

// postgresURL names the server that tests use, to them and to this program.
const postgresURL = "DOCKBELL_TEST_POSTGRES"

// withPostgres runs a command that finds a PostgreSQL.
func withPostgres(ctx context.Context, argv []string) error {
	if os.Getenv(postgresURL) != "" {
		return command(ctx, argv)
	}
	dir, err := os.MkdirTemp("", "dockbell-parts-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	postgres, err := parts.StartPostgres(ctx, dir)
	if err != nil {
		return err
	}
	defer postgres.Stop()
	return command(ctx, argv, postgresURL+"="+postgres.URL("postgres"))
}

// command runs a command on this program's terminal, with more in its
// environment. Ctrl-C is passed on, so that it can tidy up.
func command(ctx context.Context, argv []string, env ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	return cmd.Run()
}
