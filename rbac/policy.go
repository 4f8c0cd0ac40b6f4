package rbac

import (
	"strconv"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/trust"
)

// The two admission policies. Names stand in the API server's refusals.
const (
	AgentsPolicy = "sallyport-agents"
	FencePolicy  = "sallyport-fence"
)

// MaxTokenLife is the longest life of a binding's token that the cluster
// grants, to anybody.
const MaxTokenLife = 15 * time.Minute

// MinKubernetes is the oldest minor version of Kubernetes 1 that has these
// policies (GA in 1.30).
const MinKubernetes = 30

// Policies are the admission policies and their bindings, the fence's last: no
// right is applied before them.
func Policies(cluster trust.ClusterUID) []Explained {
	return []Explained{
		{Object: policy(cluster, AgentsPolicy, agentsSpec(cluster)), Why: `What the agents' tokens can be used for, by whoever holds them: bindings of accepted roles to the
ServiceAccounts of bindings, and nothing else. It looks at what is there (oldObject) as well as at what
is written, so that bindings of others can be neither changed nor deleted. Nobody gets a token of a
binding's ServiceAccount that lives longer than 15 minutes.`},
		{Object: policyBinding(cluster, AgentsPolicy), Why: "Puts the policy above in force."},
		{Object: policy(cluster, FencePolicy, fenceSpec()), Why: `What no binding can do, whatever its role says: anything in sallyport-* and kube-system, tokens in
Secrets, writes on RBAC and admission resources. Accepting a role with --unfenced lifts it for
bindings that hold this role, except for sallyport-*.`},
		{Object: policyBinding(cluster, FencePolicy), Why: "Puts the policy above in force."},
	}
}

func policy(cluster trust.ClusterUID, name string, spec admissionv1.ValidatingAdmissionPolicySpec) *admissionv1.ValidatingAdmissionPolicy {
	return &admissionv1.ValidatingAdmissionPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "ValidatingAdmissionPolicy"},
		ObjectMeta: meta(cluster, "", name), Spec: spec,
	}
}

func policyBinding(cluster trust.ClusterUID, name string) *admissionv1.ValidatingAdmissionPolicyBinding {
	return &admissionv1.ValidatingAdmissionPolicyBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "ValidatingAdmissionPolicyBinding"},
		ObjectMeta: meta(cluster, "", name),
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}
}

func agentsSpec(cluster trust.ClusterUID) admissionv1.ValidatingAdmissionPolicySpec {
	expand := expander(map[string]string{"UID": string(cluster)})
	fail := admissionv1.Fail
	return admissionv1.ValidatingAdmissionPolicySpec{
		FailurePolicy: &fail,
		MatchConstraints: match(
			rule(changes, rbacGroup, "clusterrolebindings", "rolebindings"),
			rule(changes, "", "serviceaccounts", "serviceaccounts/token"),
		),
		MatchConditions: []admissionv1.MatchCondition{{Name: "agent-or-binding-token", Expression: expand(`
			request.userInfo.username in ['RECONCILER', 'PROXY'] ||
			(has(request.subResource) && request.subResource == 'token' && has(request.namespace) && request.namespace == 'BINDINGS')`)}},
		Variables: []admissionv1.Variable{
			{Name: "binding", Expression: `request.resource.group == 'rbac.authorization.k8s.io'`},
			{Name: "token", Expression: `!variables.binding && has(request.subResource) && request.subResource == 'token'`},
			{Name: "objects", Expression: `[object, oldObject].filter(o, o != null)`},
		},
		Validations: []admissionv1.Validation{
			{
				// Subjects of what is there are not asked for: a binding of ours that
				// somebody widened must be repaired. Its name and role say whose it is.
				Expression: expand(`!variables.binding || (size(variables.objects) > 0 && variables.objects.all(o,
					o.metadata.name.startsWith('sallyport:binding:') &&
					o.roleRef.apiGroup == 'rbac.authorization.k8s.io' && o.roleRef.kind == 'ClusterRole' &&
					o.roleRef.name.matches('^sallyport:(role|nsrole|unfencedrole):')))`),
				Message: "an agent of Sallyport may touch only bindings named sallyport:binding:* of ClusterRoles named sallyport:*role:*",
				Reason:  forbidden(),
			},
			{
				Expression: expand(`!variables.binding || object == null || (has(object.subjects) && size(object.subjects) == 1 && object.subjects.all(s,
					s.kind == 'ServiceAccount' && has(s.namespace) && s.namespace == 'BINDINGS' && s.name.matches('^ACCOUNT$')))`),
				Message: "an agent of Sallyport may bind only to ServiceAccounts of bindings, in namespace " + BindingsNamespace,
				Reason:  forbidden(),
			},
			{
				Expression: expand(`variables.binding || variables.token || (size(variables.objects) > 0 && has(request.namespace) && request.namespace == 'BINDINGS' &&
					variables.objects.all(o, o.metadata.name.matches('^ACCOUNT$')))`),
				Message: "an agent of Sallyport may touch only ServiceAccounts of bindings, in namespace " + BindingsNamespace,
				Reason:  forbidden(),
			},
			{
				Expression: expand(`variables.token || object == null || (has(object.metadata.labels) && 'sallyport.dev/cluster' in object.metadata.labels &&
					object.metadata.labels['sallyport.dev/cluster'] == 'UID')`),
				Message: "what an agent of Sallyport writes carries the label " + ClusterLabel + " of its registration",
				Reason:  forbidden(),
			},
			{
				Expression: expand(`!variables.token || (has(request.namespace) && request.namespace == 'BINDINGS' && object != null &&
					has(object.spec) && has(object.spec.expirationSeconds) && object.spec.expirationSeconds <= SECONDS)`),
				Message: "a token of a binding's ServiceAccount lives 15 minutes at most, and an agent of Sallyport takes no other",
				Reason:  forbidden(),
			},
		},
	}
}

