package k8s

import (
	"cmp"
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// DockerConfig reads the Docker configuration that a pull secret holds.
func (c *Clusters) DockerConfig(ctx context.Context, clusterName, namespace, name string) ([]byte, error) {
	cl, err := c.connect(cmp.Or(clusterName, DefaultCluster))
	if err != nil {
		return nil, err
	}
	var s corev1.Secret
	err = cl.core.Get().Namespace(namespace).Resource("secrets").Name(name).Do(ctx).Into(&s)
	if apierrors.IsForbidden(err) {
		return nil, fmt.Errorf("%w; a Role in %s must allow get on secrets", err, namespace)
	}
	if err != nil {
		return nil, err
	}
	text, ok := s.Data[corev1.DockerConfigJsonKey]
	if !ok {
		return nil, fmt.Errorf("it is of type %s, not %s", s.Type, corev1.SecretTypeDockerConfigJson)
	}
	return text, nil
}
