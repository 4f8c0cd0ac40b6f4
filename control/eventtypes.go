package control

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// The activity log is read as Microsoft.Insights' event types, as az monitor
// activity-log list does.

const eventType = "Microsoft.Insights/eventtypes"

func (c *Control) eventRoutes() []*route {
	r := func(pattern, action string, drop int) *route {
		// The right is asked for at what the filter narrows the list to.
		return &route{method: "GET", pattern: pattern + "/providers/Microsoft.Insights/eventtypes/management/values", typ: eventType, versions: arm.Insights, drop: drop,
			action: action, need: needSubscription, handle: (*call).listEvents}
	}
	return []*route{r("/subscriptions/{subscription}", handlerAsks, 5), r("", eventType+"/values/read", 5)}
}

// eventFilter is what of the filters of event types is understood.
type eventFilter struct {
	from, to                                              time.Time
	group, resource, provider, correlation, caller, state string
}

// moments are the forms of times that clients write.
var moments = []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02"}

func (k *call) eventFilter() (f eventFilter, err error) {
	query := k.request.URL.Query().Get("$filter")
	terms, err := arm.ParseFilter(query)
	if err != nil {
		return f, err
	}
	f.from, f.to = k.Now().Add(-k.ActivityAge), k.Now().Add(time.Minute)
	texts := map[string]*string{"resourcegroupname": &f.group, "resourceuri": &f.resource, "resourceid": &f.resource, "resourceprovider": &f.provider,
		"correlationid": &f.correlation, "caller": &f.caller, "status": &f.state}
	for _, t := range terms {
		into, known := texts[trust.Fold(t.Name)]
		switch {
		case t.Is("eventTimestamp", "ge"), t.Is("eventTimestamp", "gt"):
			f.from, err = moment(t.Value)
		case t.Is("eventTimestamp", "le"), t.Is("eventTimestamp", "lt"):
			f.to, err = moment(t.Value)
		case known && t.Op == "eq":
			*into = t.Value
		case t.Is("eventChannels", "eq"), t.Is("levels", "eq"):
		default:
			err = arm.BadFilter(query)
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

func moment(s string) (time.Time, error) {
	for _, form := range moments {
		if t, err := time.Parse(form, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, arm.Errorf(trust.Invalid, arm.InvalidRequestContent, "The time '%.64s' is not in a form like 2026-11-29T08:30:00Z.", s)
}

// scope is where the caller must be allowed to read the log.
func (f *eventFilter) scope(id arm.ID) (arm.ID, error) {
	if f.resource != "" {
		r, err := arm.ParseID(f.resource)
		if err == nil && !is(r.Subscription, id.Subscription) {
			err = arm.BadParameter("$filter", "the resource %.300s does not lie in the subscription", f.resource)
		}
		return r, err
	}
	if f.group != "" && id.Subscription != "" {
		return arm.ParseID(id.SubscriptionID().String() + "/resourceGroups/" + f.group)
	}
	return id, nil
}

func (f *eventFilter) lets(e *store.Activity) bool {
	id, err := arm.ParseID(e.Resource)
	if err != nil {
		return false
	}
	return (f.group == "" || is(id.Group, f.group)) && (f.resource == "" || within(e.Resource, f.resource)) &&
		(f.provider == "" || is(id.Namespace(), f.provider)) && (f.correlation == "" || is(e.Correlation, f.correlation)) &&
		(f.caller == "" || is(e.Caller, f.caller) || is(e.Object, f.caller)) && (f.state == "" || is(e.Status, f.state))
}

// within tells whether id is the resource or lies below it.
func within(id, resource string) bool {
	id, resource = trust.Fold(id), trust.Fold(strings.TrimSuffix(resource, "/"))
	return id == resource || strings.HasPrefix(id, resource+"/")
}

func (k *call) listEvents() (*answer, error) {
	f, err := k.eventFilter()
	if err != nil {
		return nil, err
	}
	page, err := arm.ParsePage(k.request.URL.Query(), pageSize)
	if err != nil {
		return nil, err
	}
	if k.id.Subscription != "" {
		scope, err := f.scope(k.id)
		if err != nil {
			return nil, err
		}
		if err := k.may(eventType+"/values/read", scope); err != nil {
			return nil, err
		}
	}
	prefix, after := store.ActivitiesOf(k.id.Subscription), page.After
	if after == "" {
		after = store.ActivityBefore(k.id.Subscription, f.to)
	}
	if !strings.HasPrefix(after, prefix) {
		return nil, arm.Errorf(trust.Invalid, arm.InvalidSkipToken, "The value of the query parameter $skipToken is of another list.")
	}
	fields := selected(k.request.URL.Query().Get("$select"))
	list, next := []any{}, ""
	for next == "" {
		some, _, err := store.List[store.Activity](k.ctx, k.Store, prefix, store.After(after), store.Limit(pageSize))
		if err != nil {
			return nil, err
		}
		for i := range some {
			e := &some[i].Value
			if e.Time.Before(f.from) {
				return ok(arm.NewList(list, "")), nil
			}
			after = e.Key()
			if !f.lets(e) {
				continue
			}
			if list = append(list, fields.of(bodyOfEvent(e))); len(list) == page.Top {
				next = arm.NextLink(k.BaseURL, k.request.URL, after)
				break
			}
		}
		if len(some) < pageSize {
			break
		}
	}
	return ok(arm.NewList(list, next)), nil
}

// fields are the members that $select asks for; nil for all.
type fields map[string]bool

func selected(query string) fields {
	if query == "" {
		return nil
	}
	f := fields{}
	for name := range strings.SplitSeq(query, ",") {
		f[trust.Fold(strings.TrimSpace(name))] = true
	}
	return f
}

func (f fields) of(v any) any {
	if f == nil {
		return v
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return v
	}
	all, err := parseBag(raw)
	if err != nil {
		return v
	}
	for name := range all {
		if !f[trust.Fold(name)] {
			delete(all, name)
		}
	}
	return all
}

// word is a value with the text that people see, which is the same here.
type word struct {
	Value     string `json:"value"`
	Localized string `json:"localizedValue"`
}

func said(s string) word { return word{s, s} }

type eventBody struct {
	ID                string            `json:"id"`
	EventDataID       string            `json:"eventDataId"`
	Authorization     map[string]string `json:"authorization"`
	Caller            string            `json:"caller"`
	Claims            map[string]string `json:"claims"`
	Category          word              `json:"category"`
	Channels          string            `json:"channels"`
	CorrelationID     string            `json:"correlationId"`
	Description       string            `json:"description"`
	EventName         word              `json:"eventName"`
	EventTimestamp    string            `json:"eventTimestamp"`
	HTTPRequest       map[string]string `json:"httpRequest,omitempty"`
	Level             string            `json:"level"`
	OperationID       string            `json:"operationId"`
	OperationName     word              `json:"operationName"`
	Properties        map[string]string `json:"properties"`
	ResourceGroupName string            `json:"resourceGroupName"`
	ResourceID        string            `json:"resourceId"`
	ResourceProvider  word              `json:"resourceProviderName"`
	ResourceType      word              `json:"resourceType"`
	Status            word              `json:"status"`
	SubStatus         word              `json:"subStatus"`
	Submitted         string            `json:"submissionTimestamp"`
	SubscriptionID    string            `json:"subscriptionId"`
	TenantID          string            `json:"tenantId"`
}

func bodyOfEvent(e *store.Activity) eventBody {
	id, _ := arm.ParseID(e.Resource) // it was one when it was stored
	namespace, _, _ := strings.Cut(e.Type, "/")
	b := eventBody{
		ID: strings.TrimSuffix(e.Resource, "/") + "/events/" + e.ID, EventDataID: e.ID, Authorization: map[string]string{"action": e.Action, "scope": e.Resource},
		Caller: e.Caller, Claims: map[string]string{}, Category: said("Administrative"), Channels: "Operation", CorrelationID: e.Correlation,
		EventName: word{"EndRequest", "End request"}, EventTimestamp: arm.Time(e.Time), Submitted: arm.Time(e.Time), Level: "Informational",
		OperationID: e.Operation, OperationName: said(e.Action), Properties: map[string]string{"entity": e.Resource},
		ResourceGroupName: id.Group, ResourceID: e.Resource, ResourceProvider: said(namespace), ResourceType: said(e.Type),
		Status: said(e.Status), SubscriptionID: e.Subscription, TenantID: e.Tenant,
	}
	if e.Status == activityAccepted {
		b.EventName = word{"BeginRequest", "Begin request"}
	}
	if e.Method != "" {
		b.HTTPRequest = map[string]string{"method": e.Method, "clientRequestId": e.ClientRequest, "clientIpAddress": e.Address, "uri": e.Resource}
	}
	if e.Status == activityFailed {
		b.Level, b.Properties["statusCode"] = "Error", e.Code
	}
	if e.HTTPStatus != 0 {
		b.SubStatus = said(strings.ReplaceAll(http.StatusText(e.HTTPStatus), " ", ""))
	}
	for name, v := range map[string]string{"http://schemas.microsoft.com/identity/claims/objectidentifier": e.Object, "appid": e.ClientID,
		"http://schemas.microsoft.com/identity/claims/tenantid": e.Tenant, "xms_mirid": e.ResourceID} {
		if v != "" {
			b.Claims[name] = v
		}
	}
	return b
}
