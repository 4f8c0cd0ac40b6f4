package control

import (
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Kinds of operations.
const (
	opApply         = "binding.apply"
	opRemove        = "binding.delete"
	opClusterDelete = "cluster.delete"
	opClusterPower  = "cluster.power"
	opGroupDelete   = "group.delete"

	opSubscriptionDelete = "subscription.delete"
	opExtensionApply     = "extension.apply"
	opExtensionDelete    = "extension.delete"
)

func (c *Control) operationRoutes() []*route {
	const at = "/subscriptions/{subscription}/providers/{namespace}/locations/{location}"
	r := func(pattern string, handle func(*call) (*answer, error)) *route {
		// Who started an operation may follow it; the handler asks for more of
		// others. Its URL names a version of its own, and outlives what the
		// operation removes.
		return &route{method: "GET", pattern: at + pattern, typ: "Microsoft.Resources/operations", drop: 6, action: handlerAsks,
			handle: handle}
	}
	return []*route{
		r("/operations/{operation}", (*call).getOperation),
		r("/operationresults/{operation}", (*call).getOperationResult),
	}
}

// newOperation makes an operation whose id is the request's, as the live
// service does.
func (k *call) newOperation(kind, target string, input any) (store.Operation, error) {
	op, err := operation.NewRecord(kind, k.id.Subscription, k.Location, target, k.caller.Object, input)
	if err != nil {
		return op, err
	}
	op.ID, op.Started = k.ids.Request, k.Now().UTC()
	if k.entry != nil {
		k.entry.Status = activityAccepted
	}
	return op, nil
}

// links are the URLs of an operation.
func (k *call) links(op *store.Operation, namespace string) arm.OperationLinks {
	return arm.Links(k.BaseURL, op.Subscription, namespace, op.Location, op.ID, arm.OperationVersion)
}

// acceptedAs is the 202 of an operation.
func (k *call) acceptedAs(op store.Operation, namespace string) *answer {
	a := empty(http.StatusAccepted)
	k.links(&op, namespace).Accepted(a.h(), retryAfter)
	return a
}

// accepted is the 202 of the operation of a kind that already works on a
// target: asking again for what is under way is no error.
func (k *call) accepted(target, namespace, kind string) (*answer, error) {
	all, _, err := store.List[store.Operation](k.ctx, k.Store, store.OperationPrefix)
	if err != nil {
		return nil, err
	}
	for _, op := range all {
		if op.Value.Kind == kind && !op.Value.Done() && arm.SameID(op.Value.Target, target) {
			return k.acceptedAs(op.Value, namespace), nil
		}
	}
	return nil, pending(arm.Deleting)
}

// pending is AKS's answer to a write on something that another operation works
// on.
func pending(state string) *trust.Error {
	return arm.Errorf(trust.Conflict, arm.OperationNotAllowed, "Operation is not allowed: Another operation (%s) is in progress, please wait for it to finish before starting a new operation. See https://aka.ms/aks-pending-operation for more details.", state)
}

// operation finds the operation of the path. A caller who neither started it
// nor may read operations here learns nothing about it.
func (k *call) operation() (*store.Operation, error) {
	id := k.vars["operation"]
	op, err := store.Get[store.Operation](k.ctx, k.Store, store.Operation{ID: id}.Key())
	if err != nil && trust.KindOf(err) != trust.NotFound || !arm.ValidGUID(id) {
		return nil, missing(err, arm.Errorf(trust.NotFound, arm.NotFound, "The operation '%.64s' was not found.", id))
	}
	found := err == nil && trust.Fold(op.Value.Subscription) == trust.Fold(k.id.Subscription)
	if !found || op.Value.Caller != k.caller.Object {
		if err := k.may(k.vars["namespace"]+"/locations/operations/read", k.id); err != nil {
			return nil, err
		}
	}
	if !found {
		return nil, arm.Errorf(trust.NotFound, arm.NotFound, "The operation '%.64s' was not found.", id)
	}
	return &op.Value, nil
}

// getOperation is the document, always 200.
func (k *call) getOperation() (*answer, error) {
	op, err := k.operation()
	if err != nil {
		return nil, err
	}
	doc := arm.Operation{ID: strings.TrimSuffix(k.request.URL.Path, "/"), Name: op.ID, Status: op.Status,
		StartTime: arm.Time(op.Started), EndTime: arm.Time(op.Ended)}
	if op.Problem != nil {
		e := problemBody(op.Problem)
		doc.Error = &e
	}
	a := ok(&doc)
	if op.Reason != "" {
		doc.Properties = map[string]any{"reason": op.Reason}
	}
	if !op.Done() {
		arm.RetryAfter(a.h(), retryAfter)
	}
	return a, nil
}

// getOperationResult is 202 while the operation runs, and then its end.
func (k *call) getOperationResult() (*answer, error) {
	op, err := k.operation()
	if err != nil {
		return nil, err
	}
	if !op.Done() {
		return k.acceptedAs(*op, k.vars["namespace"]), nil
	}
	if op.Status == store.OperationSucceeded {
		a := empty(http.StatusNoContent)
		a.h().Set("Location", k.links(op, k.vars["namespace"]).Result)
		return a, nil
	}
	e := trust.Errorf(trust.Conflict, "The operation ended as %s.", op.Status)
	if op.Problem != nil {
		e.Code, e.Message, e.Target = op.Problem.Code, op.Problem.Message, op.Problem.Target
	}
	return nil, e
}

// problemBody shows a stored failure.
func problemBody(f *store.Failure) arm.Error {
	e := arm.Error{Code: f.Code, Message: f.Message, Target: f.Target}
	for i := range f.Details {
		e.Details = append(e.Details, problemBody(&f.Details[i]))
	}
	return e
}
