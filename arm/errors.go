package arm

import (
	"errors"
	"net/http"

	"github.com/sallyport/sallyport/trust"
)

// Codes of errors, where ARM or AKS has one. trust.Error.Code holds them.
const (
	AuthenticationFailed             = "AuthenticationFailed"
	InvalidAuthenticationToken       = "InvalidAuthenticationToken"
	ExpiredAuthenticationToken       = "ExpiredAuthenticationToken"
	InvalidAuthenticationTokenTenant = "InvalidAuthenticationTokenTenant"
	AuthorizationFailed              = "AuthorizationFailed"
	LinkedAuthorizationFailed        = "LinkedAuthorizationFailed"

	MissingAPIVersionParameter = "MissingApiVersionParameter"
	InvalidAPIVersionParameter = "InvalidApiVersionParameter"
	NoRegisteredProviderFound  = "NoRegisteredProviderFound"
	InvalidResourceType        = "InvalidResourceType"
	InvalidResourceNamespace   = "InvalidResourceNamespace"
	FeatureNotFound            = "FeatureNotFound"
	// MissingSubscriptionRegistration must go with 409: Azure's clients register
	// the provider and ask again only then.
	MissingSubscriptionRegistration = "MissingSubscriptionRegistration"

	SubscriptionNotFound   = "SubscriptionNotFound"
	ResourceGroupNotFound  = "ResourceGroupNotFound"
	ResourceNotFound       = "ResourceNotFound"
	ParentResourceNotFound = "ParentResourceNotFound"
	NotFound               = "NotFound"

	BadRequest            = "BadRequest"
	InvalidParameter      = "InvalidParameter"
	InvalidRequestContent = "InvalidRequestContent"
	InvalidResourceName   = "InvalidResourceName"
	LocationRequired      = "LocationRequired"
	LocationNotAvailable  = "LocationNotAvailableForResourceType"
	InvalidSkipToken      = "InvalidSkipToken"

	Conflict                  = "Conflict"
	OperationNotAllowed       = "OperationNotAllowed"
	ResourceGroupBeingDeleted = "ResourceGroupBeingDeleted"
	ScopeLocked               = "ScopeLocked"
	InvalidResourceLocation   = "InvalidResourceLocation"
	RoleAssignmentExists      = "RoleAssignmentExists"
	QuotaExceeded             = "QuotaExceeded"

	PreconditionFailed     = "PreconditionFailed"
	RequestContentTooLarge = "RequestEntityTooLarge"
	UnsupportedMediaType   = "UnsupportedMediaType"
	MethodNotAllowed       = "MethodNotAllowed"
	TooManyRequests        = "TooManyRequests"
	// Both are 429 with Retry-After.
	SubscriptionRequestsThrottled = "SubscriptionRequestsThrottled"
	TenantRequestsThrottled       = "TenantRequestsThrottled"
	NotSupported                  = "NotSupported"
	InternalServerError           = "InternalServerError"
	ServiceUnavailable            = "ServiceUnavailable"
	GatewayTimeout                = "GatewayTimeout"
)

// Error is ARM's error object.
type Error struct {
	Code           string  `json:"code"`
	Message        string  `json:"message"`
	Target         string  `json:"target,omitempty"`
	Details        []Error `json:"details,omitempty"`
	AdditionalInfo []Info  `json:"additionalInfo,omitempty"`
}

// Info is an entry of additionalInfo. Sallyport's own has type "Hint" and tells
// what to type or do next.
type Info struct {
	Type string         `json:"type"`
	Info map[string]any `json:"info"`
}

// ErrorBody is the envelope of every answer that is an error.
type ErrorBody struct {
	Error Error `json:"error"`
}

// byKind is the one table from kinds to ARM: status, and the code of an error
// that names none.
var byKind = map[trust.Kind]struct {
	status int
	code   string
}{
	trust.Internal:        {http.StatusInternalServerError, InternalServerError},
	trust.Invalid:         {http.StatusBadRequest, BadRequest},
	trust.Unauthenticated: {http.StatusUnauthorized, AuthenticationFailed},
	trust.Forbidden:       {http.StatusForbidden, AuthorizationFailed},
	trust.NotFound:        {http.StatusNotFound, NotFound},
	trust.Exists:          {http.StatusConflict, Conflict},
	trust.Conflict:        {http.StatusConflict, Conflict},
	trust.Precondition:    {http.StatusPreconditionFailed, PreconditionFailed},
	trust.TooLarge:        {http.StatusRequestEntityTooLarge, RequestContentTooLarge},
	trust.Throttled:       {http.StatusTooManyRequests, TooManyRequests},
	trust.Unsupported:     {http.StatusBadRequest, NotSupported},
	trust.Unavailable:     {http.StatusServiceUnavailable, ServiceUnavailable},
	trust.Timeout:         {http.StatusGatewayTimeout, GatewayTimeout},
}

