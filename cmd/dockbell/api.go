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
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/server"
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

// post asks for a change.
func (c *apiClient) post(ctx context.Context, path string, body, into any) error {
	return c.call(ctx, http.MethodPost, path, nil, body, into)
}

func (c *apiClient) call(ctx context.Context, method, path string, query url.Values, body, into any) error {
	resp, err := c.send(ctx, &http.Client{Timeout: apiTimeout}, method, path, query, http.Header{}, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}

// send makes a request and gives the answer, unless that is an error. The
// caller closes its body.
func (c *apiClient) send(ctx context.Context, client *http.Client, method, path string, query url.Values, header http.Header, body any) (*http.Response, error) {
	if err := checkOutput(c.output); err != nil {
		return nil, err
	}
	u, err := url.Parse(c.server)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("--server %q: must be a URL, as in http://127.0.0.1:8081", c.server)
	}
	u = u.JoinPath(path)
	u.RawQuery = query.Encode()
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header = header
	if token := os.Getenv("DOCKBELL_TOKEN"); token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("no dockbell answers at %s: %w; is it running, and is this its server.admin address?", c.server, errors.Unwrap(err))
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	var answer struct {
		Error string `json:"error"`
	}
	if json.NewDecoder(resp.Body).Decode(&answer) != nil || answer.Error == "" {
		return nil, fmt.Errorf("%s answered %s", c.server, resp.Status)
	}
	return nil, errors.New(answer.Error)
}

// byFlag adds --by to a command that changes something.
func byFlag(cmd *cobra.Command, by *string) {
	cmd.Flags().StringVar(by, "by", "", "`name` for the record, where DOCKBELL_TOKEN is nobody's own; $USER when left out")
}

// whoever gives the name to send with a change: the one that --by says, none
// where the token is somebody's own, else that of the user of this machine.
func (c *apiClient) whoever(ctx context.Context, by string) (string, error) {
	if by != "" {
		return by, nil
	}
	var me server.Caller
	if err := c.get(ctx, "/api/v1/me", nil, &me); err != nil {
		return "", err
	}
	if me.Name != "" {
		return "", nil
	}
	return os.Getenv("USER"), nil
}

// needsToken is what the help of each command that changes something says.
const needsToken = `DOCKBELL_TOKEN must be set to the running dockbell's server.token, or to that
of one of its server.people.`

// checkID refuses what is not the id of a run, a hold or an event.
func checkID(what, id string) error {
	if _, err := strconv.ParseUint(id, 10, 63); err != nil {
		return fmt.Errorf("%q is not the id of %s, which is a number", id, what)
	}
	return nil
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

// withoutRegistry says how a repository is named, to those who found nothing by
// a name that may begin with a registry, as those of images do.
func withoutRegistry(repo string) string {
	host, name, ok := strings.Cut(repo, "/")
	if !ok || !trigger.IsRegistry(host) {
		return ""
	}
	return " Its registry is not part of a repository's name: --repo " + name + "."
}
