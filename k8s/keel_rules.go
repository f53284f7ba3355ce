package k8s

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	"github.com/dockbell/dockbell/trigger"
)

// KeelOptions say what the workloads do not.
type KeelOptions struct {
	Schedule string // of polling where a workload names none; "" is keel's own
	Prefix   string // of the names of rules

	// Follows: the rules are made again whenever a workload changes, so that
	// nothing in them is fixed.
	Follows bool
}

// keelUsualSchedule is when keel asks registries if nobody says otherwise.
const keelUsualSchedule = "@every 1m"

// Keel is what keel did, in the words of dockbell.
type Keel struct {
	Rules      []KeelRule
	Polls      []KeelPoll
	Registries []KeelRegistry
	Left       []string // what keel does not update, though it looks as if it should, and why
	General    []string // what differs for all
}

// KeelRule does what keel did with the images of one repository in one
// workload. Its tags are those of a rule in the configuration.
type KeelRule struct {
	Name    string        `yaml:"name,omitempty"`
	Repo    string        `yaml:"repo"`
	Tag     string        `yaml:"tag,omitempty"`
	Semver  string        `yaml:"semver,omitempty"`
	Approve *KeelApproval `yaml:"approve,omitempty,flow"`
	Actions []KeelAction  `yaml:"actions"`

	Workload string   `yaml:"-"`
	Policy   string   `yaml:"-"`
	Polled   bool     `yaml:"-"` // its registry is asked; it need not send
	Notes    []string `yaml:"-"` // what differs from keel
}

// KeelApproval is the key approve of a rule.
type KeelApproval struct {
	Count  int    `yaml:"count"`
	Within string `yaml:"within"`
}

// KeelAction is a deploy.
type KeelAction struct {
	Kubernetes KeelDeploy `yaml:"kubernetes,flow"`
}

// KeelDeploy are the parameters of a deploy.
type KeelDeploy struct {
	Target    string        `yaml:"target"`
	Namespace string        `yaml:"namespace"`
	Container string        `yaml:"container"`
	Order     trigger.Order `yaml:"order,omitempty"`
}

// KeelPoll is a source that asks registries for what keel asked them.
type KeelPoll struct {
	Name         string   `yaml:"-"`
	Type         string   `yaml:"type"`
	Schedule     string   `yaml:"schedule"`
	Repositories []string `yaml:"repositories"`
	Tags         string   `yaml:"tags,omitempty"`
}

// KeelRegistry says how a registry that is asked knows us.
type KeelRegistry struct {
	Host       string         `yaml:"host"`
	PullSecret KeelPullSecret `yaml:"pullSecret,flow"`
}

// KeelPullSecret names a secret of the cluster.
type KeelPullSecret struct {
	Namespace string `yaml:"namespace"`
	Name      string `yaml:"name"`
}

// TranslateKeel makes rules of workloads, in the order of their names: the same
// workloads give the same, in whatever order they come.
func TranslateKeel(workloads []KeelWorkload, o KeelOptions) Keel {
	o.Schedule = cmp.Or(o.Schedule, keelUsualSchedule)
	t := translation{o: o, names: map[string]bool{}, polls: map[pollKey]*asked{}, secrets: map[string]KeelPullSecret{}, general: map[string]bool{}}
	sorted := slices.SortedFunc(slices.Values(workloads), func(a, b KeelWorkload) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
	})
	for _, w := range sorted {
		t.workload(&w)
	}
	return t.result()
}

// pollKey is what the repositories of one poller share. Those of rules that
// take any tag are only asked for the one that is there.
type pollKey struct{ schedule, only string }

// asked are the repositories and expressions for tags of one poller.
type asked struct{ repositories, tags []string }

type translation struct {
	o       KeelOptions
	keel    Keel
	names   map[string]bool // of rules, and of sources
	polls   map[pollKey]*asked
	secrets map[string]KeelPullSecret // by host
	general map[string]bool
}

// What differs for all rules of a kind. keelGeneral is their order.
const (
	onlyForward = "A push that is older than what runs, or of a lower version, changes nothing; with glob, regexp and force keel goes back, too."
	sameVersion = "A version that is pushed again with other content is rolled out once more; keel looks at the version alone."
	firstLook   = "What a registry has when it is first asked starts nothing; keel updates to it at once."
	voters      = "Of pushes that wait for approval only the newest goes on, and one that nobody approves in time is over; keel asks for each, and again when it next looks."
)

var keelGeneral = []string{onlyForward, sameVersion, firstLook, voters}

