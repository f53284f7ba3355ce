package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/source"
)

func sendCommand() *cobra.Command {
	var configPath, sourceName, address string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "send VENDOR [IMAGE]",
		Short: "Post what a vendor would send for a push, to try rules with",
		Long: `Post what a vendor would send when the image is pushed, with the credentials of
the configured source, to a running dockbell. Without a digest in IMAGE one is
made up, so that each call is a new push.

Rules that match fire their actions: this is no dry run of them. Use explain
for that.

VENDOR is one of ` + wrapped(source.Types(), 76) + `.`,
		Example: `  dockbell send github ghcr.io/shop/web:v1.4.0
  dockbell send harbor harbor.example.com/shop/web:v2 --config dockbell.yaml --source harbor-prod
  dockbell send quay quay.io/shop/web:v3 --dry-run`,
		Args:      cobra.RangeArgs(1, 2),
		ValidArgs: source.Types(),
		RunE: func(cmd *cobra.Command, args []string) error {
			conf, err := loadConfig(configPath, offlineKinds(cmd.Context(), true))
			if err != nil {
				return fmt.Errorf("%s cannot be used:\n%w", configPath, err)
			}
			src, err := conf.sourceOf(args[0], sourceName)
			if err != nil {
				return err
			}
			img, err := pushedImage(append(args, "registry.example.com/shop/web:v1.0.0")[1])
			if err != nil {
				return err
			}
			r, err := src.Sample(img, time.Now())
			if err != nil {
				return err
			}
			at, err := conf.hookURL(address, src.Name)
			if err != nil {
				return err
			}
			if dryRun {
				return printRequest(cmd.OutOrStdout(), at, r, src.Hidden())
			}
			return post(cmd.Context(), cmd.OutOrStdout(), at, r)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&configPath, "config", "c", "dockbell.yaml", "configuration `file` of the running dockbell")
	f.StringVarP(&sourceName, "source", "s", "", "`name` of the source; needed when several are of this vendor")
	f.StringVar(&address, "url", "", "`address` of the running dockbell, when it is not server.listen on this machine")
	f.BoolVar(&dryRun, "dry-run", false, "print the request, without its credentials, and send nothing")
	return cmd
}

// wrapped is a list in lines of a width.
func wrapped(words []string, width int) string {
	var b strings.Builder
	length := len("VENDOR is one of ")
	for i, word := range words {
		if i > 0 {
			b.WriteString(",")
			if length++; length+1+len(word) >= width {
				b.WriteString("\n")
				length = 0
			} else {
				b.WriteString(" ")
				length++
			}
		}
		b.WriteString(word)
		length += len(word)
	}
	return b.String()
}

// sourceOf finds the source that deliveries of a vendor go to.
func (c *config) sourceOf(vendor, name string) (*source.Source, error) {
	if !slices.Contains(source.Types(), vendor) {
		return nil, fmt.Errorf("unknown vendor %q; known are %s", vendor, strings.Join(source.Types(), ", "))
	}
	names := slices.Sorted(maps.Keys(c.sources))
	if name != "" {
		if c.sources[name] == nil {
			return nil, fmt.Errorf("there is no source %q in the configuration; there are %s", name, strings.Join(names, ", "))
		}
		names = []string{name}
	}
	var found []*source.Source
	for _, name := range names {
		if src := c.sources[name].Of(vendor); src != nil {
			found = append(found, src)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("no source in the configuration is of type %s; add one, as `try: {type: %s, auth: none}` on a machine of your own", vendor, vendor)
	}
	var choice []string
	for _, src := range found {
		choice = append(choice, src.Name)
	}
	return nil, fmt.Errorf("several sources are of type %s: choose one by --source: %s", vendor, strings.Join(choice, ", "))
}

// pushedImage reads a reference and makes up the digest that it lacks.
func pushedImage(ref string) (trigger.Image, error) {
	img, err := trigger.ParseImage(ref)
	if err != nil {
		return img, err
	}
	if img.Digest == "" {
		content := make([]byte, 32)
		rand.Read(content) // never fails
		img.Digest = "sha256:" + hex.EncodeToString(content)
	}
	if img.Tag == "" {
		img.Tag = "latest"
	}
	return img, nil
}

// hookURL is where the running dockbell takes deliveries of a source.
func (c *config) hookURL(address, name string) (*url.URL, error) {
	if address == "" {
		host, port, err := net.SplitHostPort(c.Server.Listen)
		if err != nil {
			return nil, err
		}
		if port == "0" {
			return nil, errors.New("server.listen is of port 0: say by --url where dockbell listens; its log does")
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "127.0.0.1"
		}
		scheme := "http"
		if c.Server.TLS != nil {
			scheme = "https"
		}
		address = scheme + "://" + net.JoinHostPort(host, port)
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("--url %q: must be a URL, as in http://127.0.0.1:8080", address)
	}
	return u.JoinPath("hooks", name), nil
}

func printRequest(w io.Writer, at *url.URL, r source.Request, hidden []string) error {
	for _, name := range hidden {
		r.Query.Del(name)
		r.Header.Del(name)
	}
	at.RawQuery = r.Query.Encode()
	fmt.Fprintf(w, "POST %s\n", at)
	if err := r.Header.Write(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", bytes.TrimSpace(r.Body))
	return err
}

// post sends a request and shows what is answered; anything but a 2xx is an
// error.
func post(ctx context.Context, w io.Writer, at *url.URL, r source.Request) error {
	shown := at.String()
	at.RawQuery = r.Query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.String(), bytes.NewReader(r.Body))
	if err != nil {
		return err
	}
	req.Header = r.Header
	resp, err := (&http.Client{Timeout: apiTimeout}).Do(req)
	if err != nil {
		// The error would show the URL, and with it a token.
		return fmt.Errorf("no dockbell answers at %s: %w; is it running? --url says where", shown, cmp.Or(errors.Unwrap(err), err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var pretty bytes.Buffer
	if json.Indent(&pretty, answer, "", "  ") == nil {
		answer = pretty.Bytes()
	}
	fmt.Fprintf(w, "%s\n%s\n", resp.Status, bytes.TrimSpace(answer))
	if resp.StatusCode/100 != 2 {
		return errSilent
	}
	return nil
}
