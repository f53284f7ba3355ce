package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/dockbell/dockbell/trigger/server"
)

func eventsCommand() *cobra.Command {
	var c apiClient
	var repo string
	var limit int
	cmd := &cobra.Command{
		Use:   "events",
		Short: "List events, newest first, and why they started nothing",
		Example: `  dockbell events
  dockbell events --repo shop/web --limit 100 -o json
  dockbell events show 34`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{"limit": {strconv.Itoa(limit)}}
			if repo != "" {
				query.Set("repo", repo)
			}
			var page server.EventPage
			if err := c.get(cmd.Context(), "/api/v1/events", query, &page); err != nil {
				return err
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), page)
			}
			return printEvents(cmd.OutOrStdout(), page, repo)
		},
	}
	cmd.Flags().StringVar(&repo, "repo", "", "only events of this `repository`, without its registry")
	cmd.Flags().IntVar(&limit, "limit", 20, "how many")
	c.flags(cmd)
	cmd.AddCommand(showEventCommand(&c))
	return cmd
}

func printEvents(w io.Writer, page server.EventPage, repo string) error {
	if len(page.Events) == 0 {
		_, err := fmt.Fprintln(w, "No events."+withoutRegistry(repo), "Does the registry's notification reach the hooks address, and is it answered 2xx?")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "EVENT\tSOURCE\tACTION\tIMAGE\tAGE\tRUNS\tREASON")
	for _, e := range page.Events {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", e.EventRecord.ID, e.Source, e.Action, e.Image.String(), age(e.ReceivedAt), strings.Join(e.Runs, " "), clip(e.Reason))
	}
	return t.Flush()
}

// eventStory is an event with what it came in and what it started.
type eventStory struct {
	server.EventView
	Delivery *server.DeliveryView `json:"delivery"` // nil when it is not kept any more
	Runs     []server.RunView     `json:"runs"`
}

func showEventCommand(c *apiClient) *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "Show one event, the delivery that it came in, and its runs",
		Example: `  dockbell events show 34`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkID("an event", args[0]); err != nil {
				return err
			}
			var e eventStory
			if err := c.get(cmd.Context(), "/api/v1/events/"+args[0], nil, &e.EventView); err != nil {
				return err
			}
			var page server.RunPage
			if err := c.get(cmd.Context(), "/api/v1/runs", url.Values{"event": args, "limit": {"1000"}}, &page); err != nil {
				return err
			}
			e.Runs = page.Runs
			// Requests are not kept for as long as events are.
			var d server.DeliveryView
			if err := c.get(cmd.Context(), fmt.Sprintf("/api/v1/deliveries/%d", e.EventRecord.Delivery), nil, &d); err == nil {
				e.Delivery = &d
			}
			if c.output == "json" {
				return printJSON(cmd.OutOrStdout(), e)
			}
			return printEvent(cmd.OutOrStdout(), e)
		},
	}
}

func printEvent(w io.Writer, e eventStory) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "Event\t%d of delivery %d\n", e.EventRecord.ID, e.EventRecord.Delivery)
	if e.SenderID != "" {
		fmt.Fprintf(t, "Sender's id\t%s\n", e.SenderID)
	}
	fmt.Fprintf(t, "Image\t%s\n", e.Pinned())
	fmt.Fprintf(t, "Action\t%s\n", e.Action)
	if e.Actor != "" {
		fmt.Fprintf(t, "Actor\t%s\n", e.Actor)
	}
	fmt.Fprintf(t, "Source\t%s\n", e.Source)
	if !e.OccurredAt.IsZero() {
		fmt.Fprintf(t, "Occurred\t%s\n", clock(e.OccurredAt))
	}
	fmt.Fprintf(t, "Received\t%s\n", clock(e.ReceivedAt))
	if e.Reason != "" {
		fmt.Fprintf(t, "Reason\t%s\n", e.Reason)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(e.Runs) > 0 {
		fmt.Fprintln(w)
		if err := printRuns(w, server.RunPage{Runs: e.Runs}, ""); err != nil {
			return err
		}
	}
	if e.Delivery == nil {
		_, err := fmt.Fprintf(w, "\nDelivery %d is not kept any more.\n", e.EventRecord.Delivery)
		return err
	}
	return printDelivery(w, *e.Delivery)
}

func printDelivery(w io.Writer, d server.DeliveryView) error {
	fmt.Fprintf(w, "\nDelivery %d, without what is secret in its headers:\n", d.ID)
	for _, name := range slices.Sorted(maps.Keys(d.Header)) {
		fmt.Fprintf(w, "  %s: %s\n", name, strings.Join(d.Header[name], ", "))
	}
	body := d.Body
	if d.Base64 != nil {
		body = fmt.Sprintf("%d bytes that are no text; -o json has them", len(d.Base64))
	} else if !json.Valid([]byte(body)) {
		body = strconv.Quote(body) // a form, say; or what would move the cursor
	}
	_, err := fmt.Fprintf(w, "  %s\n", strings.ReplaceAll(body, "\n", "\n  "))
	return err
}