func (t *translation) leave(w *KeelWorkload, format string, args ...any) {
	t.keel.Left = append(t.keel.Left, w.String()+": "+fmt.Sprintf(format, args...))
}

// workload makes the rules of one.
func (t *translation) workload(w *KeelWorkload) {
	policy := w.policy()
	if policy == "" || policy == "never" {
		if w.Misplaced {
			t.leave(w, "keel's keys are on its pod template, and keel reads those of the workload itself")
		}
		return
	}
	count, hours, notes, err := w.approvals()
	if err != nil {
		t.leave(w, "%v", err)
		return
	}
	notes = append(notes, w.unread()...)
	schedule, more := w.schedule(t.o.Schedule)
	notes = append(notes, more...)
	images, more := w.images()
	notes = append(notes, more...)
	if len(images) == 0 {
		t.leave(w, "none of its containers is looked after")
		return
	}
	var rules []*KeelRule
	for _, image := range images {
		rule, tags := t.image(w, image)
		if rule == nil {
			continue
		}
		if i := slices.IndexFunc(rules, rule.sameAs); i >= 0 {
			rules[i].Actions = append(rules[i].Actions, rule.Actions...)
			continue
		}
		if count > 0 {
			rule.Approve = &KeelApproval{count, fmt.Sprintf("%dh", hours)}
		}
		if schedule != "" {
			t.poll(w, rule, schedule, tags.poll)
		}
		rules = append(rules, rule)
	}
	for i, rule := range rules {
		rule.Actions = w.together(rule)
		rule.Name = t.name(w, rule, len(rules) > 1)
		if i == 0 {
			rule.Notes = append(notes, rule.Notes...)
		}
		t.general[onlyForward] = true
		t.general[sameVersion] = t.general[sameVersion] || slices.Contains([]trigger.Order{trigger.OrderSemver, trigger.OrderMinor, trigger.OrderPatch}, rule.Actions[0].Kubernetes.Order)
		t.general[voters] = t.general[voters] || count > 0
		t.keel.Rules = append(t.keel.Rules, *rule)
	}
}

// image makes the rule of one image; nil when keel never updates it.
func (t *translation) image(w *KeelWorkload, image KeelImage) (*KeelRule, keelTags) {
	named, err := trigger.ParseImage(image.Reference)
	if err != nil {
		t.leave(w, "%s: %v", image.Name, err)
		return nil, keelTags{}
	}
	if named.Digest != "" {
		named.Tag = "" // keel looks at the digest alone then
	} else {
		named.Tag = cmp.Or(named.Tag, latest)
	}
	tags, err := w.tags(named.Tag)
	if err != nil {
		t.leave(w, "%s: %v", image.Name, err)
		return nil, tags
	}
	notes := tags.notes
	if tags.semver != "" && !t.o.Follows {
		notes = append(notes, fmt.Sprintf("the range of `semver` is fixed, that of %s, which runs now; keel takes that of what runs at the time", named.Tag))
	} else if tags.tag != "" && tags.tag == tags.poll && w.policy() == "force" && !t.o.Follows {
		notes = append(notes, fmt.Sprintf("the tag is fixed: it is %s, also after somebody has deployed another", named.Tag))
	}
	return &KeelRule{
		Repo: named.Name(), Tag: tags.tag, Semver: tags.semver, Workload: w.String(), Policy: w.policy(), Notes: notes,
		Actions: []KeelAction{{KeelDeploy{Target: w.Kind + "/" + w.Name, Namespace: w.Namespace, Container: image.Name, Order: tags.order}}},
	}, tags
}

// sameAs reports whether two rules of a workload differ by the container alone.
func (r *KeelRule) sameAs(other *KeelRule) bool {
	return r.Repo == other.Repo && r.Tag == other.Tag && r.Semver == other.Semver &&
		r.Actions[0].Kubernetes.Order == other.Actions[0].Kubernetes.Order
}

// together makes one action of those for all places in a workload that hold
// the repository: what they change is one change then.
func (w *KeelWorkload) together(r *KeelRule) []KeelAction {
	if len(r.Actions) == 1 {
		return r.Actions
	}
	holding := 0
	for _, image := range w.Images {
		if named, err := trigger.ParseImage(image.Reference); err == nil && named.Name() == r.Repo {
			holding++
		}
	}
	if holding > len(r.Actions) {
		return r.Actions
	}
	all := r.Actions[0]
	all.Kubernetes.Container = "*"
	return []KeelAction{all}
}

