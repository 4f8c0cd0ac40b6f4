package store

import "strings"

// RoleDefinition is a custom role definition of Microsoft.Authorization: what
// its holders may do on the control API. It has one place, whatever scope it is
// addressed at; AssignableScopes say where it can be seen and assigned.
type RoleDefinition struct {
	GUID, Name, Description string
	AssignableScopes        []string // ids of subscriptions and resource groups, as sent
	Permissions             []RolePermission
	Stamp                   Stamp
}

// RolePermission allows what some action covers and no notAction does. The data
// actions are kept and give nothing.
type RolePermission struct {
	Actions, NotActions, DataActions, NotDataActions []string `json:",omitempty"`
}

// RoleDefinitionPrefix holds the custom role definitions.
const RoleDefinitionPrefix = "/arm/providers/microsoft.authorization/roledefinitions/"

// Key places a definition.
func (r RoleDefinition) Key() string { return RoleDefinitionPrefix + strings.ToLower(r.GUID) }
