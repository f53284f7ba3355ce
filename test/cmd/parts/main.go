// Command parts builds and starts the real servers of the end-to-end tests.
//
//	parts build    builds what is missing into the cache, with progress
//	parts up       starts a control plane and a registry until Ctrl-C, to try
//	               dockbell by hand
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/dockbell/dockbell/test/parts"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "parts:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 || args[0] != "build" && args[0] != "up" {
		return errors.New("usage: parts build | parts up")
	}
	bin, err := parts.Build(ctx, os.Stderr)
	if err != nil || args[0] == "build" {
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
