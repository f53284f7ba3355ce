package parts

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

//go:embed stages.yaml
var ownStages []byte

// Cluster is a control plane with one simulated node: Deployments really roll
// out, without containers.
type Cluster struct {
	Kubeconfig string // of the administrator
	Config     *rest.Config
	Client     *kubernetes.Clientset

	dir       string
	bin       Bin
	port      int
	etcd      string // its URL
	apiserver *process
	others    []*process
}

// Guest is a user who may do nothing until a Role says so. Stranger is
// another, for tests that give rights to one user and not to the other.
const (
	admin    = "admin"
	Guest    = "guest"
	Stranger = "stranger"
)

// token of a user. The API server reads the list of users when it starts, so
// that it is the same for every cluster.
func token(user string) string { return user + "-token" }

// StartCluster starts a control plane in a new folder below dir and returns
// when pods are scheduled and become ready. The folder should lie on a disk:
// etcd flushes each write to it, as in production.
func StartCluster(ctx context.Context, bin Bin, dir string) (*Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	var c *Cluster
	err = onFreePorts(ctx, dir, "cluster", 5, func(ctx context.Context, own string, ports []int) error {
		c = &Cluster{dir: own, bin: bin}
		err := c.start(ctx, ports)
		if err != nil {
			c.Stop()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// start starts etcd, then the API server, then those that ask it, together.
func (c *Cluster) start(ctx context.Context, ports []int) (err error) {
	c.port = ports[0]
	if err := c.writeCredentials(); err != nil {
		return err
	}
	if err := c.startEtcd(ctx, ports[1], ports[2]); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	c.Config = &rest.Config{Host: c.host(), BearerToken: token(admin), TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: -1}
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return err
	}
	if c.Kubeconfig, err = c.User(admin); err != nil {
		return err
	}
	stages, err := c.writeStages(ctx)
	if err != nil {
		return err
	}
	manager, err := c.add("kube-controller-manager", "--kubeconfig="+c.Kubeconfig, "--service-account-private-key-file=sa.key", "--leader-elect=false",
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[3]),
		"--controllers=deployment-controller,replicaset-controller,statefulset-controller,daemonset-controller,cronjob-controller,job-controller,garbage-collector-controller,namespace-controller",
		"--kube-api-qps=500", "--kube-api-burst=1000", "--concurrent-deployment-syncs=20", "--concurrent-replicaset-syncs=20")
	if err != nil {
		return err
	}
	scheduler, err := c.add("kube-scheduler", "--kubeconfig="+c.Kubeconfig, "--leader-elect=false",
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[4]), "--kube-api-qps=500", "--kube-api-burst=1000")
	if err != nil {
		return err
	}
	kwok, err := c.add("kwok", "--kubeconfig="+c.Kubeconfig, "--manage-all-nodes", "-c", stages)
	if err != nil {
		return err
	}
	if err := c.addNode(ctx); err != nil {
		return err
	}
	err = errors.Join(
		manager.waitFor(ctx, answers(fmt.Sprintf("https://127.0.0.1:%d/healthz", ports[3]))),
		scheduler.waitFor(ctx, answers(fmt.Sprintf("https://127.0.0.1:%d/readyz", ports[4]))),
		kwok.waitFor(ctx, c.nodeReady),
		c.apiserver.alive()) // a stranger on the port of one of them would have answered for it
	for _, p := range c.others {
		err = errors.Join(err, p.alive())
	}
	return err
}

func (c *Cluster) startEtcd(ctx context.Context, port, peerPort int) error {
	c.etcd = fmt.Sprintf("http://127.0.0.1:%d", port)
	peers := fmt.Sprintf("http://127.0.0.1:%d", peerPort)
	etcd, err := c.add("etcd", "--data-dir", "etcd", "--listen-client-urls", c.etcd, "--advertise-client-urls", c.etcd,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers, "--log-level", "error")
	if err != nil {
		return err
	}
	return etcd.waitFor(ctx, answers(c.etcd+"/readyz"))
}

// add starts one more program of the control plane.
func (c *Cluster) add(name string, args ...string) (*process, error) {
	p, err := start(c.dir, name, append([]string{c.bin.path(name)}, args...)...)
	if err == nil {
		c.others = append(c.others, p)
	}
	return p, err
}

func (c *Cluster) host() string { return fmt.Sprintf("https://127.0.0.1:%d", c.port) }

// StartAPIServer starts the API server, again after StopAPIServer, on the
// same address and data, and waits until it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) (err error) {
	c.apiserver, err = start(c.dir, "kube-apiserver", c.bin.path("kube-apiserver"), "--etcd-servers="+c.etcd,
		fmt.Sprintf("--secure-port=%d", c.port), "--bind-address=127.0.0.1", "--cert-dir="+c.dir,
		"--service-account-key-file=sa.pub", "--service-account-signing-key-file=sa.key", "--service-account-issuer=https://kubernetes.default.svc",
		"--token-auth-file=tokens.csv", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24",
		"--disable-admission-plugins=ServiceAccount,TaintNodesByCondition")
	if err != nil {
		return err
	}
	return c.apiserver.waitFor(ctx, answers(c.host()+"/readyz"))
}

