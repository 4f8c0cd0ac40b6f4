// Machinelearning is a program written for Azure's Go SDK, armmachinelearning v4.0.0, of
// which it changes the endpoint only. It attaches a compute, trains, registers what
// the job wrote as a model, serves it, and prints where and with which key it is
// scored, as JSON. What must be so is in the stories in e2e/ml.
//
// It reads SERVER, CA (a PEM file), TENANT, CLIENT_ID, CLIENT_SECRET, SUBSCRIPTION,
// GROUP, WORKSPACE, CLUSTER (an id), NAMESPACE, TRAIN and SCORE (images).
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	ml "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/machinelearning/armmachinelearning/v4"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "azureml:", err)
		os.Exit(1)
	}
}

// Names of what it makes.
const (
	compute    = "sdk-compute"
	job        = "sdk-job"
	model      = "sdk-model"
	endpoint   = "sdk-endpoint"
	deployment = "only"
	location   = "local"
)

// flow is the SDK with whom it speaks to.
type flow struct {
	*ml.ClientFactory
	group, workspace, id string
	poll                 *runtime.PollUntilDoneOptions
}

func run(ctx context.Context) error {
	f, err := connect()
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"attach", f.attach}, {"environments", f.environments}, {"train", f.train}, {"model", f.register}, {"endpoint", f.endpoint}, {"deployment", f.deploy}, {"scale", f.scale}, {"traffic", f.traffic}} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Fprintln(os.Stderr, "done:", step.name)
	}
	return f.show(ctx)
}

func connect() (*flow, error) {
	ca, err := os.ReadFile(os.Getenv("CA"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("CA holds no certificate")
	}
	server := os.Getenv("SERVER")
	options := policy.ClientOptions{
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: server + "/", Services: map[cloud.ServiceName]cloud.ServiceConfiguration{
			cloud.ResourceManager: {Endpoint: server, Audience: server}}},
		Transport: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}},
	}
	credential, err := azidentity.NewClientSecretCredential(os.Getenv("TENANT"), os.Getenv("CLIENT_ID"), os.Getenv("CLIENT_SECRET"),
		&azidentity.ClientSecretCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true})
	if err != nil {
		return nil, err
	}
	factory, err := ml.NewClientFactory(os.Getenv("SUBSCRIPTION"), credential, &arm.ClientOptions{ClientOptions: options})
	group, workspace := os.Getenv("GROUP"), os.Getenv("WORKSPACE")
	return &flow{factory, group, workspace, "/subscriptions/" + os.Getenv("SUBSCRIPTION") + "/resourceGroups/" + group + "/providers/Microsoft.MachineLearningServices/workspaces/" + workspace,
		&runtime.PollUntilDoneOptions{Frequency: time.Second}}, err
}

func (f *flow) attach(ctx context.Context) error {
	p, err := f.NewComputeClient().BeginCreateOrUpdate(ctx, f.group, f.workspace, compute, ml.ComputeResource{Location: to.Ptr(location),
		Properties: &ml.Kubernetes{ComputeType: to.Ptr(ml.ComputeTypeKubernetes), ResourceID: to.Ptr(os.Getenv("CLUSTER")),
			Properties: &ml.KubernetesProperties{Namespace: to.Ptr(os.Getenv("NAMESPACE"))}}}, nil)
	if err != nil {
		return err
	}
	_, err = p.PollUntilDone(ctx, f.poll)
	return err
}

func (f *flow) environments(ctx context.Context) error {
	at := func(path string) *ml.Route { return &ml.Route{Path: to.Ptr(path), Port: to.Ptr[int32](5001)} }
	for name, p := range map[string]*ml.EnvironmentVersionProperties{
		"sdk-train": {Image: to.Ptr(os.Getenv("TRAIN"))},
		"sdk-score": {Image: to.Ptr(os.Getenv("SCORE")), InferenceConfig: &ml.InferenceContainerProperties{ScoringRoute: at("/score"), LivenessRoute: at("/healthz"), ReadinessRoute: at("/ready")}},
	} {
		if _, err := f.NewEnvironmentVersionsClient().CreateOrUpdate(ctx, f.group, f.workspace, name, "1", ml.EnvironmentVersion{Properties: p}, nil); err != nil {
			return err
		}
	}
	return nil
}