func fenceSpec() admissionv1.ValidatingAdmissionPolicySpec {
	expand := expander(nil)
	fail := admissionv1.Fail
	return admissionv1.ValidatingAdmissionPolicySpec{
		FailurePolicy:    &fail,
		MatchConstraints: match(rule([]admissionv1.OperationType{admissionv1.OperationAll}, "*", "*/*")),
		MatchConditions: []admissionv1.MatchCondition{{Name: "binding-account-or-probe", Expression: expand(`
			request.userInfo.username.startsWith('system:serviceaccount:BINDINGS:') ||
			(request.userInfo.username == 'RECONCILER' && has(request.name) && request.name == 'PROBE')`)}},
		Variables: []admissionv1.Variable{
			{Name: "ns", Expression: `has(request.namespace) ? request.namespace : ''`},
			{Name: "objects", Expression: `[object, oldObject].filter(o, o != null)`},
			{Name: "where", Expression: `[variables.ns] + (request.resource.group == '' && request.resource.resource == 'namespaces' ? variables.objects.map(o, o.metadata.name) : [])`},
			{Name: "lifted", Expression: expand(`authorizer.group('FENCEGROUP').resource('FENCERESOURCE').namespace(variables.ns).check('FENCEVERB').allowed()`)},
		},
		Validations: []admissionv1.Validation{
			{
				Expression: `!variables.where.exists(n, n.startsWith('sallyport-'))`,
				Message:    "a binding of Sallyport has no business in namespaces sallyport-*",
				Reason:     forbidden(),
			},
			{
				Expression: `!variables.where.exists(n, n == 'kube-system') || variables.lifted`,
				Message:    "a binding of Sallyport has no business in kube-system; the cluster's owner can lift this with accept-roles --unfenced",
				Reason:     forbidden(),
			},
			{
				Expression: `!(request.resource.group == '' && request.resource.resource == 'secrets') ||
					variables.objects.all(o, !has(o.type) || o.type != 'kubernetes.io/service-account-token') || variables.lifted`,
				Message: "a binding of Sallyport makes and changes no ServiceAccount tokens in Secrets; the cluster's owner can lift this with accept-roles --unfenced",
				Reason:  forbidden(),
			},
			{
				Expression: `!(request.resource.group in ['rbac.authorization.k8s.io', 'admissionregistration.k8s.io']) || variables.lifted`,
				Message:    "a binding of Sallyport writes no RBAC and no admission resources; the cluster's owner can lift this with accept-roles --unfenced",
				Reason:     forbidden(),
			},
		},
	}
}

var changes = []admissionv1.OperationType{admissionv1.Create, admissionv1.Update, admissionv1.Delete}

func match(rules ...admissionv1.NamedRuleWithOperations) *admissionv1.MatchResources {
	return &admissionv1.MatchResources{ResourceRules: rules}
}

func rule(ops []admissionv1.OperationType, group string, resources ...string) admissionv1.NamedRuleWithOperations {
	return admissionv1.NamedRuleWithOperations{RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: ops, Rule: admissionv1.Rule{APIGroups: []string{group}, APIVersions: []string{"*"}, Resources: resources},
	}}
}

func forbidden() *metav1.StatusReason {
	r := metav1.StatusReasonForbidden
	return &r
}

// expander writes this package's names into CEL, and folds the indentation of
// Go source into single spaces.
func expander(more map[string]string) func(string) string {
	pairs := []string{
		"RECONCILER", Username(SystemNamespace, ReconcilerAccount),
		"PROXY", Username(SystemNamespace, ProxyAccount),
		"BINDINGS", BindingsNamespace,
		"ACCOUNT", accountPrefix + "[0-9a-f-]{36}",
		"SECONDS", strconv.Itoa(int(MaxTokenLife / time.Second)),
		"PROBE", fenceProbe,
		"FENCEGROUP", fenceGroup, "FENCERESOURCE", fenceResource, "FENCEVERB", fenceVerb,
	}
	for k, v := range more {
		pairs = append(pairs, k, v)
	}
	r := strings.NewReplacer(pairs...)
	return func(s string) string { return r.Replace(strings.Join(strings.Fields(s), " ")) }
}
