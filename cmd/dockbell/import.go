package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/dockbell/dockbell/k8s"
)

func importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "import",
		Short:   "Write a configuration that does what another program does",
		Example: "  dockbell import keel",
		Args:    cobra.NoArgs,
	}
	cmd.AddCommand(importKeelCommand())
	return cmd
}

type importOptions struct {
	files     []string
	namespace string
	cluster   k8s.ClusterSpec
	schedule  string
	rulesOnly bool
	live      bool
	output    string
}

func importKeelCommand() *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "keel",
		Short: "Write rules that do what keel does",
		Long: `Write rules that do what keel does, as its labels and annotations on the
workloads of a cluster or of manifests say. Nothing is changed. What differs
from keel is said in comments, and on standard error.`,
		Example: `  dockbell import keel -o dockbell.yaml                      # of all namespaces of a cluster
  dockbell import keel --context prod --namespace shop
  helm template shop ./chart | dockbell import keel -f - --rules-only`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.schedule != "" {
				var err error
				if o.schedule, err = k8s.KeelSchedule(o.schedule); err != nil {
					return fmt.Errorf("--poll-schedule: %w", err)
				}
			}
			workloads, charts, err := o.read(cmd.Context(), cmd.InOrStdin())
			if err != nil {
				return err
			}
			keel := k8s.TranslateKeel(workloads, k8s.KeelOptions{Schedule: o.schedule, Follows: o.live})
			for _, name := range charts {
				keel.Left = append(keel.Left, name+": the section keel of a chart's values. Releases are not changed: set the tag where the release is made, or put keel.sh/policy on the workloads and import those")
			}
			for _, line := range keelReport(keel) {
				fmt.Fprintln(cmd.ErrOrStderr(), line)
			}
			if len(keel.Rules) == 0 {
				return fmt.Errorf("nothing to import: of %d workloads that were read, keel updates none; it looks for keel.sh/policy among their own annotations and labels", len(workloads))
			}
			return o.write(cmd.OutOrStdout(), o.text(keel))
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.files, "file", "f", nil, "read manifests of this `file`, this folder and what is below it, or - for standard input, and not a cluster; may be repeated")
	f.StringVarP(&o.namespace, "namespace", "n", "", "only of this `namespace`; with --file, that of manifests that name none")
	f.StringVar(&o.cluster.Kubeconfig, "kubeconfig", "", "`file` that says how to reach the cluster; without, as kubectl does")
	f.StringVar(&o.cluster.Context, "context", "", "`name` of the context in it")
	f.StringVar(&o.schedule, "poll-schedule", "", "`schedule` of polling where a workload names none: what POLL_DEFAULTSCHEDULE is for keel, @every 1m if that is not set")
	f.BoolVar(&o.rulesOnly, "rules-only", false, "write the part `rules` alone")
	f.BoolVar(&o.live, "live", false, "write what a dockbell needs that goes on following keel's annotations")
	f.StringVarP(&o.output, "output", "o", "", "`file` to write, which must not be there yet; without, standard output")
	cmd.MarkFlagsMutuallyExclusive("file", "kubeconfig")
	cmd.MarkFlagsMutuallyExclusive("file", "context")
	cmd.MarkFlagsMutuallyExclusive("live", "rules-only")
	return cmd
}

// read gives the workloads that the command line names, and the files that
// speak to keel as values of a chart.
func (o *importOptions) read(ctx context.Context, stdin io.Reader) (workloads []k8s.KeelWorkload, charts []string, err error) {
	if len(o.files) == 0 {
		clusters := k8s.New(ctx, map[string]k8s.ClusterSpec{k8s.DefaultCluster: o.cluster}, nil, slog.New(slog.DiscardHandler))
		workloads, err = clusters.Keel(ctx, k8s.DefaultCluster, o.namespace)
		return workloads, nil, err
	}
	namespace := o.namespace
	if namespace == "" {
		namespace = "default" // as kubectl apply does
	}
	read := func(name string, r io.Reader) error {
		some, chart, err := k8s.ReadKeel(r, namespace)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if chart {
			charts = append(charts, filepath.Base(name))
		}
		workloads = append(workloads, some...)
		return nil
	}
	for _, name := range o.files {
		if name == "-" {
			err = read("standard input", stdin)
		} else {
			err = filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
				isManifest := slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path))
				if err != nil || entry.IsDir() || path != name && !isManifest {
					return err
				}
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				return read(path, bytes.NewReader(text))
			})
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return workloads, charts, nil
}

func (o *importOptions) text(keel k8s.Keel) []byte {
	switch {
	case o.rulesOnly:
		return keelRules(keel)
	case o.live:
		return keelLive(keel)
	}
	return keelConfig(keel)
}

// write writes to the file that was named, and over none.
func (o *importOptions) write(stdout io.Writer, text []byte) error {
	if o.output == "" {
		_, err := stdout.Write(text)
		return err
	}
	file, err := os.OpenFile(o.output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("--output: %s is there already; name another file, or remove it", o.output)
	}
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Close())
}
