package action

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
	"github.com/dockbell/dockbell/trigger/secret"
)

// githubApp is a GitHub App that is installed for the repository.
type githubApp struct {
	ID           string     `yaml:"id"`           // App ID or Client ID
	Installation int64      `yaml:"installation"` // left out: that of the repository
	Key          secret.Ref `yaml:"key"`          // its private key, in PEM form
}

// appToken is a token of an installation.
type appToken struct {
	text    string
	expires time.Time
}

const (
	appSkew   = time.Minute     // by which GitHub's clock may be behind ours
	appTime   = 8 * time.Minute // for which an app's own token is good; GitHub takes at most 10
	tokenRest = 5 * time.Minute // that an installation's token must have left
)

func (p *githubApp) check() error {
	if p == nil {
		return nil
	}
	var errs []error
	if p.ID == "" {
		errs = append(errs, trigger.Field("app.id", "is missing: the App ID or Client ID on the app's page"))
	}
	if p.Installation < 0 {
		errs = append(errs, trigger.Field("app.installation", "must be the number at the end of the installation's URL"))
	}
	if _, err := p.key(); err != nil {
		errs = append(errs, trigger.Field("app.key", "%w", err))
	}
	return errors.Join(errs...)
}

func (p *githubApp) key() (*rsa.PrivateKey, error) {
	text, err := p.Key.Read()
	if err != nil {
		return nil, err
	}
	wrong := fmt.Errorf("%s is no RSA private key in PEM form, as GitHub gives out for an app", p.Key)
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, wrong
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if key, ok := any.(*rsa.PrivateKey); err == nil && ok {
		return key, nil
	}
	return nil, wrong
}

// jwt is a token of the app itself, as "Generating a JSON Web Token (JWT) for a
// GitHub App" describes it.
func (p *githubApp) jwt(now time.Time) (string, error) {
	key, err := p.key()
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	claims, err := json.Marshal(map[string]any{"iss": p.ID, "iat": now.Add(-appSkew).Unix(), "exp": now.Add(appTime).Unix()})
	if err != nil {
		return "", err
	}
	text := encode([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encode(claims)
	hash := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, hash[:])
	return text + "." + encode(signature), err
}

// token is what the action shows GitHub. Whatever goes wrong with it, nothing
// has been done.
func (a *github) token(ctx context.Context) (string, error) {
	if a.spec.App == nil {
		token, err := a.spec.Token.Read()
		if err != nil {
			return "", trigger.Retry(err)
		}
		return token, nil
	}
	place := a.who() + " " + a.spec.Repository
	a.shared.mu.Lock()
	kept := a.shared.tokens[place]
	a.shared.mu.Unlock()
	if time.Until(kept.expires) > tokenRest {
		return kept.text, nil
	}
	fresh, err := a.installationToken(ctx)
	if err != nil {
		return "", err
	}
	a.shared.mu.Lock()
	defer a.shared.mu.Unlock()
	if a.shared.tokens == nil {
		a.shared.tokens = map[string]appToken{}
	}
	a.shared.tokens[place] = fresh
	return fresh.text, nil
}

// forget drops a token that GitHub does not take any more.
func (a *github) forget(token string) {
	a.shared.mu.Lock()
	defer a.shared.mu.Unlock()
	for place, kept := range a.shared.tokens {
		if kept.text == token {
			delete(a.shared.tokens, place)
		}
	}
}

// installationToken gets a token that is good for the one repository.
func (a *github) installationToken(ctx context.Context) (appToken, error) {
	const advice = "is the app installed for the repository, and are id and key its own?"
	jwt, err := a.spec.App.jwt(time.Now())
	if err != nil {
		return appToken{}, trigger.Retry(err)
	}
	installation := a.spec.App.Installation
	if installation == 0 {
		var found struct {
			ID int64 `json:"id"`
		}
		got, err := a.sendAs(ctx, jwt, http.MethodGet, "/repos/"+a.spec.Repository+"/installation", nil, nil)
		if err == nil {
			err = got.decode(&found, advice)
		}
		if err != nil {
			return appToken{}, err
		}
		installation = found.ID
	}
	_, name, _ := strings.Cut(a.spec.Repository, "/")
	got, err := a.sendAs(ctx, jwt, http.MethodPost, "/app/installations/"+strconv.FormatInt(installation, 10)+"/access_tokens",
		map[string]any{"repositories": []string{name}}, func(c *call) { c.harmless = true }) // one token more
	if err != nil {
		return appToken{}, err
	}
	var says struct {
		Token   string    `json:"token"`
		Expires time.Time `json:"expires_at"`
	}
	if err := got.decode(&says, advice); err != nil {
		return appToken{}, err
	}
	if says.Token == "" {
		return appToken{}, errors.New("GitHub gave the app's installation no token")
	}
	return appToken{says.Token, says.Expires}, nil
}
