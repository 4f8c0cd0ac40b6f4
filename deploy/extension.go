package deploy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/extension"
	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// installable is how one type of extensions is installed: what its owner applies,
// what its chart makes, and what is left when the chart is gone.
type installable struct {
	typ   string
	chart templating
	// owner is a JSON schema of what the owner says of it: images, namespaces, and
	// whom its parts believe. No setting names any of these.
	owner map[string]any
	// kinds are its own, in its namespace. Their objects go before what runs does,
	// since that has to let them go.
	kinds []schema.GroupVersionResource
	// left are objects that its parts make and nobody owns.
	left []Left
}

// Left is an object that is left in an extension's namespace by what ran there.
type Left struct {
	schema.GroupVersionResource
	Name string
}

// Accepted is a type of extensions as a cluster's owner accepts it.
type Accepted interface {
	accepted() (*acceptance, error)
}

type acceptance struct {
	*installable
	release    string           // namespace that it is installed in; "": those that are accepted
	namespaces []string         // that it may be in, or reach, besides
	values     map[string]any   // the owner's, held to installable.owner
	objects    []rbac.Explained // what the owner applies for it
	made       []rbac.Explained // what the chart makes with these values
	unsaid     error            // what accepting it needs besides, and taking the consent back does not
}

func installables() []*installable { return []*installable{mlInstallable(), probeInstallable()} }

func findInstallable(typ string) (*installable, error) {
	for _, i := range installables() {
		if trust.Fold(i.typ) == trust.Fold(typ) {
			return i, nil
		}
	}
	return nil, trust.Errorf(trust.NotFound, "there is no chart for extension type %.100s", typ)
}

