package source

import (
	"net/http"
	"regexp"
	"time"

	"github.com/dockbell/dockbell/trigger"
)

// swrHost knows the hosts of Huawei's registry. An instance with a domain of
// its own cannot be told from Harbor.
var swrHost = regexp.MustCompile(`\.myhuaweicloud\.(?:com|eu)(?::[0-9]+)?$`)

// parseSWR parses what a trigger of Huawei's SoftWare Repository for
// Container, Enterprise Edition, posts. Huawei documents how to make a trigger
// (SWR Enterprise Edition API Reference, "Creating a Trigger") and its one
// event, PUSH_ARTIFACT, which is Harbor's, but not the body.
func parseSWR(_ http.Header, body []byte) ([]trigger.Event, error) {
	return parseHarborForm("an event of Huawei SWR", body)
}

func recogniseSWR(l look) bool {
	return hasHarborForm(l) && swrHost.MatchString(harborHost(l))
}

func sampleSWR(img trigger.Image, at time.Time) (http.Header, []byte) {
	if !swrHost.MatchString(img.Registry) {
		img.Registry = "yard.swr-pro.myhuaweicloud.com"
	}
	return sampleHarborForm("PUSH_ARTIFACT", img, at)
}
