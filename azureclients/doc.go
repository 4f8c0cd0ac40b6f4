// Package azureclients owns tests alone: the clients that Azure ships, at exact
// versions, driven against a real sallyportd with nothing changed but the
// endpoint. It is a module of its own so that the product needs none of them,
// and it owns nothing that the product runs.
package azureclients
