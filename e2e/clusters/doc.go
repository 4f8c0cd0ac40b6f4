// Package clusters holds no code: its tests tell the story of one binding on
// clusters that differ in what usually breaks such proxies: an API server that
// nothing else reaches, behind a packet filter, without client certificates,
// with OIDC and nobody anonymous.
package clusters
