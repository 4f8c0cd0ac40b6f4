package folder

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/sallyport/sallyport/bucket"
)

func noHoisting(o *v4.SignerOptions) { o.DisableHeaderHoisting = true }

// Config is what New needs. All fields are required.
type Config struct {
	Dir         string // everything lies below it
	Bucket      string
	Region      string
	AccessKeyID string
	SecretKey   string
	Now         func() time.Time
	Log         *slog.Logger
}

// Store serves the bucket.
type Store struct{ Config }

// Folders below Dir.
const (
	objects   = "objects"
	unsettled = "unsettled" // what is being written
)

// New makes the folders and removes what an earlier process had not finished.
func New(c Config) (*Store, error) {
	if c.Dir == "" || c.Bucket == "" || c.Region == "" || c.AccessKeyID == "" || c.SecretKey == "" || c.Now == nil || c.Log == nil {
		return nil, errors.New("the store needs a folder, a bucket, a region and a key")
	}
	if err := os.RemoveAll(filepath.Join(c.Dir, unsettled)); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	for _, d := range []string{objects, unsettled} {
		if err := os.MkdirAll(filepath.Join(c.Dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
	}
	return &Store{c}, nil
}

// failure is an error as S3 writes it.
type failure struct {
	XMLName xml.Name `xml:"Error"`
	Code    string
	Message string
	Status  int `xml:"-"`
}

func refuse(status int, code, message string) *failure {
	return &failure{Status: status, Code: code, Message: message}
}

var (
	noKey   = refuse(http.StatusNotFound, "NoSuchKey", "there is no such object")
	taken   = refuse(http.StatusPreconditionFailed, "PreconditionFailed", "there is an object of this key")
	unknown = refuse(http.StatusNotImplemented, "NotImplemented", "this store does not do that")
)

// ServeHTTP answers. Nothing is read from a request's body, nor said of what is
// stored, before the signature is checked.
func (s *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	payload, e := s.authenticate(r)
	if e == nil {
		e = s.serve(w, r, payload)
	}
	if e == nil {
		return
	}
	if e.Status >= http.StatusInternalServerError {
		s.Log.ErrorContext(r.Context(), "store failed", "method", r.Method, "path", r.URL.Path, "code", e.Code, "reason", e.Message)
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(e.Status)
	if r.Method != http.MethodHead {
		_ = xml.NewEncoder(w).Encode(e) // the caller is gone: nothing to do
	}
}

func (s *Store) serve(w http.ResponseWriter, r *http.Request, payload string) *failure {
	name, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if name != s.Bucket {
		return refuse(http.StatusNotFound, "NoSuchBucket", "there is no such bucket")
	}
	query := r.URL.Query()
	for name := range query {
		if !strings.HasPrefix(name, "X-Amz-") && !slices.Contains(known, name) {
			return unknown
		}
	}
	if key == "" {
		switch {
		case r.Method == http.MethodHead:
			return nil
		case r.Method == http.MethodGet && query.Get("list-type") == "2":
			return s.list(w, query)
		}
		return unknown
	}
	if err := bucket.ValidKey(key); err != nil {
		return refuse(http.StatusBadRequest, "InvalidURI", err.Error())
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return s.get(w, r, key)
	case http.MethodPut:
		if from := r.Header.Get("X-Amz-Copy-Source"); from != "" {
			return s.copy(w, from, key)
		}
		return s.put(w, r, key, payload)
	case http.MethodDelete:
		if err := s.remove(key); err != nil {
			return trouble(err)
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return unknown
}

// known are the parameters of a query that mean something here.
var known = []string{"x-id", "list-type", "prefix", "start-after", "max-keys", "encoding-type"}

// file is where an object lies. A name begins with f and a folder's with d, so
// that a key may be the beginning of another, and none is special to the system.
func (s *Store) file(key string) string {
	parts := strings.Split(key, "/")
	for i := range parts {
		parts[i] = "d" + parts[i]
	}
	parts[len(parts)-1] = "f" + parts[len(parts)-1][1:]
	return filepath.Join(append([]string{s.Dir, objects}, parts...)...)
}

func (s *Store) get(w http.ResponseWriter, r *http.Request, key string) *failure {
	f, err := os.Open(s.file(key))
	if err != nil {
		return trouble(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return trouble(err)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size()))
	http.ServeContent(w, r, "", info.ModTime(), f)
	return nil
}

func (s *Store) put(w http.ResponseWriter, r *http.Request, key, payload string) *failure {
	if r.ContentLength < 0 {
		return refuse(http.StatusLengthRequired, "MissingContentLength", "say how long the object is")
	}
	if r.ContentLength > bucket.MaxObject {
		return refuse(http.StatusBadRequest, "EntityTooLarge", "5 GiB is the most")
	}
	sum := r.Header.Get("X-Amz-Checksum-Sha256")
	return s.write(w, key, r.Body, r.ContentLength, r.Header.Get("If-None-Match") == "*", func(h hash.Hash) *failure {
		got := h.Sum(nil)
		if payload != unsigned && payload != hex.EncodeToString(got) {
			return refuse(http.StatusBadRequest, "XAmzContentSHA256Mismatch", "the body is not what was signed")
		}
		if sum != "" && sum != base64.StdEncoding.EncodeToString(got) {
			return refuse(http.StatusBadRequest, "BadDigest", "the body does not have the checksum that it should have")
		}
		return nil
	})
}

func (s *Store) copy(w http.ResponseWriter, source, key string) *failure {
	source, err := url.PathUnescape(strings.TrimPrefix(source, "/"))
	name, from, _ := strings.Cut(source, "/")
	if err != nil || name != s.Bucket || bucket.ValidKey(from) != nil {
		return refuse(http.StatusBadRequest, "InvalidArgument", "the copy's source is no object of this store")
	}
	f, err := os.Open(s.file(from))
	if err != nil {
		return trouble(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return trouble(err)
	}
	if e := s.write(nil, key, f, info.Size(), false, func(hash.Hash) *failure { return nil }); e != nil {
		return e
	}
	return answer(w, struct {
		XMLName      xml.Name `xml:"CopyObjectResult"`
		LastModified string
	}{LastModified: s.Now().UTC().Format(time.RFC3339)})
}

// write keeps an object: whole, on the disk, and then in one step under its key.
func (s *Store) write(w http.ResponseWriter, key string, body io.Reader, size int64, once bool, check func(hash.Hash) *failure) *failure {
	to := s.file(key)
	if _, err := os.Stat(to); once && err == nil {
		return taken
	}
	f, err := os.CreateTemp(filepath.Join(s.Dir, unsettled), "*")
	if err != nil {
		return trouble(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(body, size))
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return trouble(err)
	}
	if e := check(h); e != nil {
		return e
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return trouble(err)
	}
	if err := settle(f.Name(), to, once); errors.Is(err, fs.ErrExist) {
		return taken
	} else if err != nil {
		return trouble(err)
	}
	if w != nil {
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, h.Sum(nil)[:16]))
		w.WriteHeader(http.StatusOK)
	}
	return nil
}

// settle gives a file its name. A deletion beside it may take an empty folder
// away again.
func settle(from, to string, once bool) error {
	var err error
	for range 10 {
		if err = os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			continue
		}
		if once {
			err = os.Link(from, to)
		} else {
			err = os.Rename(from, to)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

func (s *Store) remove(key string) error {
	file := s.file(key)
	if err := os.Remove(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for dir := filepath.Dir(file); dir != filepath.Join(s.Dir, objects); dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil { // not empty
			return nil
		}
	}
	return nil
}

// listed is an object in a list.
type listed struct {
	Key          string
	LastModified string
	Size         int64
}

func (s *Store) list(w http.ResponseWriter, query url.Values) *failure {
	most := 1000
	if n, err := strconv.Atoi(query.Get("max-keys")); err == nil && n > 0 {
		most = min(n, most)
	}
	all, err := s.below(query.Get("prefix"))
	if err != nil {
		return trouble(err)
	}
	after := query.Get("start-after")
	all = slices.DeleteFunc(all, func(l listed) bool { return l.Key <= after && after != "" })
	more := len(all) > most
	all = all[:min(len(all), most)]
	encoded := query.Get("encoding-type") == "url"
	for i := range all {
		if encoded {
			all[i].Key = url.QueryEscape(all[i].Key)
		}
	}
	return answer(w, struct {
		XMLName      xml.Name `xml:"ListBucketResult"`
		Name         string
		Prefix       string
		KeyCount     int
		MaxKeys      int
		IsTruncated  bool
		EncodingType string `xml:",omitempty"`
		Contents     []listed
	}{Name: s.Bucket, Prefix: query.Get("prefix"), KeyCount: len(all), MaxKeys: most, IsTruncated: more, EncodingType: query.Get("encoding-type"), Contents: all})
}

// below are the objects whose keys begin with prefix, in the order of keys.
func (s *Store) below(prefix string) ([]listed, error) {
	root := filepath.Join(s.Dir, objects)
	from := root
	if i := strings.LastIndexByte(prefix, '/'); i > 0 {
		if bucket.ValidKey(prefix[:i]) != nil {
			return nil, nil
		}
		from = filepath.Join(filepath.Dir(s.file(prefix[:i])), "d"+prefix[strings.LastIndexByte(prefix[:i], '/')+1:i])
	}
	var all []listed
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // deleted beside it
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		parts := strings.Split(rel, string(filepath.Separator))
		for i := range parts {
			parts[i] = parts[i][1:]
		}
		key := strings.Join(parts, "/")
		info, err := d.Info()
		if err != nil || !strings.HasPrefix(key, prefix) {
			return nil
		}
		all = append(all, listed{key, info.ModTime().UTC().Format("2006-01-02T15:04:05.000Z"), info.Size()})
		return nil
	})
	slices.SortFunc(all, func(a, b listed) int { return strings.Compare(a.Key, b.Key) })
	return all, err
}

func answer(w http.ResponseWriter, v any) *failure {
	w.Header().Set("Content-Type", "application/xml")
	_, _ = io.WriteString(w, xml.Header) // the caller is gone: nothing to do
	_ = xml.NewEncoder(w).Encode(v)
	return nil
}

// trouble translates errors of the file system.
func trouble(err error) *failure {
	var path *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return noKey
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return refuse(http.StatusInsufficientStorage, "StorageFull", "the store's disk is full: nothing was written")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return refuse(http.StatusBadRequest, "IncompleteBody", "the body ended too early: nothing was written")
	case errors.As(err, &path):
		return refuse(http.StatusInternalServerError, "InternalError", "the store's disk cannot be used: "+path.Err.Error())
	}
	return refuse(http.StatusInternalServerError, "InternalError", "the store cannot do this now")
}