// ExtensionChart is the Helm chart of a type of extensions, by file name. Its
// values are "owner", of the owner's consent, and "settings", of the extension
// resource.
func ExtensionChart(typ string) (map[string][]byte, error) {
	i, err := findInstallable(typ)
	if err != nil {
		return nil, err
	}
	t, err := extension.Find(typ)
	if err != nil {
		return nil, err
	}
	template, err := i.chart.template()
	if err != nil {
		return nil, err
	}
	schema, err := json.MarshalIndent(map[string]any{
		"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "additionalProperties": false, "required": []string{"owner", "settings"},
		"properties": map[string]any{"owner": i.owner, "settings": settingsSchema(&t), "global": map[string]any{"type": "object"}},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode values.schema.json: %w", err)
	}
	meta, err := yaml.Marshal(map[string]any{
		"apiVersion": "v2", "name": strings.ReplaceAll(trust.Fold(t.Name), ".", "-"), "type": "application", "version": t.Version,
		"description": "The extension " + t.Name, "kubeVersion": fmt.Sprintf(">=1.%d.0-0", rbac.MinKubernetes),
	})
	if err != nil {
		return nil, fmt.Errorf("encode Chart.yaml: %w", err)
	}
	return map[string][]byte{"Chart.yaml": meta, "values.schema.json": append(schema, '\n'), "templates/extension.yaml": []byte(template)}, nil
}

// settingsSchema admits what extension.ChartValues gives for the type.
func settingsSchema(t *extension.Type) map[string]any {
	properties := map[string]any{}
	for i := range t.Settings {
		s := &t.Settings[i]
		if s.Effect != extension.Honoured {
			continue
		}
		p := map[string]any{"type": "string", "maxLength": 65536}
		switch s.Kind {
		case extension.Bool:
			p = map[string]any{"type": "boolean"}
		case extension.Seconds:
			p = map[string]any{"type": "integer", "minimum": 1, "maximum": 86400}
		case extension.Choice:
			p = map[string]any{"enum": s.Choices}
		case extension.DNSName:
			p["pattern"] = `^[A-Za-z0-9.*-]+$`
		case extension.PEM:
			p["pattern"] = `-----BEGIN [A-Z ]+-----`
		case extension.ProxyURL:
			p["pattern"] = `^http://\S+$`
		}
		if strings.HasSuffix(s.Key, "*") {
			p = map[string]any{"type": "object", "additionalProperties": p}
		}
		properties[s.ChartName()] = p
	}
	return map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
}

// ChartDigest is the digest that an owner accepts a chart by. It is what
// sha256sum says of what sha256sum says of the chart's files, in the order of
// their names.
func ChartDigest(files map[string][]byte) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		sum := sha256.Sum256(files[name])
		fmt.Fprintf(h, "%s  %s\n", hex.EncodeToString(sum[:]), name)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Removal is what goes with an extension that no chart names: first the objects of
// its own kinds, at the end what its parts left.
func Removal(typ string) (kinds []schema.GroupVersionResource, left []Left, err error) {
	i, err := findInstallable(typ)
	if err != nil {
		return nil, nil, err
	}
	return i.kinds, i.left, nil
}

// Accept is everything that a cluster's owner applies to accept a type of
// extensions: its namespace, kinds and what it may do in the whole cluster, the
// installer with its rights for this type, and the consent that the installer
// reads. o.Image is the installer's.
func Accept(o Options, x Accepted) ([]rbac.Explained, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	a, err := x.accepted()
	if err != nil {
		return nil, err
	}
	if a.unsaid != nil {
		return nil, a.unsaid
	}
	own, err := a.own(o)
	if err != nil {
		return nil, err
	}
	all := append(rbac.InstallerRights(o.Cluster), own...)
	if o.NoAgents {
		return all, nil
	}
	return append(all, o.deployment(installer)), nil
}

// Withdraw is what the owner removes to take such consent back, in order: the
// installer's rights for the type first. The installer itself stays for others.
// Whom the extension believes need not be said.
func Withdraw(o Options, x Accepted) ([]rbac.Explained, error) {
	a, err := x.accepted()
	if err != nil {
		return nil, err
	}
	own, err := a.own(o)
	slices.Reverse(own)
	return own, err
}

func (a *acceptance) own(o Options) ([]rbac.Explained, error) {
	files, err := ExtensionChart(a.typ)
	if err != nil {
		return nil, err
	}
	c := Consent{Type: a.typ, Digest: ChartDigest(files), Namespace: a.release, Namespaces: a.namespaces, Owner: a.values}
	data, err := c.data()
	if err != nil {
		return nil, err
	}
	all := slices.Clone(a.objects)
	all = append(all, rbac.InstallerRightsIn(o.Cluster, rbac.SystemNamespace, a.typ, "What the installer may read here.", []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{ConsentName(a.typ)}, Verbs: []string{"get"}},
	}, []string{"Your consent, below. It cannot change it."})...)
	for _, ns := range a.places() {
		rules, reasons := a.rights(ns)
		why := "What the installer may do in namespace " + ns + " to install " + a.typ + ", and no more: the API server lets it give the extension's parts nothing that does not stand here."
		all = append(all, rbac.InstallerRightsIn(o.Cluster, ns, a.typ, why, rules, reasons)...)
	}
	return append(all, rbac.Explained{
		Why: "Your consent to the chart with this digest and no other. Images, namespaces and whom the extension believes are named here and nowhere else: no setting of the extension resource can change them.",
		Object: &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Namespace: rbac.SystemNamespace, Name: ConsentName(a.typ), Labels: labels(o.Cluster)}, Data: data},
	}), nil
}

