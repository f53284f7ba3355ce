package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"
)

// sign is the HMAC of a body as a hex header with its algorithm.
func sign(body []byte, secret string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// sample is a push as a sender writes it.
func sample(t *testing.T, sender, repository, tag string) []byte {
	t.Helper()
	switch sender {
	case "dockerhub":
		return fmt.Appendf(nil, `{"push_data":{"pushed_at":1.7637e+09,"pusher":"ci","tag":%q},"repository":{"repo_name":%q}}`, tag, repository)
	case "aliyun":
		return fmt.Appendf(nil, `{"push_data":{"digest":%q,"pushed_at":"2026-11-21 16:00:00","tag":%q},"repository":{"region":"cn-hangzhou","repo_full_name":%q}}`, digestOf(2), tag, repository)
	case "azure-eventgrid":
		return fmt.Appendf(nil, `[{"id":"a1","eventType":"Microsoft.ContainerRegistry.ImagePushed","eventTime":"2026-11-21T08:00:00Z","data":{"action":"push","target":{"mediaType":"application/vnd.oci.image.index.v1+json","digest":%q,"repository":%q,"tag":%q},"request":{"host":"shop.azurecr.io"}}}]`, digestOf(4), repository, tag)
	}
	t.Fatalf("no sample of %s", sender)
	return nil
}
