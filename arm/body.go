package arm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/sallyport/sallyport/trust"
)

// MaxBody is the largest body that is read, ARM's own limit.
const MaxBody = 4 << 20

const maxDepth = 64

// members are what a resource's body may hold at its top level; what else
// stands there is a mistake of the caller's. Unknown members of properties are
// no mistake: newer api-versions have them.
var members = map[string]bool{
	"id": true, "name": true, "type": true, "location": true, "tags": true, "properties": true, "identity": true,
	"sku": true, "kind": true, "plan": true, "zones": true, "systemdata": true, "etag": true, "managedby": true,
	"extendedlocation": true, "scale": true, "apiversion": true, "resourcegroup": true,
}

// ReadBody reads a request's body up to MaxBody. An error is of kind Invalid,
// TooLarge or Unsupported.
func ReadBody(r *http.Request) ([]byte, error) {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		if t, _, err := mime.ParseMediaType(ct); err != nil || t != "application/json" && t != "text/json" {
			return nil, Errorf(trust.Unsupported, UnsupportedMediaType, "The content media type '%.100s' is not supported. Only 'application/json' is supported.", ct)
		}
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	if err != nil {
		return nil, Errorf(trust.Invalid, InvalidRequestContent, "The request content could not be read.").Because(err)
	}
	if len(data) > MaxBody {
		return nil, Errorf(trust.TooLarge, RequestContentTooLarge, "The request content is larger than the limit of %d bytes.", MaxBody)
	}
	return data, nil
}

// DecodeResource reads the body of a PUT or PATCH of a resource into v: one
// JSON object of known members at the top level. Keys match the fields of v
// without regard to case; a key that occurs twice is refused, since two readers
// could see two bodies. An error is of kind Invalid.
func DecodeResource(data []byte, v any) error {
	return decode(data, v, func(key string) error {
		if !members[trust.Fold(key)] {
			return invalidContent("Could not find member '%.100s' on object of type 'ResourceDefinition'. Path '%.100s'.", key, key)
		}
		return nil
	})
}

// Decode reads any other body into v, with the same strictness but for names.
func Decode(data []byte, v any) error { return decode(data, v, nil) }

func decode(data []byte, v any, top func(string) error) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return Errorf(trust.Invalid, InvalidRequestContent, "The request content was invalid: it is empty.")
	}
	if !utf8.Valid(data) {
		return invalidContent("It is not UTF-8.")
	}
	if err := shape(data, top); err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		var typeErr *json.UnmarshalTypeError
		if errors.As(err, &typeErr) {
			return invalidContent("The member '%s' has a value of type %s where another is expected.", typeErr.Field, typeErr.Value)
		}
		return invalidContent("It is not JSON.").Because(err)
	}
	return nil
}

func invalidContent(format string, args ...any) *trust.Error {
	return Errorf(trust.Invalid, InvalidRequestContent, "The request content was invalid and could not be deserialized: '%s'", fmt.Sprintf(format, args...))
}

// shape walks the tokens: one object, no key twice in one object, not too deep.
func shape(data []byte, top func(string) error) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var stack []map[string]bool // keys seen, nil for arrays
	key := false                // the next token is a key of the innermost object
	for first := true; ; first = false {
		t, err := d.Token()
		if err == io.EOF && !first && len(stack) == 0 {
			return nil
		}
		if err != nil {
			return invalidContent("It is not JSON.").Because(err)
		}
		if first && t != json.Delim('{') || !first && len(stack) == 0 {
			return invalidContent("It must be one JSON object.")
		}
		switch t := t.(type) {
		case json.Delim:
			switch t {
			case '{':
				stack = append(stack, map[string]bool{})
			case '[':
				stack = append(stack, nil)
			default:
				stack = stack[:len(stack)-1]
			}
			if len(stack) > maxDepth {
				return invalidContent("It is nested too deeply.")
			}
			key = len(stack) > 0 && stack[len(stack)-1] != nil
			continue
		case string:
			if key {
				if err := once(stack, t, top); err != nil {
					return err
				}
				key = false
				continue
			}
		}
		key = len(stack) > 0 && stack[len(stack)-1] != nil
	}
}

func once(stack []map[string]bool, key string, top func(string) error) error {
	// encoding/json folds these two onto k and s; ids and names here are ASCII.
	if strings.ContainsAny(key, "\u212a\u017f") {
		return invalidContent("The member '%.100s' is not spelled in ASCII.", key)
	}
	seen, folded := stack[len(stack)-1], trust.Fold(key)
	if seen[folded] {
		return invalidContent("The member '%.100s' occurs twice.", key)
	}
	seen[folded] = true
	if len(stack) == 1 && top != nil {
		return top(key)
	}
	return nil
}
