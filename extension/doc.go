// Package extension is the types of cluster extensions: their names, scopes and
// settings as data, and the check of what a request asks for against them.
//
// It owns what each setting is called, takes and does, and the rules between
// settings. It does no I/O: what is stored is package control's, and what an
// extension does in a cluster is the installer's. Sources: Azure's documentation
// of Microsoft.AzureML.Kubernetes, and the rules that az k8s-extension applies
// before it sends anything.
package extension
