package main

// An image without roots of its own has Mozilla's, as pinned in go.mod: what the
// agents believe must not depend on the machine that built the image. Where the
// system has roots, or SSL_CERT_FILE names some, those count and these do not.
import _ "golang.org/x/crypto/x509roots/fallback"
