package source

import (
	"net/http"
	"strings"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// tcrDomain is where the instances of Tencent's registry are. An instance
// with a domain of its own cannot be told from Harbor.
const tcrDomain = ".tencentcloudcr.com"

// parseTCR parses what a trigger of Tencent Container Registry, Enterprise
// Edition, posts (Tencent Cloud documentation, "Managing Triggers", section
// on the logs): Harbor's form with the names that Harbor had before 2.0.
func parseTCR(_ http.Header, body []byte) ([]trigger.Event, error) {
	return parseHarborForm("an event of Tencent Container Registry", body)
}

func recogniseTCR(l look) bool {
	return hasHarborForm(l) && strings.HasSuffix(harborHost(l), tcrDomain)
}

func sampleTCR(img trigger.Image, at time.Time) (http.Header, []byte) {
	if !strings.HasSuffix(img.Registry, tcrDomain) {
		img.Registry = "yard" + tcrDomain
	}
	return sampleHarborForm("pushImage", img, at)
}
