package source

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json/v1"

	"github.com/dockbell/dockbell/trigger"
)

// aliyunDelivery is one of the two forms in which Alibaba Cloud Container
// Registry tells of a push: the trigger of a repository (Container Registry,
// "Manage triggers", section "Notification payload"; personal and Enterprise
// edition send the same) or an event of EventBridge in CloudEvents
// (EventBridge, "Container Registry events").
type aliyunDelivery struct {
	PushData *struct {
		Digest   string          `json:"digest"`
		PushedAt json.RawMessage `json:"pushed_at"`
		Tag      string          `json:"tag"`
	} `json:"push_data"`
	Repository *struct {
		Name         string `json:"name"`
		Namespace    string `json:"namespace"`
		Region       string `json:"region"`
		RepoFullName string `json:"repo_full_name"`
	} `json:"repository"`

	SpecVersion string             `json:"specversion"`
	ID          string             `json:"id"`
	Source      string             `json:"source"`
	Type        string             `json:"type"`
	Time        json.RawMessage    `json:"time"`
	Region      string             `json:"aliyunregionid"`
	Data        each[aliyunResult] `json:"data"`
}

// aliyunResult is the data of an event of EventBridge.
type aliyunResult struct {
	InstanceName      string
	RepoNamespaceName string
	RepoName          string
	Tag               string
	Digest            string
	RegionID          string `json:"RegionId"`
}

// aliyunIgnored are the events of EventBridge that start nothing. A build ends
// with a push, which is reported by itself.
var aliyunIgnored = map[string]string{
	"cr:Artifact:BuildCompleted":           "build",
	"cr:Artifact:ScanCompleted":            "scan",
	"cr:Artifact:SigningCompleted":         "signature",
	"cr:Artifact:SynchronizationCompleted": "replication",
}

// chinaTime is what a pushed_at without a zone is in, whatever the region.
var chinaTime = time.FixedZone("UTC+8", 8*60*60)

func parseAliyun(_ http.Header, body []byte) ([]trigger.Event, error) {
	e, err := aliyunEvent(body)
	if err != nil {
		return nil, fmt.Errorf(`expected a push of Alibaba Cloud Container Registry, {"push_data": {…}, "repository": {…}}, or its event of EventBridge: %w`, err)
	}
	return []trigger.Event{e}, nil
}

func aliyunEvent(body []byte) (trigger.Event, error) {
	var d aliyunDelivery
	if err := readJSON(body, &d); err != nil {
		return trigger.Event{}, err
	}
	switch {
	case d.SpecVersion != "":
		return d.cloudEvent()
	case d.PushData == nil:
		return trigger.Event{}, errors.New("no push_data")
	case d.Repository == nil:
		return trigger.Event{}, errors.New("no repository")
	}
	r := d.Repository
	e := trigger.Event{OccurredAt: moment(d.PushData.PushedAt, chinaTime)}
	registry := aliyunHost("registry.", r.Region, ".aliyuncs.com")
	return aliyunPush(e, registry, cmp.Or(r.RepoFullName, r.Namespace+"/"+r.Name), d.PushData.Tag, d.PushData.Digest)
}

func (d aliyunDelivery) cloudEvent() (trigger.Event, error) {
	e := trigger.Event{ID: d.ID, OccurredAt: moment(d.Time, chinaTime)}
	data := d.Data.value
	repository := data.RepoNamespaceName + "/" + data.RepoName
	// EventBridge is there for the Enterprise edition only, whose hosts begin
	// with the name of the instance.
	registry := ""
	if data.InstanceName != "" {
		registry = aliyunHost(data.InstanceName+"-registry.", cmp.Or(data.RegionID, d.Region), ".cr.aliyuncs.com")
	}
	if d.Source == "acs.cr" && d.Type == "cr:Artifact:PushCompleted" {
		if d.Data.err != nil {
			return trigger.Event{}, fmt.Errorf("data: %w", d.Data.err)
		}
		return aliyunPush(e, registry, repository, data.Tag, data.Digest)
	}
	e.Ignored = "other-event"
	if reason, ok := aliyunIgnored[d.Type]; ok && d.Source == "acs.cr" {
		e.Ignored = reason
	}
	return named(e, registry, repository, data.Tag, data.Digest), nil
}

func aliyunPush(e trigger.Event, registry, repository, tag, digest string) (trigger.Event, error) {
	img, err := trigger.NewImage(registry, repository, tag, digest)
	if err != nil {
		return e, err
	}
	e.Action, e.Ignored = trigger.Push, manifest{tag: img.Tag}.ignored()
	return named(e, registry, repository, tag, digest), nil
}

var aliyunRegion = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// aliyunHost makes the registry's host of the region, or "" when there is no
// such: the body never has the host itself. It is right for the common case;
// `registry` in the configuration is for the others.
func aliyunHost(before, region, after string) string {
	if !aliyunRegion.MatchString(region) {
		return ""
	}
	return host(before + region + after)
}

// recogniseAliyun tells triggers from Docker Hub's webhook, whose form they
// were made after, and the events of EventBridge by their source.
func recogniseAliyun(l look) bool {
	if l.has("specversion") {
		return strings.HasPrefix(l.text("source"), "acs.") || l.has("aliyunaccountid") || l.has("aliyuneventbusname")
	}
	if l.list || !l.has("push_data", "repository") {
		return false
	}
	r := l.inner("repository")
	if r.has("repo_name") {
		return false // Docker Hub's name for the full name
	}
	return r.has("repo_full_name") || r.has("region") || r.has("repo_origin_type") || l.inner("push_data").has("digest")
}

var aliyunRegistry = regexp.MustCompile(`\.([a-z0-9-]+)(?:\.cr)?\.aliyuncs\.com$`)

func sampleAliyun(img trigger.Image, at time.Time) (http.Header, []byte) {
	region := "cn-hangzhou"
	if m := aliyunRegistry.FindStringSubmatch(img.Registry); m != nil {
		region = m[1]
	}
	namespace, name, _ := strings.Cut(img.Repository, "/")
	body, _ := json.Marshal(map[string]any{
		"push_data": map[string]string{
			"digest":    cmp.Or(img.Digest, inventDigest()),
			"pushed_at": at.In(chinaTime).Format(time.DateTime),
			"tag":       img.Tag,
		},
		"repository": map[string]string{
			"date_created":             at.Add(-90 * 24 * time.Hour).In(chinaTime).Format(time.DateTime),
			"name":                     name,
			"namespace":                namespace,
			"region":                   region,
			"repo_authentication_type": "NO_CERTIFIED",
			"repo_full_name":           img.Repository,
			"repo_origin_type":         "NO_CERTIFIED",
			"repo_type":                "PRIVATE",
		},
	})
	return http.Header{"Content-Type": {"application/json"}}, body
}
