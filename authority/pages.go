package authority

import (
	"crypto/sha256"
	_ "embed" // pages.html
	"encoding/base64"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// The pages bring everything along: one style, and one script that posts a form.
// Nothing else is loaded or run.
const (
	pageStyle = `:root{color-scheme:light dark}
body{font:1rem/1.5 system-ui,sans-serif;margin:0;display:grid;place-items:center;min-height:100vh}
main{box-sizing:border-box;width:min(28rem,100%);padding:2rem 1.5rem}
h1{font-size:1.5rem;line-height:1.2}
label{display:block;margin-top:1rem;font-weight:600}
input[type=text],input[type=password]{box-sizing:border-box;width:100%;font:inherit;padding:.5rem;border:1px solid #767676;border-radius:4px}
button,a.button{display:block;box-sizing:border-box;width:100%;margin-top:1rem;padding:.625rem;font:inherit;font-weight:600;text-align:center;text-decoration:none;border:1px solid #0b5394;border-radius:4px;background:#0b5394;color:#fff;cursor:pointer}
button.second{background:transparent;color:inherit;border-color:#767676}
:focus-visible{outline:3px solid #b45f06;outline-offset:2px}
.problem{padding:.75rem;border-left:4px solid #b00020;background:#b0002018}
dt{font-weight:600;margin-top:.5rem}dd{margin:0;overflow-wrap:anywhere}
.server{margin-top:2rem;font-size:.875rem;opacity:.8}`
	pageScript = `document.getElementById("back").submit()`
)

//go:embed pages.html
var pagesHTML string

var pages = sync.OnceValue(func() *template.Template { return template.Must(template.New("").Parse(pagesHTML)) })

// page is what the templates are filled with.
type page struct {
	Title, Problem, Text, Server string
	Style                        template.CSS
	Script                       template.JS
	At0                          string // path of the tenant
	ID, Token                    string

	Client, Redirect, From, At, Hint string
	Device, BuiltIn                  bool
	Provider, ProviderLink           string
	Fields                           []field
}

type field struct{ Name, Value string }

func sourceHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// headers keep a page from being framed, stored, sniffed, from loading anything,
// and from sending forms elsewhere than to us and to one other place.
func (a *Authority) headers(w http.ResponseWriter, formTo string) {
	h := w.Header()
	h.Set("Content-Security-Policy", strings.TrimSpace("default-src 'none'; style-src "+sourceHash(pageStyle)+"; script-src "+sourceHash(pageScript)+
		"; base-uri 'none'; frame-ancestors 'none'; form-action 'self' "+formTo))
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
}

// show writes a page.
func (a *Authority) show(w http.ResponseWriter, status int, name, formTo string, p page) {
	a.headers(w, formTo)
	p.Style, p.Script, p.Server, p.At0 = pageStyle, pageScript, a.base, "/"+a.conf.Tenant
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := pages().ExecuteTemplate(w, name, p); err != nil {
		a.conf.Log.Debug("page not sent", "error", err)
	}
}

// origin is where a form may go besides to us: the client's program.
func origin(redirect string) string {
	u, err := url.Parse(redirect)
	if err != nil || redirect == "" {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// showSignIn is the page where a person sees who asks for what, and signs in.
func (a *Authority) showSignIn(w http.ResponseWriter, s *signIn, d *store.Device, problem string) {
	client, _ := a.publicClient(s.ClientID)
	p := page{Title: "Sign in", Problem: problem, ID: s.ID, Token: s.Token, Client: client, Redirect: origin(s.Redirect), Hint: s.Hint, BuiltIn: true}
	if d != nil {
		p.Device, p.From, p.At = true, d.From, d.Created.UTC().Format("15:04:05 MST, 2 January 2006")
	}
	if a.provider != nil {
		p.Provider, p.BuiltIn = a.provider.conf.Label, a.provider.conf.BuiltInUsers
		p.ProviderLink = "/" + a.conf.Tenant + "/signin/provider?" + url.Values{"signin": {s.ID}, "token": {s.Token}}.Encode()
	}
	status := http.StatusOK
	if problem != "" {
		status = http.StatusForbidden
	}
	a.show(w, status, "signin", origin(s.Redirect), p)
}

func (a *Authority) showDevice(w http.ResponseWriter, s *signIn, problem string) {
	status := http.StatusOK
	if problem != "" {
		status = http.StatusForbidden
	}
	a.show(w, status, "device", "", page{Title: "Enter the code", Problem: problem, ID: s.ID, Token: s.Token})
}

// showPost sends an answer to the client's program as a form (OAuth 2.0 Form Post
// Response Mode), which keeps it out of the browser's history.
func (a *Authority) showPost(w http.ResponseWriter, to string, with url.Values) {
	var fields []field
	for name := range with {
		fields = append(fields, field{name, with.Get(name)})
	}
	slices.SortFunc(fields, func(x, y field) int { return strings.Compare(x.Name, y.Name) })
	a.show(w, http.StatusOK, "post", origin(to), page{Title: "Going back to the program", Redirect: to, Fields: fields})
}

func (a *Authority) showDone(w http.ResponseWriter, title, text string) {
	a.show(w, http.StatusOK, "message", "", page{Title: title, Text: text})
}

func (a *Authority) showError(w http.ResponseWriter, status int, text string) {
	a.show(w, status, "message", "", page{Title: "This sign-in cannot go on", Problem: text})
}

// showFailure is showError for an error that may be of any kind.
func (a *Authority) showFailure(w http.ResponseWriter, err error) {
	var e *trust.Error
	if errors.As(err, &e) && e.Kind != trust.Internal {
		status := http.StatusBadRequest
		if e.Kind == trust.Unavailable {
			status = http.StatusServiceUnavailable
		}
		a.showError(w, status, e.Message)
		return
	}
	a.conf.Log.Error("sign-in failed", "error", err)
	w.Header().Set("Retry-After", "1")
	a.showError(w, http.StatusServiceUnavailable, "The server cannot go on now. Try again in a moment, at "+a.conf.Now().UTC().Add(time.Second).Format("15:04:05 MST")+".")
}
