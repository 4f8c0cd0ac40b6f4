// Command deviceplugin offers a node's pods two GPUs that are made up: a device
// plugin as the kubelet knows them (v1beta1), for nodes of internal/devcluster.
//
// It owns nothing but its socket. A pod that gets a device finds its name in
// NVIDIA_VISIBLE_DEVICES, as with NVIDIA's plugin, and no device file. It is a
// module of its own, so that the product does not depend on the kubelet.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	resource = "nvidia.com/gpu"
	socket   = "fake-gpu.sock"
	variable = "NVIDIA_VISIBLE_DEVICES"
)

var devices = []string{"GPU-0", "GPU-1"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, v1beta1.DevicePluginPath); err != nil {
		slog.Error("device plugin ended", "error", err)
		os.Exit(1)
	}
}

// run offers the devices to the kubelet whose sockets lie in dir, until ctx ends.
func run(ctx context.Context, dir string) error {
	at := filepath.Join(dir, socket)
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) { // of a process before this one
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", at)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	v1beta1.RegisterDevicePluginServer(server, &plugin{done: ctx.Done()})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	err = register(ctx, dir)
	if err == nil {
		slog.InfoContext(ctx, "registered", "resource", resource, "devices", devices)
		select {
		case <-ctx.Done():
		case err = <-ended:
			return err
		}
	}
	server.Stop()
	return errors.Join(err, <-ended)
}

// register tells the kubelet where the plugin is.
func register(ctx context.Context, dir string) error {
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = v1beta1.NewRegistrationClient(conn).Register(ctx, &v1beta1.RegisterRequest{Version: v1beta1.Version, Endpoint: socket, ResourceName: resource,
		Options: &v1beta1.DevicePluginOptions{}}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("register with the kubelet: %w", err)
	}
	return nil
}

// plugin is what the kubelet asks.
type plugin struct {
	v1beta1.UnimplementedDevicePluginServer
	done <-chan struct{}
}

func (p *plugin) GetDevicePluginOptions(context.Context, *v1beta1.Empty) (*v1beta1.DevicePluginOptions, error) {
	return &v1beta1.DevicePluginOptions{}, nil
}

// ListAndWatch says once that all devices are well, and nothing changes.
func (p *plugin) ListAndWatch(_ *v1beta1.Empty, stream v1beta1.DevicePlugin_ListAndWatchServer) error {
	list := &v1beta1.ListAndWatchResponse{}
	for _, d := range devices {
		list.Devices = append(list.Devices, &v1beta1.Device{ID: d, Health: v1beta1.Healthy})
	}
	if err := stream.Send(list); err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-stream.Context().Done():
	}
	return nil
}

// Allocate gives each container the names of its devices.
func (p *plugin) Allocate(_ context.Context, r *v1beta1.AllocateRequest) (*v1beta1.AllocateResponse, error) {
	out := &v1beta1.AllocateResponse{}
	for _, c := range r.ContainerRequests {
		out.ContainerResponses = append(out.ContainerResponses, &v1beta1.ContainerAllocateResponse{Envs: map[string]string{variable: strings.Join(c.DevicesIds, ",")}})
	}
	return out, nil
}
