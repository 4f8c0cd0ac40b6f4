package deploy

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/rbac"
)

const mlFence = "sallyport-ml-secrets"

// mlSecretsFence holds the gateway to the Secrets that are its own: RBAC cannot
// say how a name begins.
func mlSecretsFence() []rbac.Explained {
	pull := "request.name.startsWith('" + mlext.PullSecrets + "') && (request.operation == 'DELETE' || object.type == 'kubernetes.io/dockerconfigjson')" +
		" && (request.operation == 'CREATE' || oldObject.type == 'kubernetes.io/dockerconfigjson')"
	own := "request.namespace == '" + wire.Namespace + "' && request.name == '" + mlext.TrustSecret + "' && request.operation == 'UPDATE'"
	policy := &admissionv1.ValidatingAdmissionPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "ValidatingAdmissionPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: mlFence, Labels: mlLabels},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: ptr(admissionv1.Fail),
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update, admissionv1.Delete},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"*"}, Resources: []string{"secrets"}},
			}}}},
			MatchConditions: []admissionv1.MatchCondition{{Name: "the-gateway", Expression: "request.userInfo.username == 'system:serviceaccount:" + wire.Namespace + ":" + mlext.GatewayAccount + "'"}},
			Validations: []admissionv1.Validation{{Expression: "(" + pull + ") || (" + own + ")",
				Message: "the ML extension's gateway writes no Secrets but registry credentials named " + mlext.PullSecrets + "…"}},
		},
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "ValidatingAdmissionPolicyBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: mlFence, Labels: mlLabels},
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: mlFence, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}
	return []rbac.Explained{
		{Why: "A stolen token of the gateway overwrites nobody's Secrets.", Object: policy},
		{Object: binding},
	}
}
