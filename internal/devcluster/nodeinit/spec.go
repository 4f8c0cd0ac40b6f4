// Package nodeinit is the first process of a node: it turns fresh namespaces
// into something a kubelet takes for a machine, starts the node's processes and
// reaps orphans. When it ends, the kernel ends everything else in the node.
//
// It owns mounts and processes inside the node only. Network links, addresses
// and configuration files are made by package devcluster, outside, before it
// hands over the Spec on stdin.
package nodeinit

// Spec is what a node is made of. Paths under From and Root are outside's, all
// others are inside the node.
type Spec struct {
	Name string // host name
	Root string // an empty folder to mount the node's root file system on

	Binds []Bind
	// Sysctls are files below /proc/sys that a kubelet wants to read these
	// values from. They are shared by the whole machine, so the node sees
	// files that say so and the machine's stay as they are.
	Sysctls map[string]string

	Processes []Process // started in order
}

// Bind shows a file or folder of the machine inside the node.
type Bind struct {
	From, To string
	ReadOnly bool
}

// Process is one long-running program; when one ends the node ends.
type Process struct {
	Name   string
	Path   string
	Args   []string // Args[0] is the program's name
	Env    []string
	Log    string // file, appended to
	Socket string // if set, the next process waits until this socket accepts
}