// places are the namespaces that the installer works in.
func (a *acceptance) places() []string {
	all := slices.Clone(a.namespaces)
	if a.release != "" {
		all = append(all, a.release)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// resourceOf the kinds that charts of extensions make.
var resourceOf = map[string]schema.GroupResource{
	"ServiceAccount": {Resource: "serviceaccounts"}, "ConfigMap": {Resource: "configmaps"}, "Secret": {Resource: "secrets"}, "Service": {Resource: "services"},
	"Deployment": {Group: "apps", Resource: "deployments"}, "Role": {Group: "rbac.authorization.k8s.io", Resource: "roles"},
	"RoleBinding": {Group: "rbac.authorization.k8s.io", Resource: "rolebindings"}, "PodDisruptionBudget": {Group: "policy", Resource: "poddisruptionbudgets"},
	"Lease": {Group: "coordination.k8s.io", Resource: "leases"}, "NetworkPolicy": {Group: "networking.k8s.io", Resource: "networkpolicies"},
}

// rights are the installer's in one namespace: the kinds that the chart makes
// there, and what the Roles that it makes there hold.
func (a *acceptance) rights(ns string) (rules []rbacv1.PolicyRule, reasons []string) {
	add := func(why, group string, resources, verbs []string) {
		rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: verbs})
		reasons = append(reasons, why)
	}
	verbs := []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	byGroup := map[string][]string{}
	var held []rbacv1.PolicyRule
	release := ns == a.release || a.release == ""
	for _, e := range a.made {
		if e.Object.GetNamespace() != ns {
			continue
		}
		r := resourceOf[e.Object.GetObjectKind().GroupVersionKind().Kind]
		byGroup[r.Group] = append(byGroup[r.Group], r.Resource)
		if role, ok := e.Object.(*rbacv1.Role); ok {
			held = append(held, role.Rules...)
		}
	}
	if release {
		byGroup[""] = append(byGroup[""], "secrets", "configmaps")
	}
	for _, group := range slices.Sorted(maps.Keys(byGroup)) {
		resources := byGroup[group]
		slices.Sort(resources)
		why := "It makes, changes and removes what the chart holds."
		if group == "" && release {
			why += " Secrets, every one of this namespace: Helm keeps its records, with the settings in them, in Secrets, and RBAC cannot say which."
		}
		add(why, group, slices.Compact(resources), verbs)
	}
	if release {
		add("It sees whether what it installed runs, and why not.", "", []string{"pods", "events"}, verbs[:3])
		add("The same.", "apps", []string{"replicasets"}, verbs[:3])
		for _, k := range a.kinds {
			add("Before it removes the extension it removes what was made for it.", k.Group, []string{k.Resource}, []string{"list", "patch", "delete"})
		}
		for _, l := range a.left {
			rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{l.Group}, Resources: []string{l.Resource}, ResourceNames: []string{l.Name}, Verbs: []string{"delete"}})
			reasons = append(reasons, "It removes what the extension's parts leave.")
		}
	}
	slices.SortStableFunc(held, func(x, y rbacv1.PolicyRule) int { return cmp.Compare(fmt.Sprint(x), fmt.Sprint(y)) })
	for _, r := range slices.CompactFunc(held, func(x, y rbacv1.PolicyRule) bool { return fmt.Sprint(x) == fmt.Sprint(y) }) {
		rules, reasons = append(rules, r), append(reasons, "One of the extension's parts may do this, by a Role that the chart makes.")
	}
	return rules, reasons
}

// Consent is what a cluster's owner said about one type of extensions: a ConfigMap
// in sallyport-system that nobody of Sallyport's may write.
type Consent struct {
	Type       string
	Digest     string         // of the chart, see ChartDigest
	Namespace  string         // that it is installed in; "": any of Namespaces
	Namespaces []string       // that it may be in, or reach, besides
	Owner      map[string]any // the chart's values "owner"
}

// ConsentName is the name of that ConfigMap.
func ConsentName(typ string) string { return "extension." + trust.Fold(typ) }

func (c Consent) data() (map[string]string, error) {
	owner, err := yaml.Marshal(c.Owner)
	if err != nil {
		return nil, fmt.Errorf("encode the owner's values: %w", err)
	}
	return map[string]string{"type": c.Type, "chart": c.Digest, "namespace": c.Namespace, "namespaces": strings.Join(c.Namespaces, ","), "owner.yaml": string(owner)}, nil
}

// ParseConsent reads the ConfigMap's data.
func ParseConsent(data map[string]string) (Consent, error) {
	c := Consent{Type: data["type"], Digest: data["chart"], Namespace: data["namespace"]}
	if s := data["namespaces"]; s != "" {
		c.Namespaces = strings.Split(s, ",")
	}
	if err := yaml.UnmarshalStrict([]byte(data["owner.yaml"]), &c.Owner); err != nil {
		return c, trust.Errorf(trust.Invalid, "the consent's owner.yaml cannot be read").Because(err)
	}
	if c.Type == "" || c.Digest == "" {
		return c, trust.Errorf(trust.Invalid, "the consent names no type, or no chart")
	}
	return c, nil
}

// text is a JSON schema of a string.
func text(pattern string) map[string]any { return map[string]any{"type": "string", "pattern": pattern} }

const (
	imagePattern     = `^[^\s]+$`
	namespacePattern = `^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`
)
