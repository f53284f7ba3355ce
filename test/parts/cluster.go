package parts

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

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
	apiArgs   []string
	apiserver *process
	others    []*process
}

// Tokens of the users that every cluster has. Guest may do nothing until a
// Role says so.
const (
	adminToken = "admin-token"
	guestToken = "guest-token"
	Guest      = "guest"
)

// StartCluster starts a control plane below dir and returns when pods can be
// scheduled.
func StartCluster(ctx context.Context, bin Bin, dir string) (*Cluster, error) {
	c := &Cluster{dir: dir, bin: bin}
	if err := c.start(ctx); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	ports, err := freePorts(5)
	if err != nil {
		return err
	}
	c.port = ports[0]
	if err := c.writeCredentials(); err != nil {
		return err
	}
	etcd, peers := fmt.Sprintf("http://127.0.0.1:%d", ports[1]), fmt.Sprintf("http://127.0.0.1:%d", ports[2])
	if err := c.add("etcd", "--data-dir", "etcd", "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers, "--log-level", "error"); err != nil {
		return err
	}
	c.apiArgs = []string{"--etcd-servers=" + etcd, fmt.Sprintf("--secure-port=%d", c.port), "--bind-address=127.0.0.1", "--cert-dir=" + c.dir,
		"--service-account-key-file=sa.pub", "--service-account-signing-key-file=sa.key", "--service-account-issuer=https://kubernetes.default.svc",
		"--token-auth-file=tokens.csv", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24",
		"--disable-admission-plugins=ServiceAccount,TaintNodesByCondition"}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	c.Config = &rest.Config{Host: c.host(), BearerToken: adminToken, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: -1}
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		return err
	}
	if c.Kubeconfig, err = c.writeKubeconfig("admin", adminToken); err != nil {
		return err
	}
	stages, err := c.writeStages(ctx)
	if err != nil {
		return err
	}
	if err := c.add("kube-controller-manager", "--kubeconfig="+c.Kubeconfig, "--service-account-private-key-file=sa.key", "--leader-elect=false", fmt.Sprintf("--secure-port=%d", ports[3]),
		"--controllers=deployment-controller,replicaset-controller,statefulset-controller,daemonset-controller,cronjob-controller,job-controller,garbage-collector-controller,namespace-controller",
		"--kube-api-qps=500", "--kube-api-burst=1000", "--concurrent-deployment-syncs=20", "--concurrent-replicaset-syncs=20"); err != nil {
		return err
	}
	if err := c.add("kube-scheduler", "--kubeconfig="+c.Kubeconfig, "--leader-elect=false", fmt.Sprintf("--secure-port=%d", ports[4]), "--kube-api-qps=500", "--kube-api-burst=1000"); err != nil {
		return err
	}
	if err := c.add("kwok", "--kubeconfig="+c.Kubeconfig, "--manage-all-nodes", "-c", stages); err != nil {
		return err
	}
	return c.addNode(ctx)
}

// add starts one more program of the control plane.
func (c *Cluster) add(name string, args ...string) error {
	p, err := start(c.dir, name, append([]string{c.bin.path(name)}, args...)...)
	if err != nil {
		return err
	}
	c.others = append(c.others, p)
	return nil
}

func (c *Cluster) host() string { return fmt.Sprintf("https://127.0.0.1:%d", c.port) }

// StartAPIServer starts the API server, again after StopAPIServer, on the
// same address and data, and waits until it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) (err error) {
	c.apiserver, err = start(c.dir, "kube-apiserver", append([]string{c.bin.path("kube-apiserver")}, c.apiArgs...)...)
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &bearer{adminToken, &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}}
	return c.apiserver.waitFor(ctx, answers(client, c.host()+"/readyz"))
}

// bearer adds a token to requests.
type bearer struct {
	token string
	next  http.RoundTripper
}

func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}

// StopAPIServer takes the API server away; everything else goes on.
func (c *Cluster) StopAPIServer() { c.apiserver.stop() }

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

// GuestKubeconfig is a kubeconfig of the user who may do nothing by himself.
func (c *Cluster) GuestKubeconfig() (string, error) { return c.writeKubeconfig(Guest, guestToken) }

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
		"tokens.csv": []byte(adminToken + ",admin,admin,\"system:masters\"\n" + guestToken + "," + Guest + "," + Guest + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) writeKubeconfig(user, token string) (string, error) {
	path := filepath.Join(c.dir, user+".kubeconfig")
	return path, os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: test
contexts: [{name: test, context: {cluster: test, user: %[1]s}}]
clusters: [{name: test, cluster: {server: %[2]q, insecure-skip-tls-verify: true}}]
users: [{name: %[1]s, user: {token: %[3]s}}]
`, user, c.host(), token), 0o600)
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

func (c *Cluster) addNode(ctx context.Context) error {
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("1000"), corev1.ResourceMemory: resource.MustParse("1Ti"), corev1.ResourcePods: resource.MustParse("10000"),
	}
	_, err := c.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node", Annotations: map[string]string{"kwok.x-k8s.io/node": "fake"}},
		Status:     corev1.NodeStatus{Allocatable: capacity, Capacity: capacity},
	}, metav1.CreateOptions{})
	return err
}
