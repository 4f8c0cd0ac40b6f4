package main

// An image without roots of its own has Mozilla's, as pinned in go.mod: whom the
// extension believes must not depend on the machine that built the image.
import _ "golang.org/x/crypto/x509roots/fallback"
