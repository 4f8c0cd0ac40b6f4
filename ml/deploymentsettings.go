package ml

import (
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

func (d *deploymentBody) resources() (out wire.Resources, err error) {
	if d.ContainerResourceRequirements == nil {
		return out, nil
	}
	read := func(where string, from *containerResources) (map[string]string, error) {
		if from == nil {
			return nil, nil
		}
		into := map[string]string{}
		for name, text := range map[string]*string{"cpu": from.CPU, "memory": from.Memory, "nvidia.com/gpu": from.GPU} {
			if text == nil || *text == "" {
				continue
			}
			if q, err := resource.ParseQuantity(*text); err != nil || q.Sign() < 0 {
				return nil, arm.BadParameter("properties.containerResourceRequirements."+where, "'%.64s' is no quantity of %s", *text, name)
			}
			into[name] = *text
		}
		return into, nil
	}
	if out.Requests, err = read("containerResourceRequests", d.ContainerResourceRequirements.ContainerResourceRequests); err != nil {
		return out, err
	}
	if out.Limits, err = read("containerResourceLimits", d.ContainerResourceRequirements.ContainerResourceLimits); err != nil {
		return out, err
	}
	for name, want := range out.Requests {
		q := resource.MustParse(want)
		if most, ok := out.Limits[name]; ok && q.Cmp(resource.MustParse(most)) > 0 {
			return out, arm.BadParameter("properties.containerResourceRequirements", "the request of %s of %s is more than the limit %s", want, name, most)
		}
	}
	return out, nil
}

// at is the probe of a route, with Azure's defaults. Without a route the port
// has to be open.
func (p *probeBody) at(parameter string, route *routeBody, port int) (*wire.Probe, error) {
	out := &wire.Probe{Route: wire.Route{Port: port}, InitialDelay: 10, Period: 10, Timeout: 2, Success: 1, Failure: 30}
	if route != nil {
		out.Route = wire.Route{Path: route.Path, Port: route.Port}
	}
	if p == nil {
		return out, nil
	}
	for name, part := range map[string]struct {
		text  string
		into  *int
		least time.Duration
	}{"initialDelay": {p.InitialDelay, &out.InitialDelay, 0}, "period": {p.Period, &out.Period, time.Second}, "timeout": {p.Timeout, &out.Timeout, time.Second}} {
		if part.text == "" {
			continue
		}
		v, err := fraction(part.text)
		if err != nil || v < part.least || v > time.Hour || v%time.Second != 0 {
			return nil, arm.BadParameter("properties."+parameter+"."+name, "'%.40s' is not an ISO 8601 duration of whole seconds, like PT10S", part.text)
		}
		*part.into = int(v / time.Second)
	}
	for name, part := range map[string]struct{ from, into *int }{"failureThreshold": {p.FailureThreshold, &out.Failure}, "successThreshold": {p.SuccessThreshold, &out.Success}} {
		if part.from == nil {
			continue
		}
		if *part.from < 1 || *part.from > 1000 || name == "successThreshold" && parameter == "livenessProbe" && *part.from != 1 {
			return nil, arm.BadParameter("properties."+parameter+"."+name, "%d is not a number of probes that can be asked for", *part.from)
		}
		*part.into = *part.from
	}
	return out, nil
}

// requests are how a replica is asked, with Azure's defaults.
func (d *deploymentBody) requests() (wire.RequestSettings, error) {
	out := wire.RequestSettings{Timeout: 5000, MaxConcurrent: 1, MaxQueueWait: 500}
	r := d.RequestSettings
	if r == nil {
		return out, nil
	}
	if r.RequestTimeout != "" {
		t, err := fraction(r.RequestTimeout)
		if err != nil || t < time.Millisecond || t > maxTimeout {
			return out, arm.BadParameter("properties.requestSettings.requestTimeout", "'%.40s' is not an ISO 8601 duration of at most %d seconds", r.RequestTimeout, maxTimeout/time.Second)
		}
		out.Timeout = int(t.Milliseconds())
	}
	if r.MaxQueueWait != "" {
		t, err := fraction(r.MaxQueueWait)
		if err != nil || t > maxTimeout {
			return out, arm.BadParameter("properties.requestSettings.maxQueueWait", "'%.40s' is not an ISO 8601 duration of at most %d seconds", r.MaxQueueWait, maxTimeout/time.Second)
		}
		out.MaxQueueWait = int(t.Milliseconds())
	}
	if n := r.MaxConcurrentRequestsPerInstance; n != nil {
		if *n < 1 || *n > 10_000 {
			return out, arm.BadParameter("properties.requestSettings.maxConcurrentRequestsPerInstance", "%d is not a number from 1 to 10000", *n)
		}
		out.MaxConcurrent = *n
	}
	return out, nil
}

// scale is how many replicas there are: a number, or bounds.
func (d *deploymentBody) scale(s *sku, out *wire.Deployment) error {
	out.Instances = 1
	if s != nil {
		if trust.Fold(s.Name) != "default" && s.Name != "" {
			return arm.BadParameter("sku.name", "'%.40s' is not known; Default is", s.Name)
		}
		if n := s.Capacity; n != nil {
			if *n < 1 || *n > maxInstances {
				return arm.BadParameter("sku.capacity", "%d is not a number of instances from 1 to %d", *n, maxInstances)
			}
			out.Instances = *n
		}
	}
	settings := d.ScaleSettings
	if settings == nil || trust.Fold(settings.ScaleType) == "default" || settings.ScaleType == "" {
		return nil
	}
	if trust.Fold(settings.ScaleType) != "targetutilization" {
		return arm.BadParameter("properties.scaleSettings.scaleType", "'%.40s' is neither Default nor TargetUtilization", settings.ScaleType)
	}
	out.Scale = &wire.Scale{Min: 1, Max: 1, Target: 70, PollingSecs: 1}
	for name, part := range map[string]struct {
		from, into *int
		most       int
	}{"minInstances": {settings.MinInstances, &out.Scale.Min, maxInstances}, "maxInstances": {settings.MaxInstances, &out.Scale.Max, maxInstances},
		"targetUtilizationPercentage": {settings.TargetUtilizationPercentage, &out.Scale.Target, 100}} {
		if part.from == nil {
			continue
		}
		if *part.from < 1 || *part.from > part.most {
			return arm.BadParameter("properties.scaleSettings."+name, "%d is not a number from 1 to %d", *part.from, part.most)
		}
		*part.into = *part.from
	}
	if out.Scale.Max < out.Scale.Min {
		return arm.BadParameter("properties.scaleSettings.maxInstances", "%d is less than minInstances, %d", out.Scale.Max, out.Scale.Min)
	}
	if settings.PollingInterval != "" {
		v, err := duration(settings.PollingInterval)
		if err != nil || v > time.Hour {
			return arm.BadParameter("properties.scaleSettings.pollingInterval", "'%.40s' is not a positive ISO 8601 duration of whole seconds", settings.PollingInterval)
		}
		out.Scale.PollingSecs = int(v / time.Second)
	}
	out.Instances = min(max(out.Instances, out.Scale.Min), out.Scale.Max)
	return nil
}
