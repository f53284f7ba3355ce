package source

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/v1"
)

func TestEventGridHandshake(t *testing.T) {
	const long = `{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "c0de", "validationUrl": "https://evil.example/"}}`
	const push = `{"eventType": "Microsoft.ContainerRegistry.ImagePushed", "data": {"action": "push", "target": {"repository": "a", "tag": "1"}}}`
	tests := []struct {
		name, header, body, code string
	}{
		{"type in header and body", "SubscriptionValidation", "[" + long + "]", "c0de"},
		{"type in the body only", "", "[" + long + "]", "c0de"},
		{"single object", "", long, "c0de"},
		{"CloudEvents", "", strings.Replace(long, "eventType", "type", 1), "c0de"},
		{"short type", "SubscriptionValidation", "[" + strings.Replace(long, "Microsoft.EventGrid.", "", 1) + "]", "c0de"},
		{"header in another case", "subscriptionvalidation", "[" + long + "]", "c0de"},
		{"code with quotes", "", strings.Replace(long, "c0de", `a\"b\\u0000`, 1), "a\"b\\u0000"},
		{"beside a push", "", "[" + long + "," + push + "]", ""},
		{"push", "Notification", "[" + push + "]", ""},
		{"push, header lies", "SubscriptionValidation", "[" + push + "]", ""},
		{"no code", "SubscriptionValidation", `[{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {}}]`, ""},
		{"no data", "SubscriptionValidation", `[{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent"}]`, ""},
		{"word in a tag", "Notification", strings.Replace("["+push+"]", `"1"`, `"SubscriptionValidationEvent"`, 1), ""},
		{"empty list", "SubscriptionValidation", `[]`, ""},
		{"not JSON", "SubscriptionValidation", `SubscriptionValidationEvent`, ""},
		{"empty", "SubscriptionValidation", ``, ""},
	}
	s := open(t, "azure-eventgrid")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			if tt.header != "" {
				h.Set("aeg-event-type", tt.header)
			}
			r := s.Handshake(h, []byte(tt.body))
			if tt.code == "" {
				if r != nil {
					t.Fatalf("answered %s", r.Body)
				}
				return
			}
			if r == nil {
				t.Fatal("not answered")
			}
			var answer map[string]string
			if err := json.Unmarshal(r.Body, &answer); err != nil {
				t.Fatal(err)
			}
			if r.Status != 200 || r.Header.Get("Content-Type") != "application/json" || len(answer) != 1 || answer["validationResponse"] != tt.code {
				t.Errorf("answered %d %v %s", r.Status, r.Header, r.Body)
			}
		})
	}
	if r := open(t, "dockerhub").Handshake(nil, []byte(long)); r != nil {
		t.Errorf("dockerhub answered %s", r.Body)
	}
}

func TestEventGridOptions(t *testing.T) {
	tests := []struct{ origin, rate, wantOrigin, wantRate string }{
		{"eventgrid.azure.net", "120", "eventgrid.azure.net", "120"},
		{"eventgrid.azure.net", "", "eventgrid.azure.net", "*"},
		{"eventgrid.azure.net", "many", "eventgrid.azure.net", "*"},
		{"eventgrid.azure.net", "-1", "eventgrid.azure.net", "*"},
		{"eventgrid.azure.net", "0", "eventgrid.azure.net", "*"},
		{"", "120", "", ""},
		{"*", "120", "", ""},
		{"https://evil.example", "120", "", ""},
		{"evil.example\r\nX: y", "120", "", ""},
		{"a b", "120", "", ""},
		{strings.Repeat("a", 300), "120", "", ""},
	}
	s := open(t, "azure-eventgrid")
	for _, tt := range tests {
		h := http.Header{}
		h.Set("WebHook-Request-Origin", tt.origin)
		h.Set("WebHook-Request-Rate", tt.rate)
		r := s.Options(h)
		if r == nil || r.Status != 200 || r.Header.Get("Allow") != "POST, OPTIONS" {
			t.Fatalf("%q: answered %+v", tt.origin, r)
		}
		if o, rate := r.Header.Get("WebHook-Allowed-Origin"), r.Header.Get("WebHook-Allowed-Rate"); o != tt.wantOrigin || rate != tt.wantRate {
			t.Errorf("%q at %q: allowed %q at %q", tt.origin, tt.rate, o, rate)
		}
	}
	if r := open(t, "distribution").Options(http.Header{}); r != nil {
		t.Errorf("distribution answered %+v", r)
	}
}

func TestNotEventGrid(t *testing.T) {
	refused(t, "azure-eventgrid", map[string]string{
		"empty object":   `{}`,
		"no type":        `[{"id": "1", "data": {"action": "push"}}]`,
		"no objects":     `[1, null, "x", []]`,
		"native webhook": `{"id": "1", "action": "push", "target": {"repository": "a", "tag": "1"}, "request": {"host": "dockyard.azurecr.io"}}`,
		"data no object": `[{"eventType": "ImagePushed", "data": "x"}]`,
	})
}

func TestRecogniseEventGrid(t *testing.T) {
	for name, d := range cases(t, "azure-eventgrid") {
		l := glance(d.header, d.body)
		if string(bytes.TrimSpace(d.body)) != "[]" && !recogniseEventGrid(l) {
			t.Errorf("%s is not recognised", name)
		}
		// Without a body there is still the header.
		l = glance(http.Header{"Aeg-Event-Type": {"Notification"}}, []byte("[]"))
		if !recogniseEventGrid(l) {
			t.Error("the header is not recognised")
		}
	}
	for name, body := range map[string]string{
		"native webhook":     `{"id": "1", "action": "push", "target": {"repository": "a", "tag": "1"}, "request": {"host": "dockyard.azurecr.io"}}`,
		"another CloudEvent": `{"specversion": "1.0", "type": "com.dockyard.pushed", "source": "/microsoft", "id": "1", "data": {}}`,
		"empty":              ``,
	} {
		if recogniseEventGrid(glance(http.Header{}, []byte(body))) {
			t.Errorf("%s is recognised", name)
		}
	}
	custom := glance(http.Header{"Aeg-Event-Type": {"Notification"}}, []byte(`{"specversion": "1.0", "type": "com.dockyard.pushed", "source": "x", "id": "1"}`))
	if recogniseEventGrid(custom) {
		t.Error("somebody's own event, routed by Event Grid, is recognised")
	}
	other := glance(http.Header{}, []byte(`{"specversion": "1.0", "type": "Microsoft.Storage.BlobCreated", "source": "/subscriptions/1/providers/Microsoft.Storage/storageAccounts/yard", "id": "1"}`))
	if !recogniseEventGrid(other) {
		t.Error("the event of another of Azure's services is not recognised")
	}
}

func TestSampleEventGrid(t *testing.T) {
	roundTrip(t, "azure-eventgrid", "")
	roundTrip(t, "azure-eventgrid", "harbour.azurecr.cn")
}

func FuzzParseEventGrid(f *testing.F) { fuzzParse(f, "azure-eventgrid") }
