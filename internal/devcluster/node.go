package devcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/sallyport/sallyport/internal/devcluster/nodeinit"
)

// The images every node has from the start.
const (
	// ToolImage has a small shell and what goes with it: cat, tar, sleep, head,
	// wc, sha256sum, "fill N" (N bytes), "fetch URL", "serve PORT" (HTTP). Its
	// entrypoint sleeps for ever. Use it with imagePullPolicy IfNotPresent.
	ToolImage = "dev.sallyport.test/tool:1"

	pauseImage = "dev.sallyport.test/pause:1"
)

// toolNames are the commands of ToolImage; nodetool is all of them.
var toolNames = []string{
	"sh", "cat", "date", "echo", "env", "false", "fetch", "fill", "head", "hostname", "id", "ls", "mkdir",
	"rm", "seq", "serve", "sha256sum", "sleep", "tail", "tar", "test", "true", "wc",
}

// Node is one node of a cluster: a kubelet, a containerd and a kube-proxy in
// namespaces of their own.
type Node struct {
	index int // decides its addresses and the names of its links
	name  string
	addr  netip.Addr
	pods  netip.Prefix
	dir   string
	init  *process
	pipe  *os.File // the first process reads its specification here
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }

// Name is the node's name in Kubernetes.
func (n *Node) Name() string { return n.name }

// Address is the node's InternalIP.
func (n *Node) Address() netip.Addr { return n.addr }

// Nodes lists the cluster's nodes.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// netns is the path of the node's network namespace.
func (n *Node) netns() string { return fmt.Sprintf("/proc/%d/ns/net", n.init.PID) }

// startNodeInit starts the first process of a node, which waits for finish.
func (c *Cluster) startNodeInit(i int) error {
	n := &Node{index: i, name: nodeName(i)}
	n.dir = filepath.Join(c.dir, dirNodes, n.name)
	for _, sub := range []string{"root", "conf", "var/log", "var/lib", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(n.dir, sub), 0o755); err != nil {
			return err
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	n.init, err = c.sup.start(command{
		name: n.name, rank: rankNode, path: c.cfg.NodeTool, args: []string{"node-init"}, isNode: true, stdin: r,
	})
	if err != nil {
		w.Close()
		return err
	}
	n.pipe = w
	c.nodes = append(c.nodes, n)
	return nil
}

// addFirstImages gives every node the images it cannot do without.
func (c *Cluster) addFirstImages(ctx context.Context) error {
	tool := Image{
		Name:       ToolImage,
		Files:      []ImageFile{{Path: "/bin/nodetool", From: c.cfg.NodeTool}},
		Entrypoint: []string{"/bin/sleep", "infinity"},
		Env:        []string{"PATH=/bin"},
	}
	for _, name := range toolNames {
		tool.Files = append(tool.Files, ImageFile{Path: "/bin/" + name, Link: "nodetool"})
	}
	pause := ProgramImage(pauseImage, c.cfg.NodeTool)
	pause.Files[0].Path, pause.Entrypoint = "/pause", []string{"/pause"}
	for _, image := range []Image{pause, tool} {
		if err := c.AddImage(ctx, image); err != nil {
			return err
		}
	}
	return nil
}

// finishNode writes the node's configuration and lets it start. It does not
// wait until the node is ready.
func (c *Cluster) finishNode(n *Node) error {
	defer n.pipe.Close()
	for name, text := range c.nodeFiles(n) {
		if err := os.WriteFile(filepath.Join(n.dir, "conf", name), text, 0o600); err != nil {
			return err
		}
	}
	for to, from := range map[string]string{
		"ca.crt":                filepath.Join(dirPKI, "ca.crt"),
		"kubelet.crt":           filepath.Join(dirPKI, "kubelet-"+n.name+".crt"),
		"kubelet.key":           filepath.Join(dirPKI, "kubelet-"+n.name+".key"),
		"kubelet.kubeconfig":    c.rel(c.componentKubeconfig(nodeUser(n.name))),
		"kube-proxy.kubeconfig": c.rel(c.componentKubeconfig(userProxy)),
	} {
		data, err := os.ReadFile(filepath.Join(c.dir, from))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(n.dir, "conf", to), data, 0o600); err != nil {
			return err
		}
	}
	return json.NewEncoder(n.pipe).Encode(c.nodeSpec(n))
}

func (c *Cluster) rel(path string) string {
	rel, err := filepath.Rel(c.dir, path)
	if err != nil {
		return path
	}
	return rel
}

func (c *Cluster) nodeSpec(n *Node) nodeinit.Spec {
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/root", envMark + "=" + c.sup.journal.snapshot().ID,
	}
	program := func(name string) string {
		if c.bins.folder {
			return "/node/bin/" + name
		}
		return "/node/bin/kubernetes"
	}
	to := "/node/bin/kubernetes"
	if c.bins.folder {
		to = "/node/bin"
	}
	containerd, _ := exec.LookPath("containerd") // CanRunNodes found it
	log := func(name string) string { return "/node/logs/" + n.name + "-" + name + ".log" }
	return nodeinit.Spec{
		Name: n.name,
		Root: filepath.Join(n.dir, "root"),
		Binds: []nodeinit.Bind{
			{From: filepath.Join(n.dir, "var"), To: "/var"},
			{From: filepath.Join(n.dir, "conf"), To: "/node/conf", ReadOnly: true},
			{From: filepath.Join(c.dir, dirLogs), To: "/node/logs"},
			{From: c.bins.path, To: to, ReadOnly: true},
		},
		Sysctls: kubeletSysctls,
		Processes: []nodeinit.Process{{
			Name: "containerd", Path: containerd,
			Args: []string{"containerd", "--config", "/node/conf/containerd.toml"},
			Env:  env, Log: log("containerd"), Socket: containerdSocket,
		}, {
			Name: "kubelet", Path: program("kubelet"),
			Args: []string{
				"kubelet", "--config=/node/conf/kubelet.yaml", "--kubeconfig=/node/conf/kubelet.kubeconfig",
				"--hostname-override=" + n.name, "--node-ip=" + n.addr.String(), "--root-dir=/var/lib/kubelet",
			},
			Env: env, Log: log("kubelet"),
		}, {
			Name: "kube-proxy", Path: program("kube-proxy"),
			Args: []string{"kube-proxy", "--config=/node/conf/kube-proxy.yaml", "--hostname-override=" + n.name},
			Env:  env, Log: log("kube-proxy"),
		}},
	}
}

// AddImage makes the image and gives it to every node.
func (c *Cluster) AddImage(ctx context.Context, image Image) error {
	dir, err := os.MkdirTemp(c.dir, "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "image.tar")
	if err := image.WriteTar(file); err != nil {
		return err
	}
	return c.LoadImage(ctx, file)
}

// LoadImage gives the images in a tar file (OCI layout or "docker save") to
// every node.
func (c *Cluster) LoadImage(ctx context.Context, file string) error {
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() {
			// The socket is reached through the node's root: its own path is
			// in a mount namespace, and this one is never too long.
			cmd := exec.CommandContext(ctx, "ctr",
				"--address", fmt.Sprintf("/proc/%d/root%s", n.init.PID, containerdSocket),
				"--namespace", "k8s.io", "images", "import", "--snapshotter", c.snapshotter(), file)
			if out, err := cmd.CombinedOutput(); err != nil {
				errs[i] = fmt.Errorf("load image %s into %s: %w: %s", filepath.Base(file), n.name, err, bytes.TrimSpace(out))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
