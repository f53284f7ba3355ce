package k8s

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTrouble(t *testing.T) {
	waits := func(reason, message string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: "web", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}
	}
	crashes := waits("CrashLoopBackOff", "back-off 40s restarting failed container")
	crashes.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}
	ended := corev1.ContainerStatus{Name: "web", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: "no\n  database\n"}}}
	runs := corev1.ContainerStatus{Name: "web", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	migrated := corev1.ContainerStatus{Name: "migrate", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}}
	migrates := waits("ImagePullBackOff", "no such image")
	migrates.Name = "migrate"
	sidecar := runs
	sidecar.Name, sidecar.Ready = "log", true
	condition := func(kind corev1.PodConditionType, status corev1.ConditionStatus, reason, message string) []corev1.PodCondition {
		return []corev1.PodCondition{{Type: kind, Status: status, Reason: reason, Message: message}}
	}
	of := func(containers ...corev1.ContainerStatus) corev1.PodStatus {
		return corev1.PodStatus{ContainerStatuses: containers, Conditions: condition(corev1.PodReady, corev1.ConditionFalse, "ContainersNotReady", "")}
	}
	long := "x" + strings.Repeat("ä", mostText)
	for name, test := range map[string]struct {
		status corev1.PodStatus
		want   string
	}{
		"no such image":              {of(sidecar, waits("ImagePullBackOff", `Back-off pulling image "web:v2"`)), `container web: ImagePullBackOff: Back-off pulling image "web:v2"`},
		"first look at no image":     {of(waits("ErrImagePull", "not found")), "container web: ErrImagePull: not found"},
		"image that is none":         {of(waits("InvalidImageName", "")), "container web: InvalidImageName"},
		"missing secret":             {of(waits("CreateContainerConfigError", `secret "db" not found`)), `container web: CreateContainerConfigError: secret "db" not found`},
		"crashes":                    {of(crashes), "container web: CrashLoopBackOff, last exit code 137 (OOMKilled)"},
		"crashes for the first time": {of(waits("CrashLoopBackOff", "back-off")), "container web: CrashLoopBackOff: back-off"},
		"has just crashed":           {of(ended), "container web: exit code 1 (Error): no database"},
		"its init container":         {corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{migrates}, ContainerStatuses: []corev1.ContainerStatus{waits("PodInitializing", "")}}, "container migrate: ImagePullBackOff: no such image"},
		"behind its init container":  {corev1.PodStatus{InitContainerStatuses: []corev1.ContainerStatus{migrated}, ContainerStatuses: []corev1.ContainerStatus{crashes}}, "container web: CrashLoopBackOff, last exit code 137 (OOMKilled)"},
		"no room":                    {corev1.PodStatus{Conditions: condition(corev1.PodScheduled, corev1.ConditionFalse, "Unschedulable", "0/3 nodes are available")}, "Unschedulable: 0/3 nodes are available"},
		"evicted":                    {corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "low on memory"}, "Evicted: low on memory"},
		"probe fails":                {of(sidecar, runs), "container web runs and is not ready"},
		"volume does not come":       {of(waits("ContainerCreating", "")), "container web: ContainerCreating"},
		"nothing known":              {corev1.PodStatus{}, "it is not ready"},
		"ready":                      {corev1.PodStatus{Conditions: condition(corev1.PodReady, corev1.ConditionTrue, "", "")}, ""},
		"a long story":               {of(waits("ErrImagePull", long)), "container web: ErrImagePull: " + long[:mostText-3] + "…"},
	} {
		if got := trouble(&corev1.Pod{Status: test.status}); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	gone := corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{Time: noon}}}
	if got := trouble(&gone); got != "" {
		t.Errorf("about to go: %q", got)
	}
}

// Of many pods a few are told of, and only those of the rollout.
func TestBroken(t *testing.T) {
	var list corev1.PodList
	for i := range 2 * podsNamed {
		list.Items = append(list.Items, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("new-", i)}}, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("old-", i)}})
	}
	list.TypeMeta = metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}
	status := http.StatusOK
	var asked string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		if status == http.StatusOK {
			reply(w, status, list)
			return
		}
		reply(w, status, failure(status, metav1.StatusReasonForbidden, "no", 0))
	}))
	defer srv.Close()
	c, err := clustersAt(t, srv.URL).connect(DefaultCluster)
	if err != nil {
		t.Fatal(err)
	}
	ours := func(p *corev1.Pod) bool { return strings.HasPrefix(p.Name, "new-") }
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	text, names := c.broken(t.Context(), "prod", selector, ours)
	want := "pod new-0: it is not ready; pod new-1: it is not ready; pod new-2: it is not ready; 3 more like these"
	if text != want || !slices.Equal(names, []string{"new-0", "new-1", "new-2"}) {
		t.Errorf("%q, %v", text, names)
	}
	if asked != "/api/v1/namespaces/prod/pods?labelSelector=app%3Dweb&limit=500" {
		t.Errorf("asked for %s", asked)
	}
	status = http.StatusForbidden
	if text, _ := c.broken(t.Context(), "prod", selector, ours); text != "to know about its pods, a Role in namespace prod must allow list on pods: {apiGroups: [\"\"], resources: [pods], verbs: [list]}" {
		t.Errorf("forbidden: %q", text)
	}
	srv.Close()
	if text, _ := c.broken(t.Context(), "prod", selector, ours); !strings.HasPrefix(text, "its pods cannot be listed: ") {
		t.Errorf("no server: %q", text)
	}
}
