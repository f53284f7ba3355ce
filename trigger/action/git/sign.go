package git

import (
	"bytes"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"golang.org/x/crypto/ssh"
)

// Key is a private key of SSH.
type Key = ssh.Signer

// ParseKey reads a private key of SSH. The passphrase is "" for a key that has
// none.
func ParseKey(key, passphrase string) (Key, error) {
	text := []byte(key + "\n")
	var missing *ssh.PassphraseMissingError
	signer, err := ssh.ParsePrivateKey(text)
	if errors.As(err, &missing) && passphrase == "" {
		return nil, errors.New("the key is encrypted: give its passphrase, too")
	} else if errors.As(err, &missing) {
		signer, err = ssh.ParsePrivateKeyWithPassphrase(text, []byte(passphrase))
	}
	if err != nil {
		return nil, errors.New("is not a private key of SSH that can be read, as ssh-keygen makes it") // err may show a part of it
	}
	return signer, nil
}

// SignSSH signs with a key of SSH, as `git commit` does with gpg.format=ssh.
func SignSSH(key Key) Signer {
	const magic, namespace, hash = "SSHSIG", "git", "sha512"
	return func(commit []byte) (string, error) {
		sum := sha512.Sum512(commit)
		// PROTOCOL.sshsig of OpenSSH says what is signed, and how it is written.
		signed := append([]byte(magic), ssh.Marshal(struct{ Namespace, Reserved, Hash, Sum string }{namespace, "", hash, string(sum[:])})...)
		var signature *ssh.Signature
		var err error
		if with, ok := key.(ssh.AlgorithmSigner); ok && key.PublicKey().Type() == ssh.KeyAlgoRSA {
			signature, err = with.SignWithAlgorithm(rand.Reader, signed, ssh.KeyAlgoRSASHA512)
		} else {
			signature, err = key.Sign(rand.Reader, signed)
		}
		if err != nil {
			return "", fmt.Errorf("signing: %w", err)
		}
		blob := append([]byte(magic), ssh.Marshal(struct {
			Version                                   uint32
			Key, Namespace, Reserved, Hash, Signature string
		}{1, string(key.PublicKey().Marshal()), namespace, "", hash, string(ssh.Marshal(signature))})...)
		return armour("SSH SIGNATURE", blob), nil
	}
}

// armour is what git expects: PEM without headers, at most 70 characters a line.
func armour(kind string, blob []byte) string {
	text := base64.StdEncoding.EncodeToString(blob)
	var lines strings.Builder
	for len(text) > 70 {
		lines.WriteString(text[:70] + "\n")
		text = text[70:]
	}
	return "-----BEGIN " + kind + "-----\n" + lines.String() + text + "\n-----END " + kind + "-----\n"
}

// ParseGPG reads an exported private key of GPG.
func ParseGPG(key, passphrase string) (Signer, error) {
	ring, err := openpgp.ReadArmoredKeyRing(strings.NewReader(key + "\n"))
	if err != nil || len(ring) != 1 || ring[0].PrivateKey == nil {
		return nil, errors.New("is not one private key of GPG, as `gpg --armor --export-secret-keys NAME` prints it")
	}
	entity := ring[0]
	if entity.PrivateKey.Encrypted {
		if passphrase == "" {
			return nil, errors.New("the key is encrypted: give its passphrase, too")
		}
		if err := entity.DecryptPrivateKeys([]byte(passphrase)); err != nil {
			return nil, errors.New("the passphrase is not that of the key")
		}
	}
	return func(commit []byte) (string, error) {
		var out bytes.Buffer
		if err := openpgp.ArmoredDetachSign(&out, entity, bytes.NewReader(commit), nil); err != nil {
			return "", fmt.Errorf("signing: %w", err)
		}
		return out.String() + "\n", nil
	}, nil
}
