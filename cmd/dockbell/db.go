package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dockbell/dockbell/trigger/store"
)

func dbCommand() *cobra.Command {
	var configPath string
	location := func(cmd *cobra.Command) (*config, error) {
		conf, err := loadConfig(configPath, offlineKinds(cmd.Context(), true))
		if missing, rest := withoutMissingSecrets(err); err != nil && (rest != nil || missing == 0) {
			return nil, fmt.Errorf("%s cannot be used:\n%w", configPath, err)
		} else if err != nil {
			return nil, fmt.Errorf("%s cannot be used here, where its secrets are not:\n%w", configPath, err)
		}
		return conf, nil
	}
	cmd := &cobra.Command{
		Use:     "db",
		Short:   "Look after the store",
		Example: `  dockbell db backup copy.db --config dockbell.yaml`,
	}
	cmd.PersistentFlags().StringVarP(&configPath, "config", "c", "dockbell.yaml", "configuration `file` that names the store")
	cmd.AddCommand(
		&cobra.Command{
			Use:   "backup FILE",
			Short: "Copy the store to a new file, also while dockbell serves",
			Example: `  dockbell db backup /backup/dockbell-$(date +%F).db
  dockbell db backup copy.db --config dockbell.yaml`,
			Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				conf, err := location(cmd)
				if err != nil {
					return err
				}
				if err := store.Backup(cmd.Context(), conf.Store, args[0]); err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is copied to %s\n", conf.shownStore(), args[0])
				return err
			},
		},
		copyCommand(location),
		&cobra.Command{
			Use:   "migrate",
			Short: "Bring the store to the schema of this dockbell",
			Long: `Bring the store to the schema of this dockbell, step by step. Starting does
the same; this is for who wants to see it done before. An earlier dockbell
refuses the store afterwards: make a backup first.`,
			Example: `  dockbell db migrate --config dockbell.yaml`,
			Args:    cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				conf, err := location(cmd)
				if err != nil {
					return err
				}
				from, to, err := store.Migrate(cmd.Context(), conf.Store)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s had schema version %d and has %d\n", conf.shownStore(), from, to)
				return err
			},
		},
		&cobra.Command{
			Use:     "check",
			Short:   "Look for damage in the store, also while dockbell serves",
			Example: `  dockbell db check --config dockbell.yaml`,
			Args:    cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				conf, err := location(cmd)
				if err != nil {
					return err
				}
				problems, err := store.Check(cmd.Context(), conf.Store)
				for _, p := range problems {
					fmt.Fprintln(cmd.OutOrStdout(), p)
				}
				if err != nil {
					return err
				}
				if len(problems) > 0 {
					return errSilent
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is good\n", conf.shownStore())
				return err
			},
		},
		&cobra.Command{
			Use:   "prune",
			Short: "Forget history that is older than `keep` says, while dockbell does not serve",
			Long: `Forget history that is older than the configuration's keep says. A dockbell
that serves does so by itself every hour; this is for one that is stopped.`,
			Example: `  dockbell db prune --config dockbell.yaml`,
			Args:    cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) (err error) {
				conf, err := location(cmd)
				if err != nil {
					return err
				}
				db, err := store.Open(cmd.Context(), conf.Store)
				if err != nil {
					return err
				}
				defer func() {
					if closed := db.Close(); err == nil {
						err = closed
					}
				}()
				n, err := db.Prune(cmd.Context(), conf.Keep.keep(), time.Now())
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "forgotten: %d deliveries, %d events, %d runs\n", n.Deliveries, n.Events, n.Runs)
				return err
			},
		},
	)
	return cmd
}

// copyCommand copies a store to another database.
func copyCommand(location func(*cobra.Command) (*config, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "copy STORE",
		Short: "Copy the store to another one, of SQLite or PostgreSQL, while no dockbell serves",
		Long: `Copy all of the store that the configuration names to another one, which must
be empty: sqlite:PATH, postgres://USER@HOST/DATABASE, or env:NAME for a
variable that holds it, so that a password is not seen by others on this
machine. Ids stay as they are, and what waits goes on waiting there. Afterwards
let the configuration name the new store.`,
		Example: `  dockbell db copy postgres://dockbell@db.example.com/dockbell
  dockbell db copy env:DATABASE_URL --config dockbell.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conf, err := location(cmd)
			if err != nil {
				return err
			}
			to := args[0]
			if name, ok := strings.CutPrefix(to, "env:"); ok {
				if to = os.Getenv(name); to == "" {
					return fmt.Errorf("the environment variable %s is not set", name)
				}
			}
			return store.Copy(cmd.Context(), conf.Store, to, func(c store.Copied) {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %d\n", c.Table, c.Rows)
			})
		},
	}
}