// name gives a rule one of its own.
func (t *translation) name(w *KeelWorkload, r *KeelRule, several bool) string {
	container := r.Actions[0].Kubernetes.Container
	name := w.Namespace + "." + w.Name
	if w.Kind != "deployment" {
		name += "." + w.Kind
	}
	if several {
		name += "." + strings.ReplaceAll(container, "*", "all")
	}
	return t.unique(name, w.String(), r.Repo, r.Tag, container)
}

// nameLength is how long the name of a rule or a source may be.
const nameLength = 64

// unique makes a name of the whole of what it stands for where a short one is
// too long or taken.
func (t *translation) unique(name string, whole ...string) string {
	name = t.o.Prefix + name
	if len(name) > nameLength || t.names[name] {
		h := fnv.New32a()
		fmt.Fprintln(h, whole)
		sum := fmt.Sprintf("-%08x", h.Sum32())
		name = name[:min(len(name), nameLength-len(sum))] + sum
	}
	t.names[name] = true
	return name
}

// poll has the registry asked for the tags of a rule.
func (t *translation) poll(w *KeelWorkload, r *KeelRule, schedule, tags string) {
	key := pollKey{schedule: schedule}
	if r.Tag == "" {
		if tags == "" {
			r.Notes = append(r.Notes, "the registry is not asked: there is no tag to ask for")
			return
		}
		key.only = tags
		r.Notes = append(r.Notes, fmt.Sprintf("the registry is asked for the tag %s alone, as by keel", tags))
	}
	if t.polls[key] == nil {
		t.polls[key] = &asked{}
	}
	p := t.polls[key]
	p.repositories, p.tags = append(p.repositories, r.Repo), append(p.tags, tags)
	r.Polled, t.general[firstLook] = true, true
	t.secret(w, r)
}

// secret finds what the registry of a rule is asked with: keel tries the
// secrets of the workload one after the other, a registry here has one.
func (t *translation) secret(w *KeelWorkload, r *KeelRule) {
	secrets := w.PullSecrets
	if own, _ := w.value("imagePullSecret"); own != "" {
		secrets = append([]string{own}, secrets...)
	}
	if len(secrets) == 0 {
		return
	}
	host, _, _ := strings.Cut(r.Repo, "/")
	s := KeelPullSecret{w.Namespace, secrets[0]}
	if taken, ok := t.secrets[host]; ok && taken != s {
		r.Notes = append(r.Notes, fmt.Sprintf("%s is asked with the pull secret %s/%s and not with %s/%s: a registry has one", host, taken.Namespace, taken.Name, s.Namespace, s.Name))
		return
	}
	if len(secrets) > 1 {
		r.Notes = append(r.Notes, fmt.Sprintf("of its pull secrets %s is taken for %s", s.Name, host))
	}
	t.secrets[host] = s
}

func (t *translation) result() Keel {
	keys := slices.SortedFunc(maps.Keys(t.polls), func(a, b pollKey) int {
		return cmp.Or(cmp.Compare(a.schedule, b.schedule), cmp.Compare(a.only, b.only))
	})
	for _, key := range keys {
		p := t.polls[key]
		t.keel.Polls = append(t.keel.Polls, KeelPoll{
			// Its name stays with what it asks for: by its name it is known what it has seen.
			Name: t.unique(strings.TrimSuffix("poll-"+slug.Replace(strings.TrimPrefix(key.schedule, "@")+" "+key.only), "-"), key.schedule, key.only),
			Type: "poll", Schedule: key.schedule,
			Repositories: slices.Compact(slices.Sorted(slices.Values(p.repositories))),
			Tags:         anyOf(slices.Compact(slices.Sorted(slices.Values(p.tags)))),
		})
	}
	for _, host := range slices.Sorted(maps.Keys(t.secrets)) {
		t.keel.Registries = append(t.keel.Registries, KeelRegistry{host, t.secrets[host]})
	}
	for _, text := range keelGeneral {
		if t.general[text] {
			t.keel.General = append(t.keel.General, text)
		}
	}
	return t.keel
}

// slug makes a part of a name of a schedule.
var slug = strings.NewReplacer("*", "x", " ", "-", "/", "-", ",", "-", "?", "x", `\`, "")

// anyOf is an expression for what one of some matches.
func anyOf(exprs []string) string {
	if len(exprs) == 1 {
		return exprs[0]
	}
	for i, e := range exprs {
		if strings.Contains(e, "(?") { // flags end with their group
			exprs[i] = "(?:" + e + ")"
		}
	}
	return strings.Join(exprs, "|")
}
