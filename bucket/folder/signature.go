package folder

import (
	"crypto/hmac"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/sallyport/sallyport/bucket"
)

// skew that a request's date may have.
const skew = 15 * time.Minute

const (
	algorithm  = "AWS4-HMAC-SHA256"
	dateFormat = "20060102T150405Z"
	unsigned   = "UNSIGNED-PAYLOAD"
)

// claimed is what a request says of its own signature.
type claimed struct {
	credential string // access key and scope
	signed     []string
	signature  string
	date       time.Time
	query      bool // it is in the URL
	expires    time.Duration
	payload    string // hash of the body, in hex, or unsigned
}

// authenticate checks that a request was signed with the key, whole and in time.
// It says what the body's hash must be, or unsigned.
func (s *Store) authenticate(r *http.Request) (payload string, e *failure) {
	c, e := read(r)
	if e != nil {
		return "", e
	}
	now := s.Now().UTC()
	switch {
	case c.date.After(now.Add(skew)), !c.query && c.date.Before(now.Add(-skew)):
		return "", refuse(http.StatusForbidden, "RequestTimeTooSkewed", "the request's date is not the store's")
	case c.query && now.After(c.date.Add(c.expires)):
		return "", refuse(http.StatusForbidden, "AccessDenied", "the URL has expired")
	case c.credential != s.AccessKeyID+"/"+c.date.Format("20060102")+"/"+s.Region+"/s3/aws4_request":
		return "", refuse(http.StatusForbidden, "InvalidAccessKeyId", "the key, its region or its date is not this store's")
	case !slices.Contains(c.signed, "host"):
		return "", refuse(http.StatusForbidden, "AccessDenied", "the host is not signed")
	}
	for name := range r.Header {
		name = strings.ToLower(name)
		if (strings.HasPrefix(name, "x-amz-") || name == "if-none-match") && !slices.Contains(c.signed, name) {
			return "", refuse(http.StatusForbidden, "AccessDenied", "the header "+name+" is not signed")
		}
	}
	want, err := s.sign(r, c)
	if err != nil || !hmac.Equal([]byte(want), []byte(c.signature)) {
		return "", refuse(http.StatusForbidden, "SignatureDoesNotMatch", "the request was not signed with this store's key, or was changed")
	}
	return c.payload, nil
}

// read takes the claims apart. They are outside bytes.
func read(r *http.Request) (c claimed, e *failure) {
	denied := refuse(http.StatusForbidden, "AccessDenied", "sign the request: AWS Signature Version 4")
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return c, denied
	}
	date := ""
	if given := r.Header.Values("Authorization"); len(given) > 0 {
		rest, ours := strings.CutPrefix(given[0], algorithm+" ")
		if !ours || len(given) > 1 || query.Has("X-Amz-Signature") {
			return c, denied
		}
		for part := range strings.SplitSeq(rest, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			switch name {
			case "Credential":
				c.credential = value
			case "SignedHeaders":
				c.signed = strings.Split(value, ";")
			case "Signature":
				c.signature = value
			}
		}
		date, c.payload = r.Header.Get("X-Amz-Date"), r.Header.Get("X-Amz-Content-Sha256")
	} else {
		for _, name := range []string{"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"} {
			if len(query[name]) != 1 {
				return c, denied
			}
		}
		seconds, err := strconv.ParseInt(query.Get("X-Amz-Expires"), 10, 64)
		if err != nil || seconds < 1 || seconds > int64(bucket.MaxLife/time.Second) || query.Get("X-Amz-Algorithm") != algorithm {
			return c, denied
		}
		c.query, c.expires, c.payload = true, time.Duration(seconds)*time.Second, unsigned
		c.credential, c.signed, c.signature = query.Get("X-Amz-Credential"), strings.Split(query.Get("X-Amz-SignedHeaders"), ";"), query.Get("X-Amz-Signature")
		date = query.Get("X-Amz-Date")
	}
	if c.date, err = time.Parse(dateFormat, date); err != nil || len(c.signature) != 64 {
		return c, denied
	}
	if raw, err := hex.DecodeString(c.payload); c.payload != unsigned && (err != nil || len(raw) != 32) {
		return c, refuse(http.StatusNotImplemented, "NotImplemented", "send the body's SHA-256 or UNSIGNED-PAYLOAD: signed chunks are not read")
	}
	return c, nil
}

// sign signs the request anew, of what the claims say was signed.
func (s *Store) sign(r *http.Request, c claimed) (string, error) {
	u := *r.URL
	u.Scheme, u.Host = "https", r.Host
	query := u.Query()
	query.Del("X-Amz-Signature")
	if c.query { // the signer adds these
		for _, name := range []string{"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-SignedHeaders"} {
			query.Del(name)
		}
	}
	u.RawQuery = query.Encode()
	again := &http.Request{Method: r.Method, URL: &u, Host: r.Host, Header: http.Header{}}
	again = again.WithContext(r.Context())
	for _, name := range c.signed {
		switch name {
		case "host":
		case "content-length":
			again.ContentLength = r.ContentLength
		default:
			again.Header[http.CanonicalHeaderKey(name)] = r.Header.Values(name)
		}
	}
	key := aws.Credentials{AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretKey}
	signer := bucket.Signer()
	if !c.query {
		err := signer.SignHTTP(r.Context(), key, again, c.payload, "s3", s.Region, c.date)
		_, signature, _ := strings.Cut(again.Header.Get("Authorization"), "Signature=")
		return signature, err
	}
	signed, _, err := signer.PresignHTTP(r.Context(), key, again, c.payload, "s3", s.Region, c.date, noHoisting)
	if err != nil {
		return "", err
	}
	made, err := url.Parse(signed)
	if err != nil {
		return "", err
	}
	// What it signed must be what was claimed: no header more or less.
	if made.Query().Get("X-Amz-SignedHeaders") != strings.Join(c.signed, ";") {
		return "", nil
	}
	return made.Query().Get("X-Amz-Signature"), nil
}
