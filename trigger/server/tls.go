package server

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// TLS makes the TLS side of a listener from a certificate and its key, both
// files in PEM form. They are read anew when they change; while what is there
// cannot be used, the certificate from before stays. With ask, clients are
// asked for a certificate, which nobody has verified yet.
func TLS(certFile, keyFile string, ask bool, log *slog.Logger) (*tls.Config, error) {
	c := &certificate{cert: certFile, key: keyFile, log: log}
	if _, err := c.get(nil); err != nil {
		return nil, err
	}
	config := &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if ask {
		config.ClientAuth = tls.RequestClientCert
	}
	return config, nil
}

// certificate is a pair of files and what was last read from them.
type certificate struct {
	cert, key string
	log       *slog.Logger

	mu    sync.Mutex
	pair  *tls.Certificate
	stamp string
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stamp, err := stampOf(c.cert, c.key)
	if err == nil && stamp == c.stamp {
		return c.pair, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(c.cert, c.key)
	}
	switch {
	case err == nil:
		c.pair, c.stamp = &pair, stamp
	case c.pair == nil:
		return nil, fmt.Errorf("certificate: %w", err)
	case stamp != c.stamp: // said once for each change
		c.stamp = stamp
		c.log.Error("the changed certificate cannot be used; the one from before stays", "error", err)
	}
	return c.pair, nil
}

// stampOf changes when one of the files does.
func stampOf(files ...string) (string, error) {
	stamp := ""
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			return "missing", err
		}
		stamp += fmt.Sprint(info.ModTime().Format(time.RFC3339Nano), info.Size(), " ")
	}
	return stamp, nil
}