// StopAPIServer kills the API server, as an outage would, and returns when it
// has ended; the rest keeps running and waits for it. Asked politely it would
// go on for as long as anybody watches. What it has acknowledged is in etcd.
func (c *Cluster) StopAPIServer() { c.apiserver.kill() }

// Stop ends everything.
func (c *Cluster) Stop() {
	for i := len(c.others) - 1; i > 0; i-- {
		c.others[i].stop()
	}
	c.apiserver.stop()
	if len(c.others) > 0 {
		c.others[0].stop() // etcd last: the others wait for it
	}
}

// User is the kubeconfig of a user: of Guest, of Stranger.
func (c *Cluster) User(name string) (kubeconfig string, err error) {
	path := filepath.Join(c.dir, name+".kubeconfig")
	return path, os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: %[1]s}}]
clusters: [{name: test, cluster: {server: %[2]q, insecure-skip-tls-verify: true}}]
users: [{name: %[1]s, user: {token: %[3]s}}]
`, name, c.host(), token(name)), 0o600)
}

// GuestKubeconfig is User(Guest).
func (c *Cluster) GuestKubeconfig() (string, error) { return c.User(Guest) }

func (c *Cluster) writeCredentials() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"sa.key":     pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		"sa.pub":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		"tokens.csv": fmt.Appendf(nil, "%s,%[2]s,%[2]s,system:masters\n%s,%[4]s,%[4]s\n%s,%[6]s,%[6]s\n", token(admin), admin, token(Guest), Guest, token(Stranger), Stranger),
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// writeStages puts kwok's stages, read from its module, and our own into one
// file.
func (c *Cluster) writeStages(ctx context.Context) (string, error) {
	module, err := moduleDir(ctx, "sigs.k8s.io/kwok@"+kwokVersion)
	if err != nil {
		return "", err
	}
	var all bytes.Buffer
	for _, pattern := range []string{"node/fast/*.yaml", "node/heartbeat/*.yaml", "pod/fast/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(module, "kustomize/stage", pattern))
		if err != nil {
			return "", err
		}
		for _, file := range files {
			if filepath.Base(file) == "kustomization.yaml" {
				continue
			}
			data, err := os.ReadFile(file)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&all, "%s\n---\n", data)
		}
	}
	all.Write(ownStages)
	path := filepath.Join(c.dir, "stages.yaml")
	return path, os.WriteFile(path, all.Bytes(), 0o644)
}

// nodeReady tells whether kwok has taken the node, and so works.
func (c *Cluster) nodeReady(ctx context.Context) error {
	node, err := c.Client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return errors.New("the node is not ready")
}

const nodeName = "node"

func (c *Cluster) addNode(ctx context.Context) error {
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("1000"), corev1.ResourceMemory: resource.MustParse("1Ti"), corev1.ResourcePods: resource.MustParse("10000"),
	}
	_, err := c.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName, Annotations: map[string]string{"kwok.x-k8s.io/node": "fake"}},
		Status:     corev1.NodeStatus{Allocatable: capacity, Capacity: capacity},
	}, metav1.CreateOptions{})
	return err
}
