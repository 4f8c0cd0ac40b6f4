package control

import (
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Client secrets of a source's identity. The text is in the answer to the POST
// that makes one, and nowhere else.
func (c *Control) secretRoutes() []*route {
	return c.childRoutes("clientSecrets", map[string]func(*call) (*answer, error){
		"GET": (*call).listSecrets, "POST": (*call).newSecret, "DELETE one": (*call).removeSecret,
	})
}

// Lives of a secret: what is given without a wish, and the most.
const (
	secretLife    = 90 * 24 * time.Hour
	maxSecretLife = 2 * 365 * 24 * time.Hour
)

type secretBody struct {
	ID         string           `json:"id"`
	Name       string           `json:"name"`
	Type       string           `json:"type"`
	Properties secretProperties `json:"properties"`
}

type secretProperties struct {
	ClientID   string `json:"clientId"`
	TenantID   string `json:"tenantId"`
	KeyID      string `json:"keyId"`
	Hint       string `json:"hint"`
	SecretText string `json:"secretText,omitempty"`
	Start      string `json:"startDateTime"`
	End        string `json:"endDateTime"`
}

func (k *call) bodyOfSecret(s *Secret) secretBody {
	r := &k.source.Value
	return secretBody{
		ID: r.ID + "/clientSecrets/" + s.ID, Name: s.ID, Type: r.Type + "/clientSecrets",
		Properties: secretProperties{r.Identity.ClientID, k.Tenant, s.ID, s.Hint, s.Value, arm.Time(s.Created), arm.Time(s.Expires)},
	}
}

// secrets is the authority and the identity that its secrets are for.
func (k *call) secrets() (Secrets, *store.SystemIdentity, error) {
	if k.Secrets == nil {
		return nil, nil, arm.Errorf(trust.Unsupported, arm.NotSupported, "This server has no authority that makes client secrets.")
	}
	i, err := k.identity()
	return k.Secrets, i, err
}

func (k *call) listSecrets() (*answer, error) {
	authority, i, err := k.secrets()
	if err != nil {
		return nil, err
	}
	all, err := authority.Secrets(k.ctx, i.ClientID)
	if err != nil {
		return nil, err
	}
	var list []secretBody
	for n := range all {
		list = append(list, k.bodyOfSecret(&all[n]))
	}
	return ok(arm.NewList(list, "")), nil
}

func (k *call) newSecret() (*answer, error) {
	authority, i, err := k.secrets()
	if err != nil {
		return nil, err
	}
	data, err := arm.ReadBody(k.request)
	if err != nil {
		return nil, err
	}
	var body struct {
		ValidFor string // ISO 8601, "P90D"
	}
	if len(data) > 0 {
		if err := arm.Decode(data, &body); err != nil {
			return nil, err
		}
	}
	life, err := days(body.ValidFor)
	if err != nil {
		return nil, err
	}
	secret, err := authority.NewSecret(k.durable(), i.ClientID, life)
	if err != nil {
		return nil, err
	}
	return created(k.bodyOfSecret(&secret)), nil
}

var wholeDays = regexp.MustCompile(`^P([1-9][0-9]{0,3})D$`)

// days reads an ISO 8601 duration of whole days.
func days(s string) (time.Duration, error) {
	if s == "" {
		return secretLife, nil
	}
	m := wholeDays.FindStringSubmatch(s)
	if m == nil {
		return 0, arm.BadParameter("validFor", "'%.20s' is not a number of days like P90D", s)
	}
	n, err := strconv.Atoi(m[1])
	life := time.Duration(n) * 24 * time.Hour
	if err != nil || life > maxSecretLife {
		return 0, arm.BadParameter("validFor", "a secret lives at most %d days", int(maxSecretLife.Hours()/24))
	}
	return life, nil
}

func (k *call) removeSecret() (*answer, error) {
	authority, i, err := k.secrets()
	if err != nil {
		return nil, err
	}
	err = authority.RemoveSecret(k.durable(), i.ClientID, k.vars["name"])
	if trust.KindOf(err) == trust.NotFound {
		return empty(http.StatusNoContent), nil
	}
	if err != nil {
		return nil, err
	}
	return empty(http.StatusOK), nil
}
