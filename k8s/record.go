package k8s

import (
	"context"
	"os"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What an Event says has happened to an object.
const (
	imageUpdated    = "ImageUpdated"
	imageRolledBack = "ImageRolledBack"
	rolloutFailed   = "RolloutFailed"
)

const (
	// eventRate is how many Events a second are written to a cluster: they must
	// not take the API server's time from the deploys that they are about.
	// eventBacklog is how many may wait for that; more are dropped.
	eventRate    = 5
	eventBacklog = 1000

	// mostNote is as long as the API server lets the text of an Event be.
	mostNote = 1024
)

// recorder writes Events beside the work: nobody waits for them, and none that
// cannot be written changes anything.
type recorder struct {
	cluster *cluster
	host    string
	waiting chan *eventsv1.Event
}

// startRecorder starts one that ends with the watches.
func startRecorder(c *cluster) *recorder {
	r := &recorder{cluster: c, waiting: make(chan *eventsv1.Event, eventBacklog)}
	if r.host, _ = os.Hostname(); r.host == "" {
		r.host = fieldManager
	}
	go r.run(c.ctx)
	return r
}

func (r *recorder) run(ctx context.Context) {
	limit := rate.NewLimiter(eventRate, 1)
	for limit.Wait(ctx) == nil {
		select {
		case <-ctx.Done():
		case e := <-r.waiting:
			r.write(ctx, e)
		}
	}
}

func (r *recorder) write(ctx context.Context, e *eventsv1.Event) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r.cluster.mu.Lock()
	api, err := r.cluster.client(eventsv1.SchemeGroupVersion, false)
	r.cluster.mu.Unlock()
	if err == nil {
		err = api.Post().Namespace(e.Namespace).Resource("events").Body(e).Do(ctx).Error()
	}
	if err != nil {
		r.cluster.log.Debug("cannot write an Event; for that a Role must have "+roleRule(eventsv1.GroupName, "events", "create"), "namespace", e.Namespace, "name", e.Regarding.Name, "error", err)
	}
}

// tell has an Event written about a workload.
func (res *resource) tell(w *workload, reason, note string) {
	e := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: fieldManager + "-", Namespace: w.Namespace}, EventTime: metav1.NewMicroTime(time.Now()),
		ReportingController: fieldManager, ReportingInstance: res.events.host, Action: "SetImage", Reason: reason, Type: corev1.EventTypeNormal, Note: cut(note, mostNote),
		Regarding: corev1.ObjectReference{APIVersion: res.gvk.GroupVersion().String(), Kind: res.gvk.Kind, Namespace: w.Namespace, Name: w.Name, UID: w.UID, ResourceVersion: w.ResourceVersion},
	}
	if reason != imageUpdated {
		e.Type = corev1.EventTypeWarning
	}
	select {
	case res.events.waiting <- e:
	default:
		res.log.Debug("too many Events wait to be written; one is dropped", "namespace", w.Namespace, "name", w.Name)
	}
}
