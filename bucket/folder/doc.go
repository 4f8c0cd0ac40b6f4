// Package folder is a small store for development: one bucket, kept as files in
// a folder, served in the part of S3's protocol that package bucket and the URLs
// it signs need: GET, HEAD, PUT, DELETE and copy of one object, and lists.
//
// Every request must be signed with the one key there is. An object is there
// whole or not at all. It has no versions, no parts of objects and no other
// bucket, and what it does not know it refuses.
package folder
