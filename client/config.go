package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/trust"
)

// File is the file of contexts: which servers there are, and as whom to call
// them. It holds no secret; those lie in files of their own, mode 0600.
type File struct {
	Current  string    `json:"current,omitempty"`
	Contexts []Context `json:"contexts,omitempty"`

	path string
}

// Context is one server and one caller.
type Context struct {
	Name         string `json:"name"`
	Server       string `json:"server"`              // https://host[:port]
	Authority    string `json:"authority,omitempty"` // default: Server
	CA           string `json:"ca,omitempty"`        // PEM; "": the system's roots
	Tenant       string `json:"tenant"`
	Subscription string `json:"subscription,omitempty"` // GUID, the default of --subscription
	ClientID     string `json:"clientId"`
	User         string `json:"user,omitempty"` // name of the person, "" for others
	// One of these is set.
	SecretFile      string `json:"secretFile,omitempty"`         // holds the client secret alone
	AssertionFile   string `json:"federatedTokenFile,omitempty"` // holds a token of another issuer
	CertificateFile string `json:"certificateFile,omitempty"`    // holds a private key and its registered certificate, PEM
	SessionFile     string `json:"sessionFile,omitempty"`        // holds a person's Session
	Admin           string `json:"adminFile,omitempty"`          // an AdminFile, read anew each time
}

// AdminFile is the credential that a server's first start writes, JSON, mode
// 0600.
type AdminFile struct {
	Server         string `json:"server"`
	Authority      string `json:"authority,omitempty"` // default: Server
	CA             string `json:"ca,omitempty"`        // PEM
	TenantID       string `json:"tenantId"`
	ClientID       string `json:"clientId"`
	ClientSecret   string `json:"clientSecret"`
	SubscriptionID string `json:"subscriptionId,omitempty"`
}

// ReadAdminFile reads and checks a credential file.
func ReadAdminFile(path string) (*AdminFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, trust.Errorf(trust.NotFound, "the credential file %s cannot be read", path).Because(err)
	}
	var a AdminFile
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, trust.Errorf(trust.Invalid, "%s is not a credential file", path).Because(err)
	}
	if a.Server == "" || a.TenantID == "" || a.ClientID == "" || a.ClientSecret == "" {
		return nil, trust.Errorf(trust.Invalid, "the credential file %s lacks server, tenantId, clientId or clientSecret", path)
	}
	return &a, nil
}

// ConfigPath is where the file of contexts lies: $SALLYPORT_CONFIG, else
// sallyport/config.yaml in the user's configuration folder ($XDG_CONFIG_HOME or
// ~/.config, %AppData%, ~/Library/Application Support).
func ConfigPath() (string, error) {
	if p := os.Getenv("SALLYPORT_CONFIG"); p != "" {
		return p, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", trust.Errorf(trust.Invalid, "there is no configuration folder: set SALLYPORT_CONFIG to a file").Because(err)
	}
	return filepath.Join(dir, "sallyport", "config.yaml"), nil
}

// Load reads the file of contexts; one that does not exist is empty.
func Load(path string) (*File, error) {
	f := &File{path: path}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, trust.Errorf(trust.Invalid, "the configuration %s cannot be read", path).Because(err)
	}
	if err := yaml.UnmarshalStrict(data, f); err != nil {
		return nil, trust.Errorf(trust.Invalid, "the configuration %s is not valid", path).Because(err)
	}
	return f, nil
}

// Save writes the file, and its folder if need be.
func (f *File) Save() error {
	data, err := yaml.Marshal(f)
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return writeFile(f.path, data)
}

// Path is where the file lies.
func (f *File) Path() string { return f.path }

// Use finds a context; "" means the current one.
func (f *File) Use(name string) (*Context, error) {
	if name == "" {
		name = f.Current
	}
	if name == "" {
		e := trust.Errorf(trust.Unauthenticated, "Please run 'sallyport login' to setup account.")
		e.Hint = "sallyport login --admin-file FILE, with the file that the server wrote at its first start; people: sallyport login --server URL"
		return nil, e
	}
	i := slices.IndexFunc(f.Contexts, func(c Context) bool { return c.Name == name })
	if i < 0 {
		e := trust.Errorf(trust.NotFound, "there is no context %q in %s", name, f.path)
		e.Hint = "sallyport account list"
		return nil, e
	}
	return &f.Contexts[i], nil
}

// Put adds or replaces a context by name.
func (f *File) Put(c Context) {
	i := slices.IndexFunc(f.Contexts, func(o Context) bool { return o.Name == c.Name })
	if i < 0 {
		f.Contexts = append(f.Contexts, c)
		return
	}
	f.Contexts[i] = c
}

// Remove takes a context out, with the secret kept for it.
func (f *File) Remove(name string) error {
	c, err := f.Use(name)
	if err != nil {
		return err
	}
	own := f.secretPath(c.Name)
	for _, kept := range []string{c.SecretFile, c.SessionFile} {
		if kept != own && !strings.HasPrefix(kept, own+".session-") {
			continue
		}
		if err := os.Remove(kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove secret: %w", err)
		}
	}
	name = c.Name
	f.Contexts = slices.DeleteFunc(f.Contexts, func(o Context) bool { return o.Name == name })
	if f.Current == name {
		f.Current = ""
	}
	return nil
}

// KeepSecret writes a client secret into a file of its own beside the
// configuration and returns its path.
func (f *File) KeepSecret(context, secret string) (string, error) {
	path := f.secretPath(context)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("keep secret: %w", err)
	}
	return path, writeFile(path, []byte(secret+"\n"))
}

func (f *File) secretPath(context string) string {
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune(`/\:*?"<>|`, r) || r < ' ' {
			return '_'
		}
		return r
	}, context)
	return filepath.Join(filepath.Dir(f.path), "secrets", name)
}

// Tokens is the token cache beside the configuration.
func (f *File) Tokens() *TokenCache {
	return &TokenCache{Dir: filepath.Join(filepath.Dir(f.path), "tokens")}
}

// Credential is how the context's caller gets tokens.
func (c *Context) Credential(cache *TokenCache) (*AuthorityCredential, error) {
	a := &AuthorityCredential{Authority: c.authority(), Trust: ServerTrust{CA: c.CA}, Tenant: c.Tenant, ClientID: c.ClientID, Cache: cache}
	switch {
	case c.Admin != "":
		admin, err := ReadAdminFile(c.Admin)
		if err != nil {
			return nil, err
		}
		a.ClientID, a.Secret.Text = admin.ClientID, admin.ClientSecret
	case c.SecretFile != "":
		data, err := os.ReadFile(c.SecretFile)
		if err != nil {
			return nil, trust.Errorf(trust.Unauthenticated, "the secret of context %s is gone", c.Name).Because(err)
		}
		a.Secret.Text = strings.TrimSpace(string(data))
	default:
		a.Secret.AssertionFile, a.Secret.Certificate, a.Secret.SessionFile = c.AssertionFile, c.CertificateFile, c.SessionFile
	}
	return a, nil
}

func (c *Context) authority() string {
	if c.Authority != "" {
		return c.Authority
	}
	return c.Server
}

// Open makes a client for the context.
func (c *Context) Open(cache *TokenCache, userAgent string) (*Client, error) {
	credential, err := c.Credential(cache)
	if err != nil {
		return nil, err
	}
	return New(Config{Server: c.Server, Trust: ServerTrust{CA: c.CA}, Credential: credential, UserAgent: userAgent})
}
