package operator

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// lookAgain is when something that lives is looked at though nothing of it
	// has changed: what a namespace takes with it may never be seen.
	lookAgain = 15 * time.Second
	// closedFor is how long nothing must be allowed in a namespace to count as
	// gone: rights that are replaced are away for a moment.
	closedFor = 10 * time.Second
)

// gone says why nothing can run in a namespace, "" if it can. The operator's
// rights there lie in the namespace itself and go with it. again asks for another
// look before anything is said.
func (o *operator) gone(ctx context.Context, name string) (why string, again time.Duration, err error) {
	ns, err := o.Kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Sprintf("namespace %s does not exist in the cluster", name), 0, nil
	case err == nil && ns.DeletionTimestamp != nil:
		return fmt.Sprintf("namespace %s is being deleted from the cluster", name), 0, nil
	case err != nil && !apierrors.IsForbidden(err):
		return "", 0, fmt.Errorf("read namespace: %w", err)
	case err != nil: // what counts are jobs
		_, err = o.Kube.BatchV1().Jobs(name).List(ctx, metav1.ListOptions{Limit: 1})
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !apierrors.IsForbidden(err) {
		delete(o.closed, name)
		return "", 0, err
	}
	since, known := o.closed[name]
	if !known {
		since = o.Now()
		o.closed[name] = since
	}
	if left := closedFor - o.Now().Sub(since); left > 0 {
		return "", min(left, time.Second), nil
	}
	return fmt.Sprintf("namespace %s does not exist in the cluster any more, or its owner has taken the ML extension's rights there", name), 0, nil
}
