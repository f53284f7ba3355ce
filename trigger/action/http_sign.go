package action

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
)

// signSpec signs what is sent with a secret that the receiver has too.
type signSpec struct {
	As     string     `yaml:"as"`
	Secret secret.Ref `yaml:"secret"`
}

// signers are the ways to sign. Each sets the headers of a call, whose key is
// the same for every try.
var signers = map[string]func(c *call, key, secret string) error{
	"github":            signAsGitHub,
	"standard-webhooks": signAsStandard,
}

func (s *signSpec) check() error {
	if s == nil {
		return nil
	}
	errs := []error{present("sign.secret", s.Secret)}
	if s.Secret.IsZero() {
		errs = append(errs, trigger.Field("sign.secret", "is missing: {env: NAME} or {file: PATH}"))
	}
	if _, ok := signers[s.As]; !ok {
		errs = append(errs, trigger.Field("sign.as", "must be %s, not %q", strings.Join(slices.Sorted(maps.Keys(signers)), " or "), s.As))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := s.sign(newCall(nil, "", "", ""), ""); err != nil {
		return trigger.Field("sign.secret", "%w", err)
	}
	return nil
}

func (s *signSpec) sign(c *call, key string) error {
	if s == nil {
		return nil
	}
	text, err := s.Secret.Read()
	if err != nil {
		return fmt.Errorf("the secret to sign with: %w", err)
	}
	c.secrets = append(c.secrets, text)
	return signers[s.As](c, key, text)
}

// signAsGitHub follows "Validating webhook deliveries" of GitHub's
// documentation, which many receivers understand.
func signAsGitHub(c *call, _, secret string) error {
	c.header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sum([]byte(secret), string(c.body))))
	return nil
}

// signAsStandard follows "Signature scheme" of the Standard Webhooks
// specification.
func signAsStandard(c *call, key, secret string) error {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		return errors.New("must be whsec_ and base64, as the specification of Standard Webhooks writes secrets")
	}
	at := strconv.FormatInt(time.Now().Unix(), 10)
	c.header.Set("Webhook-Id", key)
	c.header.Set("Webhook-Timestamp", at)
	c.header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(sum(raw, key+"."+at+"."+string(c.body))))
	return nil
}

func sum(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
