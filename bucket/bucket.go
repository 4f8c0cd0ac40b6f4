package bucket

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/sallyport/sallyport/bucket/signed"
	"github.com/sallyport/sallyport/trust"
)

// Config is what Open needs. All fields without "default" are required.
type Config struct {
	Endpoint string // "https://host[:port]" of the service, as callers everywhere reach it
	Region   string // default: us-east-1
	Bucket   string
	Prefix   string // of all keys; default: none
	// PathStyle puts the bucket's name into the path instead of the host.
	PathStyle   bool
	AccessKeyID string
	SecretKey   string
	CA          string // PEM: who signs the service's certificate; default: the usual CAs
	Now         func() time.Time
}

// Bucket is an open bucket.
type Bucket struct {
	Config
	base        *url.URL // of the bucket
	credentials aws.Credentials
	signer      *v4.Signer
	http        *http.Client
}

// Object is what is stored under a key.
type Object struct {
	Key      string
	Size     int64
	Modified time.Time
}

const (
	service = "s3"
	// MaxObject is what S3 takes in one PUT.
	MaxObject = 5 << 30
	// MaxLife of a signed URL, in SigV4.
	MaxLife = 7 * 24 * time.Hour
	// unsigned is SigV4's payload hash of what the signer does not see.
	unsigned = "UNSIGNED-PAYLOAD"
)

// Open checks the configuration. It does not ask the service anything; see Check.
func Open(c Config) (*Bucket, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, trust.Errorf(trust.Invalid, "the store's endpoint %q must read https://host[:port]", c.Endpoint)
	}
	if c.Bucket == "" || strings.ContainsAny(c.Bucket, "/?#% ") || c.AccessKeyID == "" || c.SecretKey == "" {
		return nil, trust.Errorf(trust.Invalid, "the store at %s needs a bucket's name, an access key and its secret", c.Endpoint)
	}
	if c.Region == "" {
		c.Region = "us-east-1"
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Prefix = strings.Trim(c.Prefix, "/"); c.Prefix != "" {
		c.Prefix += "/"
	}
	if c.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(c.CA)) {
		return nil, trust.Errorf(trust.Invalid, "the store's CA is no PEM certificate")
	}
	b := &Bucket{Config: c, credentials: aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretKey}, signer: Signer(),
		http: signed.Client(c.CA)}
	b.base = &url.URL{Scheme: "https", Host: c.Bucket + "." + u.Host, Path: "/"}
	if c.PathStyle {
		b.base.Host, b.base.Path = u.Host, "/"+c.Bucket+"/"
	}
	return b, nil
}

// Signer signs as S3 has it: paths are not escaped twice, and headers that are
// signed stay headers. The development store checks signatures with the same.
func Signer() *v4.Signer {
	return v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
}

// Close lets connections go.
func (b *Bucket) Close() { b.http.CloseIdleConnections() }

// String names the bucket, without anything secret.
func (b *Bucket) String() string { return b.base.Redacted() + b.Prefix }

// Get signs the reading of one object.
func (b *Bucket) Get(ctx context.Context, key string, life time.Duration) (string, error) {
	u, _, err := b.sign(ctx, http.MethodGet, key, nil, 0, life)
	return u, err
}

// Upload is what may be written: exactly so many bytes, and of this hash if it
// is given.
type Upload struct {
	Size   int64
	SHA256 string // hex; "": not known
	// Once refuses to replace what is there.
	Once bool
}

// Put signs the writing of one object. The request must have exactly the headers
// that are returned, and the size as its Content-Length.
func (b *Bucket) Put(ctx context.Context, key string, u Upload, life time.Duration) (string, map[string]string, error) {
	if u.Size < 0 || u.Size > MaxObject {
		return "", nil, trust.Errorf(trust.TooLarge, "a file of %d bytes cannot be stored: 5 GiB is the most", u.Size)
	}
	header := http.Header{}
	if u.Size == 0 && u.SHA256 == "" {
		u.SHA256 = nothing // the signer leaves out a length of zero
	}
	if u.SHA256 != "" {
		sum, err := hex.DecodeString(u.SHA256)
		if err != nil || len(sum) != 32 {
			return "", nil, trust.Errorf(trust.Invalid, "%.80q is no SHA-256", u.SHA256)
		}
		header.Set("X-Amz-Checksum-Sha256", base64.StdEncoding.EncodeToString(sum))
	}
	if u.Once {
		header.Set("If-None-Match", "*")
	}
	signed, _, err := b.sign(ctx, http.MethodPut, key, header, u.Size, life)
	plain := map[string]string{}
	for name := range header {
		plain[name] = header.Get(name)
	}
	return signed, plain, err
}

