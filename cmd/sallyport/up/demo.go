package up

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// The demo does not believe the story: it reads the API server, as its owner,
// and the API server's own audit log.

// apiEvent is a line of the API server's audit log.
type apiEvent struct {
	AuditID, Stage, Verb, RequestURI string
	User                             struct{ Username string }
	ResponseStatus                   struct{ Code int }
}

// gatewayEvent is a line of the gateway's.
type gatewayEvent struct {
	AuditID, Stage string
	ResponseStatus struct{ Code int }
	Annotations    map[string]string
}

// check compares what was told with what the cluster saw.
func (s *story) check(ctx context.Context) error {
	s.heading("Checking against the API server and its own audit log")
	for _, c := range []struct {
		title string
		f     func(context.Context) (string, error)
	}{
		{"What the service did ran as its binding's ServiceAccount, with the gateway's request ids", s.sameIDs},
		{"Nothing of the binding is left in the cluster", s.nothingLeft},
		{"No anonymous or administrator's identity was used for the service", s.onlyTheBinding},
	} {
		if err := s.step(c.title, "", func() (verdict, error) {
			said, err := c.f(ctx)
			return verdict{true, said}, err
		}); err != nil {
			return err
		}
	}
	return nil
}

const bindingUser = "system:serviceaccount:sallyport-bindings:binding-"

// served are the API server's events of binding ServiceAccounts, by audit id.
func (s *story) served() (map[string]apiEvent, error) {
	all, err := lines(s.cluster.AuditLogPath())
	if err != nil {
		return nil, err
	}
	events := map[string]apiEvent{}
	for _, line := range all {
		var e apiEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, fmt.Errorf("API server's audit log: %w", err)
		}
		if strings.HasPrefix(e.User.Username, bindingUser) {
			events[e.AuditID] = e
		}
	}
	return events, nil
}

func (s *story) let() (through, refused map[string]gatewayEvent, err error) {
	all, err := lines(s.auditFile())
	if err != nil {
		return nil, nil, err
	}
	through, refused = map[string]gatewayEvent{}, map[string]gatewayEvent{}
	for _, line := range all {
		var e gatewayEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, nil, fmt.Errorf("gateway's audit log: %w", err)
		}
		if e.ResponseStatus.Code == 403 {
			refused[e.AuditID] = e
		} else {
			through[e.AuditID] = e
		}
	}
	return through, refused, nil
}

func (s *story) sameIDs(context.Context) (string, error) {
	served, err := s.served()
	if err != nil {
		return "", err
	}
	through, refused, err := s.let()
	if err != nil {
		return "", err
	}
	both := 0
	for id := range served {
		if _, ok := refused[id]; ok {
			return "", fmt.Errorf("request %s was refused at the gateway and reached the API server", id)
		}
		if _, ok := through[id]; ok {
			both++
		}
	}
	if both == 0 || len(refused) == 0 {
		return "", fmt.Errorf("%d requests in both logs, %d refused at the gateway: the story has more", both, len(refused))
	}
	return fmt.Sprintf("%d requests stand in both logs under one id; %d were refused at the gateway and reached nothing", both, len(refused)), nil
}

func (s *story) nothingLeft(ctx context.Context) (string, error) {
	out, err := s.cluster.Kubectl(ctx, "get", "serviceaccounts,rolebindings", "-n", "sallyport-bindings", "-o", "name", "-l", "sallyport.dev/binding")
	if err != nil {
		return "", err
	}
	cluster, err := s.cluster.Kubectl(ctx, "get", "clusterrolebindings", "-o", "name", "-l", "sallyport.dev/binding")
	if err != nil {
		return "", err
	}
	if left := strings.TrimSpace(out + cluster); left != "" {
		return "", fmt.Errorf("left behind:\n%s", left)
	}
	return "no ServiceAccount, RoleBinding or ClusterRoleBinding", nil
}

func (s *story) onlyTheBinding(context.Context) (string, error) {
	through, _, err := s.let()
	if err != nil {
		return "", err
	}
	all, err := lines(s.cluster.AuditLogPath())
	if err != nil {
		return "", err
	}
	n := 0
	for _, line := range all {
		var e apiEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return "", fmt.Errorf("API server's audit log: %w", err)
		}
		if _, ours := through[e.AuditID]; !ours {
			continue
		}
		if n++; !strings.HasPrefix(e.User.Username, bindingUser) {
			return "", fmt.Errorf("request %s ran as %s", e.AuditID, e.User.Username)
		}
	}
	return fmt.Sprintf("%d events of the service, all of them the binding's", n), nil
}
