package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/dockbell/dockbell/rules"
	"github.com/dockbell/dockbell/trigger"
)

// explanation is what one event of a payload would lead to.
type explanation struct {
	Event    trigger.Event   `json:"event"`
	Verdicts []rules.Verdict `json:"verdicts,omitempty"`
	Runs     []trigger.Run   `json:"runs,omitempty"`
}

func explainCommand() *cobra.Command {
	var configPath, sourceName, want, output string
	var headers []string
	cmd := &cobra.Command{
		Use:   "explain [flags] BODYFILE",
		Short: "Say what a payload would do, and why each rule does or does not match",
		Long: `Say what a payload would do: the events that are understood, each rule with
the first condition that failed, and the actions of those that match, with
everything filled in. It runs the code that serve runs and does nothing.
BODYFILE is - for standard input.`,
		Example: `  dockbell explain --config dockbell.yaml --source hub testdata/sources/dockerhub/push.json
  dockbell explain --config dockbell.yaml --source hub --want web-to-prod push.json   # status 1 unless that rule matches`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			conf, err := loadConfig(configPath, offlineKinds(cmd.Context(), true))
			if err != nil {
				return fmt.Errorf("%s cannot be used:\n%w", configPath, err)
			}
			body, err := readBody(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			h, err := parseHeaders(headers)
			if err != nil {
				return err
			}
			all, err := explain(conf, sourceName, h, body)
			if err != nil {
				return err
			}
			if err := printExplanations(cmd.OutOrStdout(), all, output); err != nil {
				return err
			}
			if want != "" && !matched(all, want) {
				fmt.Fprintf(cmd.ErrOrStderr(), "no event matches a rule %s\n", want)
				return errSilent
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&configPath, "config", "c", "dockbell.yaml", "configuration `file`")
	f.StringVarP(&sourceName, "source", "s", "", "`name` of the source that the payload comes from")
	f.StringArrayVarP(&headers, "header", "H", nil, "a `header` of the request, as Name: value")
	f.StringVar(&want, "want", "", "end with status 1 unless the `rule` matches")
	outputFlag(cmd, &output)
	// Only a name that is no flag is refused here.
	_ = cmd.MarkFlagRequired("source")
	return cmd
}

func readBody(stdin io.Reader, path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(path)
}

func parseHeaders(list []string) (http.Header, error) {
	h := http.Header{}
	for _, line := range list {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("--header %q: must be Name: value", line)
		}
		h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return h, nil
}

func explain(conf *config, sourceName string, h http.Header, body []byte) ([]explanation, error) {
	src, ok := conf.sources[sourceName]
	if !ok {
		return nil, fmt.Errorf("there is no source %q in the configuration", sourceName)
	}
	if src = src.LooksLike(h, body); src == nil {
		return nil, fmt.Errorf("none of the senders of source %s sends this; name the headers that it comes with by --header", sourceName)
	}
	if reply := src.Handshake(h, body); reply != nil {
		return nil, fmt.Errorf("this is the check of the endpoint, not a delivery; it is answered %d %s", reply.Status, reply.Body)
	}
	events, err := src.Parse(h, body)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	all := make([]explanation, len(events))
	for i, e := range events {
		e.ReceivedAt = now
		all[i].Event = e
		if e.Ignored == "" {
			all[i].Verdicts = conf.rules.Explain(e)
			all[i].Runs, _ = conf.rules.Match(e, now)
		}
	}
	return all, nil
}

func matched(all []explanation, rule string) bool {
	return slices.ContainsFunc(all, func(x explanation) bool {
		return slices.ContainsFunc(x.Verdicts, func(v rules.Verdict) bool { return v.Matched && v.Rule == rule })
	})
}

func printExplanations(w io.Writer, all []explanation, output string) error {
	if output == "json" {
		return printJSON(w, all)
	}
	if len(all) == 0 {
		fmt.Fprintln(w, "The payload is understood and holds no event.")
	}
	for i, x := range all {
		fmt.Fprintf(w, "Event %d of %d: %s %s\n", i+1, len(all), x.Event.Action, x.Event.Pinned())
		if x.Event.Ignored != "" {
			fmt.Fprintf(w, "  starts nothing: %s\n", x.Event.Ignored)
			continue
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, v := range x.Verdicts {
			if v.Matched {
				fmt.Fprintf(t, "  rule %s\tline %d\tmatches\t\n", v.Rule, v.Line)
			} else {
				fmt.Fprintf(t, "  rule %s\tline %d\tno: %s\t%s\n", v.Rule, v.Line, v.Condition, v.Reason)
			}
		}
		if err := t.Flush(); err != nil {
			return err
		}
		for _, r := range x.Runs {
			if r.State == trigger.Failed {
				fmt.Fprintf(w, "  would fail: %s of rule %s: %s\n", r.Kind, r.Rule, r.Reason)
				continue
			}
			fmt.Fprintf(w, "  would do: %s %s (rule %s, lane %s) %s\n", r.Kind, r.Target, r.Rule, r.Lane, r.Spec)
			if r.Reason != "" {
				fmt.Fprintf(w, "    %s\n", r.Reason)
			}
			if r.MinAge > 0 {
				fmt.Fprintf(w, "    not before the image has been known for %s\n", r.MinAge)
			}
		}
	}
	return nil
}