func (b *Bucket) sign(ctx context.Context, method, key string, header http.Header, size int64, life time.Duration) (string, http.Header, error) {
	if life < time.Second || life > MaxLife {
		return "", nil, trust.Errorf(trust.Invalid, "a URL cannot be good for %s", life)
	}
	if err := ValidKey(key); err != nil {
		return "", nil, err
	}
	at := *b.base
	at.Path += b.Prefix + key
	at.RawPath = escape(at.Path)
	at.RawQuery = url.Values{"X-Amz-Expires": {strconv.FormatInt(int64(life/time.Second), 10)}}.Encode()
	req, err := http.NewRequestWithContext(ctx, method, at.String(), nil)
	if err != nil {
		return "", nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.ContentLength = size
	signed, headers, err := b.signer.PresignHTTP(ctx, b.credentials, req, unsigned, service, b.Region, b.Now().UTC(),
		func(o *v4.SignerOptions) { o.DisableHeaderHoisting = true })
	if err != nil {
		return "", nil, fmt.Errorf("sign a URL: %w", err)
	}
	return signed, headers, nil
}

// ValidKey refuses what stores differ in.
func ValidKey(key string) error {
	bad := key == "" || len(key) > 900 || strings.HasPrefix(key, "/") || strings.HasSuffix(key, "/") || strings.ContainsFunc(key, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\uFFFD' || r == '\\' })
	for part := range strings.SplitSeq(key, "/") {
		bad = bad || part == "" || part == "." || part == ".." || len(part) > 250
	}
	if bad {
		return trust.Errorf(trust.Invalid, "%.120q cannot be a file's path in the store: parts of 1 to 250 bytes, 900 in all, without control characters, backslashes, '.' and '..'", key)
	}
	return nil
}

// escape is how S3 escapes a path: all but unreserved characters and slashes.
func escape(path string) string {
	var out strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '/' || c == '-' || c == '_' || c == '.' || c == '~' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

// listed is S3's answer to a list.
type listed struct {
	IsTruncated  bool
	EncodingType string // not every service knows it
	Contents     []struct {
		Key          string
		Size         int64
		LastModified time.Time
	}
}

// List gives at most limit objects below prefix, in the order of their keys,
// after a key. next is empty when there are no more.
func (b *Bucket) List(ctx context.Context, prefix, after string, limit int) (all []Object, next string, err error) {
	query := url.Values{"list-type": {"2"}, "encoding-type": {"url"}, "prefix": {b.Prefix + prefix}, "max-keys": {strconv.Itoa(min(max(limit, 1), 1000))}}
	if after != "" {
		query.Set("start-after", b.Prefix+after)
	}
	var l listed
	if err := b.call(ctx, "list", http.MethodGet, "", query, nil, &l); err != nil {
		return nil, "", err
	}
	for _, o := range l.Contents {
		key := o.Key
		if l.EncodingType == "url" {
			key, err = url.QueryUnescape(o.Key)
		}
		if err != nil || !strings.HasPrefix(key, b.Prefix+prefix) {
			return nil, "", trust.Errorf(trust.Unavailable, "the store lists %.200q below %.200q", o.Key, b.Prefix+prefix)
		}
		all = append(all, Object{Key: strings.TrimPrefix(key, b.Prefix), Size: o.Size, Modified: o.LastModified})
	}
	if l.IsTruncated && len(all) > 0 {
		next = all[len(all)-1].Key
	}
	return all, next, nil
}

// Copy makes an object of another one, in the store.
func (b *Bucket) Copy(ctx context.Context, from, to string) error {
	if err := errors.Join(ValidKey(from), ValidKey(to)); err != nil {
		return err
	}
	// S3 may find out that it fails when it has answered 200.
	var out struct {
		XMLName xml.Name
		Code    string
	}
	err := b.call(ctx, "copy", http.MethodPut, to, nil, http.Header{"X-Amz-Copy-Source": {"/" + escape(b.Config.Bucket+"/"+b.Prefix+from)}}, &out)
	if err == nil && out.XMLName.Local != "CopyObjectResult" {
		return trust.Errorf(trust.Unavailable, "the store refuses to copy (%.60s)", out.Code)
	}
	return err
}

// deleting is how many objects are deleted at once.
const deleting = 8

// Delete removes every object whose key begins with prefix: end it with a slash to
// mean a folder. None is no error.
func (b *Bucket) Delete(ctx context.Context, prefix string) error {
	if strings.Trim(prefix, "/") == "" {
		return trust.Errorf(trust.Internal, "a prefix is needed to delete")
	}
	for {
		all, next, err := b.List(ctx, prefix, "", 1000)
		if err != nil {
			return err
		}
		if err := b.deleteAll(ctx, all); err != nil {
			return err
		}
		if next == "" {
			return nil
		}
	}
}

func (b *Bucket) deleteAll(ctx context.Context, all []Object) error {
	var wg sync.WaitGroup
	errs, slots := make([]error, len(all)), make(chan struct{}, deleting)
	for i := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = b.call(ctx, "delete", http.MethodDelete, all[i].Key, nil, nil, nil)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Check asks the service whether the bucket is there and the key is good.
func (b *Bucket) Check(ctx context.Context) error {
	_, _, err := b.List(ctx, "", "", 1)
	return err
}

const (
	tries     = 3
	tryAgain  = 200 * time.Millisecond
	maxAnswer = 8 << 20
)

// call asks the service, again when it is away for a moment: everything that is
// asked may be repeated. out is decoded from XML.
func (b *Bucket) call(ctx context.Context, what, method, key string, query url.Values, header http.Header, out any) error {
	var err error
	for try := range tries {
		if try > 0 {
			timer := time.NewTimer(tryAgain << try)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
			timer.Stop()
		}
		var again bool
		if again, err = b.once(ctx, what, method, key, query, header, out); !again || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// once is one exchange; again tells whether it may go better another time.
func (b *Bucket) once(ctx context.Context, what, method, key string, query url.Values, header http.Header, out any) (again bool, err error) {
	at := *b.base
	if key != "" {
		if err := ValidKey(key); err != nil {
			return false, err
		}
		at.Path += b.Prefix + key
	}
	at.RawPath, at.RawQuery = escape(at.Path), query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, at.String(), nil)
	if err != nil {
		return false, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("X-Amz-Content-Sha256", nothing)
	if err := b.signer.SignHTTP(ctx, b.credentials, req, nothing, service, b.Region, b.Now().UTC()); err != nil {
		return false, fmt.Errorf("sign a request: %w", err)
	}
	res, err := b.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return false, fmt.Errorf("%s in the store: %w", what, ctx.Err())
		}
		return true, trust.Errorf(trust.Unavailable, "the store does not answer").Because(fmt.Errorf("%s: %w", what, err))
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return true, trust.Errorf(trust.Unavailable, "the store's answer was cut off").Because(err)
	}
	if res.StatusCode >= 300 {
		return res.StatusCode >= 500, refusal(what, res, body)
	}
	if out == nil {
		return false, nil
	}
	if err := xml.Unmarshal(body, out); err != nil {
		return false, trust.Errorf(trust.Unavailable, "the store's answer cannot be read").Because(err)
	}
	return false, nil
}

// nothing is the hash of an empty body.
const nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// refusal is an error as its caller can tell it: the store's own code, nothing of
// the request.
func refusal(what string, res *http.Response, body []byte) error {
	var e struct{ Code, Message string }
	if xml.Unmarshal(body, &e) != nil || e.Code == "" {
		e.Code = res.Status
	}
	kind := trust.Unavailable
	if res.StatusCode == http.StatusNotFound {
		kind = trust.NotFound
	}
	return trust.Errorf(kind, "the store refuses to %s (%.60s)", what, e.Code).Because(fmt.Errorf("%.300s", e.Message))
}