// byCode are the codes whose status is not their kind's.
var byCode = map[string]int{
	MethodNotAllowed:     http.StatusMethodNotAllowed,
	UnsupportedMediaType: http.StatusUnsupportedMediaType,
}

// Translate turns an error into what a client sees. The cause never leaves: an
// error of kind Internal says only that something failed, and under which
// request id to look for it, which the caller of Translate logs.
func Translate(err error) (status int, body ErrorBody) {
	var e *trust.Error
	if !errors.As(err, &e) {
		e = trust.Errorf(trust.Internal, "")
	}
	row, ok := byKind[e.Kind]
	if !ok {
		row = byKind[trust.Internal]
	}
	out := Error{Code: e.Code, Message: e.Message, Target: e.Target}
	if out.Code == "" {
		out.Code = row.code
	}
	if e.Kind == trust.Internal {
		out = Error{Code: InternalServerError, Message: "Encountered internal server error. The request id in the x-ms-request-id header finds it in the server's log."}
	} else if e.Hint != "" {
		out.AdditionalInfo = []Info{{Type: "Hint", Info: map[string]any{"hint": e.Hint}}}
	}
	if s, ok := byCode[out.Code]; ok {
		row.status = s
	}
	return row.status, ErrorBody{Error: out}
}

// Errorf makes an error with a code of ARM's.
func Errorf(kind trust.Kind, code, format string, args ...any) *trust.Error {
	e := trust.Errorf(kind, format, args...)
	e.Code = code
	return e
}

// BadParameter is AKS's answer to a property with a wrong value.
func BadParameter(property, format string, args ...any) *trust.Error {
	detail := trust.Errorf(trust.Invalid, format, args...).Message
	e := Errorf(trust.Invalid, InvalidParameter, "The value of parameter %s is invalid. Error details: %s. Please see https://aka.ms/aks-naming-rules for more details.", property, detail)
	e.Target = property
	return e
}

// NoResource is ARM's 404 for a resource.
func NoResource(id ID) *trust.Error {
	switch {
	case id.IsResource() && id.Group != "":
		return Errorf(trust.NotFound, ResourceNotFound, "The Resource '%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", id.FullName(), id.Group)
	case id.IsResource():
		return Errorf(trust.NotFound, ResourceNotFound, "The Resource '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", id.FullName())
	case id.Group != "":
		return Errorf(trust.NotFound, ResourceGroupNotFound, "Resource group '%s' could not be found.", id.Group)
	}
	return Errorf(trust.NotFound, SubscriptionNotFound, "The subscription '%s' could not be found.", id.Subscription)
}

// NoParent is ARM's 404 for a child of a resource that does not exist.
func NoParent(parent ID) *trust.Error {
	return Errorf(trust.NotFound, ParentResourceNotFound, "Can not perform requested operation on nested resource. Parent resource '%s' not found.", parent.Name())
}

// NotAuthorizedLinked is ARM's 403 for a request that names another resource, on
// which the caller lacks a right.
func NotAuthorizedLinked(client, object, action, scope, linkedAction, linked string) *trust.Error {
	return Errorf(trust.Forbidden, LinkedAuthorizationFailed, "The client '%s' with object id '%s' has permission to perform action '%s' on scope '%s'; however, it does not have permission to perform action '%s' on the linked scope(s) '%s' or the linked scope(s) are invalid.", client, object, action, scope, linkedAction, linked)
}

// NotAuthorized is ARM's 403.
func NotAuthorized(client, object, action, scope string) *trust.Error {
	return Errorf(trust.Forbidden, AuthorizationFailed, "The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s' or the scope is invalid. If access was recently granted, please refresh your credentials.", client, object, action, scope)
}
