package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// apiClient asks a running dockbell.
type apiClient struct {
	server string
	output string
}

const apiTimeout = 30 * time.Second

func (c *apiClient) flags(cmd *cobra.Command) {
	address := os.Getenv("DOCKBELL_SERVER")
	if address == "" {
		address = "http://127.0.0.1:8081"
	}
	cmd.PersistentFlags().StringVar(&c.server, "server", address, "admin `address` of the running dockbell; DOCKBELL_SERVER sets the default")
	outputFlag(cmd, &c.output)
}

func (c *apiClient) get(ctx context.Context, path string, query url.Values, into any) error {
	return c.call(ctx, http.MethodGet, path, query, nil, into)
}

// post sends something with the token that allows changes.
func (c *apiClient) post(ctx context.Context, path string, body, into any) error {
	return c.call(ctx, http.MethodPost, path, nil, body, into)
}

func (c *apiClient) call(ctx context.Context, method, path string, query url.Values, body, into any) error {
	if err := checkOutput(c.output); err != nil {
		return err
	}
	u, err := url.Parse(c.server)
	if err != nil || u.Host == "" {
		return fmt.Errorf("--server %q: must be a URL, as in http://127.0.0.1:8081", c.server)
	}
	u = u.JoinPath(path)
	u.RawQuery = query.Encode()
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(text))
	if err != nil {
		return err
	}
	if token := os.Getenv("DOCKBELL_TOKEN"); token != "" && body != nil {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := (&http.Client{Timeout: apiTimeout}).Do(req)
	if err != nil {
		return fmt.Errorf("no dockbell answers at %s: %w; is it running, and is this its server.admin address?", c.server, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var answer struct {
			Error string `json:"error"`
		}
		if json.NewDecoder(resp.Body).Decode(&answer) != nil || answer.Error == "" {
			return fmt.Errorf("%s answered %s", c.server, resp.Status)
		}
		return errors.New(answer.Error)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// outputFlag adds -o.
func outputFlag(cmd *cobra.Command, output *string) {
	cmd.PersistentFlags().StringVarP(output, "output", "o", "table", "`format`: table or json")
}

func checkOutput(output string) error {
	if output != "table" && output != "json" {
		return fmt.Errorf("--output %q: must be table or json", output)
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
