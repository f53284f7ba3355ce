package k8s

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
)

// Nobody waits for an Event: neither when the API server does not answer, nor
// when too many wait for it already.
func TestEventsHoldNobodyUp(t *testing.T) {
	got := make(chan eventsv1.Event, 1)
	answer := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e eventsv1.Event
		_ = json.NewDecoder(r.Body).Decode(&e)
		select {
		case got <- e:
		default:
		}
		<-answer
	}))
	defer srv.Close()
	defer close(answer)
	r := resourceAt(t, srv.URL, "deployment")
	w, err := r.kind.view(web(shop + "v1.0.0"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range eventBacklog + 10 {
		r.tell(w, imageRolledBack, fmt.Sprint(i, " ", strings.Repeat("ä", mostNote)))
	}
	e := <-got
	if e.Regarding.Kind != "Deployment" || e.Regarding.Namespace != "prod" || e.Type != "Warning" || e.Namespace != "prod" || len(e.Note) > mostNote || !strings.HasPrefix(e.Note, "0 ä") {
		t.Errorf("%+v", e)
	}
}
