// Package klogs leads klog, the log of the Kubernetes libraries, into a slog
// logger. It is apart from package logs so that programs without those
// libraries do not link klog.
package klogs

import (
	"log/slog"

	"k8s.io/klog/v2"
)

// Install makes l the log of every Kubernetes library in the process. klog keeps
// its logger in a global variable: only main calls this, once, at the start.
func Install(l *slog.Logger) {
	klog.SetSlogLogger(l.With("from", "kubernetes"))
}