func (f *flow) train(ctx context.Context) error {
	jobs := f.NewJobsClient()
	if _, err := jobs.CreateOrUpdate(ctx, f.group, f.workspace, job, ml.JobBase{Properties: &ml.CommandJob{JobType: to.Ptr(ml.JobTypeCommand),
		Command:       to.Ptr("/train -steps 4000 -slope 4 -model ${{outputs.model}} -version sdk"),
		EnvironmentID: to.Ptr(f.id + "/environments/sdk-train/versions/1"), ComputeID: to.Ptr(f.id + "/computes/" + compute),
		Outputs: map[string]ml.JobOutputClassification{"model": &ml.URIFolderJobOutput{JobOutputType: to.Ptr(ml.JobOutputTypeURIFolder)}}}}, nil); err != nil {
		return err
	}
	for ctx.Err() == nil {
		got, err := jobs.Get(ctx, f.group, f.workspace, job, nil)
		if err != nil {
			return err
		}
		p, ok := got.Properties.(*ml.CommandJob)
		if !ok || p.Status == nil {
			return fmt.Errorf("the job is %T", got.Properties)
		}
		switch *p.Status {
		case ml.JobStatusCompleted:
			return nil
		case ml.JobStatusFailed, ml.JobStatusCanceled:
			return fmt.Errorf("the job ended as %s", *p.Status)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return ctx.Err()
}

func (f *flow) register(ctx context.Context) error {
	_, err := f.NewModelVersionsClient().CreateOrUpdate(ctx, f.group, f.workspace, model, "1", ml.ModelVersion{Properties: &ml.ModelVersionProperties{
		ModelType: to.Ptr("custom_model"), ModelURI: to.Ptr("azureml://jobs/" + job + "/outputs/model")}}, nil)
	return err
}

func (f *flow) endpoint(ctx context.Context) error { return f.putEndpoint(ctx, nil) }

func (f *flow) putEndpoint(ctx context.Context, traffic map[string]*int32) error {
	p, err := f.NewOnlineEndpointsClient().BeginCreateOrUpdate(ctx, f.group, f.workspace, endpoint, ml.OnlineEndpoint{Location: to.Ptr(location),
		Properties: &ml.OnlineEndpointProperties{AuthMode: to.Ptr(ml.EndpointAuthModeKey), Compute: to.Ptr(f.id + "/computes/" + compute), Traffic: traffic}}, nil)
	if err != nil {
		return err
	}
	_, err = p.PollUntilDone(ctx, f.poll)
	return err
}

func (f *flow) deploy(ctx context.Context) error {
	p, err := f.NewOnlineDeploymentsClient().BeginCreateOrUpdate(ctx, f.group, f.workspace, endpoint, deployment, ml.OnlineDeployment{Location: to.Ptr(location),
		SKU: &ml.SKU{Name: to.Ptr("Default"), Capacity: to.Ptr[int32](1)},
		Properties: &ml.KubernetesOnlineDeployment{EndpointComputeType: to.Ptr(ml.EndpointComputeTypeKubernetes), EnvironmentID: to.Ptr(f.id + "/environments/sdk-score/versions/1"),
			Model: to.Ptr(f.id + "/models/" + model + "/versions/1"),
			ContainerResourceRequirements: &ml.ContainerResourceRequirements{
				ContainerResourceRequests: &ml.ContainerResourceSettings{CPU: to.Ptr("20m"), Memory: to.Ptr("32Mi")},
				ContainerResourceLimits:   &ml.ContainerResourceSettings{CPU: to.Ptr("1"), Memory: to.Ptr("128Mi")}},
			ReadinessProbe: &ml.ProbeSettings{InitialDelay: to.Ptr("PT1S"), Period: to.Ptr("PT1S")}}}, nil)
	if err != nil {
		return err
	}
	done, err := p.PollUntilDone(ctx, f.poll)
	if err != nil {
		return err
	}
	if d, ok := done.Properties.(*ml.KubernetesOnlineDeployment); !ok || d.ProvisioningState == nil || *d.ProvisioningState != ml.DeploymentProvisioningStateSucceeded {
		return fmt.Errorf("the deployment is %T", done.Properties)
	}
	return nil
}

func (f *flow) scale(ctx context.Context) error {
	p, err := f.NewOnlineDeploymentsClient().BeginUpdate(ctx, f.group, f.workspace, endpoint, deployment,
		ml.PartialMinimalTrackedResourceWithSKU{SKU: &ml.PartialSKU{Name: to.Ptr("Default"), Capacity: to.Ptr[int32](2)}}, nil)
	if err != nil {
		return err
	}
	done, err := p.PollUntilDone(ctx, f.poll)
	if err == nil && (done.SKU == nil || done.SKU.Capacity == nil || *done.SKU.Capacity != 2) {
		err = errors.New("it was not scaled")
	}
	return err
}

func (f *flow) traffic(ctx context.Context) error {
	return f.putEndpoint(ctx, map[string]*int32{deployment: to.Ptr[int32](100)})
}

// show changes a key and prints how the endpoint is scored.
func (f *flow) show(ctx context.Context) error {
	endpoints := f.NewOnlineEndpointsClient()
	before, err := endpoints.ListKeys(ctx, f.group, f.workspace, endpoint, nil)
	if err != nil {
		return err
	}
	p, err := endpoints.BeginRegenerateKeys(ctx, f.group, f.workspace, endpoint, ml.RegenerateEndpointKeysRequest{KeyType: to.Ptr(ml.KeyTypePrimary)}, nil)
	if err == nil {
		_, err = p.PollUntilDone(ctx, f.poll)
	}
	if err != nil {
		return err
	}
	after, err := endpoints.ListKeys(ctx, f.group, f.workspace, endpoint, nil)
	if err != nil {
		return err
	}
	if *after.PrimaryKey == *before.PrimaryKey || *after.SecondaryKey != *before.SecondaryKey {
		return errors.New("not exactly the primary key has changed")
	}
	log, err := f.NewOnlineDeploymentsClient().GetLogs(ctx, f.group, f.workspace, endpoint, deployment, ml.DeploymentLogsRequest{ContainerType: to.Ptr(ml.ContainerTypeInferenceServer)}, nil)
	if err != nil {
		return err
	}
	got, err := endpoints.Get(ctx, f.group, f.workspace, endpoint, nil)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]string{"url": *got.Properties.ScoringURI, "key": *after.PrimaryKey, "old": *before.PrimaryKey, "log": *log.Content})
}
