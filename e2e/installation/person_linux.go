package installation

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// Person is a built-in user with a command line of their own.
type Person struct {
	Name, Password string
	i              *Installation
}

// NewPerson makes a user who is in groups, as the administrator.
func (i *Installation) NewPerson(ctx context.Context, name string, groups ...string) (*Person, error) {
	password, err := i.CLI(ctx, append([]string{"ad", "user", "create", "--user-principal-name", name, "--query", "password", "-o", "tsv", "--groups"}, groups...)...)
	return &Person{Name: name, Password: password, i: i}, err
}

// Env is the environment of the person's own commands.
func (p *Person) Env() []string {
	return []string{"SALLYPORT_CONFIG=" + p.i.Path(p.Name, "config.yaml"), "HOME=" + p.i.Path(p.Name), "NO_COLOR=1"}
}

// CLI runs the command line as the person.
func (p *Person) CLI(ctx context.Context, args ...string) (string, error) {
	return p.i.Exec(ctx, p.Env(), p.i.Program("sallyport"), args...)
}

var shownCode = regexp.MustCompile(`open the page (\S+) and enter the code (\S+) to authenticate`)

// SignIn signs the person in with a code, typed in a browser elsewhere.
func (p *Person) SignIn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.i.Program("sallyport"), "login", "--use-device-code", "--server", p.i.URL, "--ca-file", p.i.Path("server-ca.pem"), "-o", "none")
	cmd.Env = p.i.Env(p.Env()...)
	said, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var all strings.Builder
	visited := errors.New("no code was shown")
	for lines := bufio.NewScanner(said); lines.Scan(); {
		all.WriteString(lines.Text() + "\n")
		if m := shownCode.FindStringSubmatch(lines.Text()); m != nil {
			visited = p.visit(ctx, m[1], m[2])
			if visited != nil {
				cancel()
			}
		}
	}
	if err := errors.Join(visited, cmd.Wait()); err != nil {
		return fmt.Errorf("sign in %s: %w: %s", p.Name, err, all.String())
	}
	return nil
}

var (
	formAction  = regexp.MustCompile(`<form[^>]* action="([^"]+)"`)
	hiddenField = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)">`)
)

// visit fills in the pages as a person does.
func (p *Person) visit(ctx context.Context, page, code string) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	c := p.i.HTTP(1)
	defer c.CloseIdleConnections()
	c.Jar = jar
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return err
	}
	text, err := read(c.Do(req))
	for _, form := range []url.Values{{"code": {code}}, {"username": {p.Name}, "password": {p.Password}}} {
		if err == nil {
			text, err = send(ctx, c, page, text, form)
		}
	}
	if err == nil && !strings.Contains(text, "You have signed in") {
		err = fmt.Errorf("not signed in: %s", text)
	}
	return err
}

// send posts a page's first form, with more filled in.
func send(ctx context.Context, c *http.Client, at, page string, fill url.Values) (string, error) {
	base, err := url.Parse(at)
	action := formAction.FindStringSubmatch(page)
	if err != nil || action == nil {
		return "", fmt.Errorf("no form: %s", page)
	}
	to, err := base.Parse(html.UnescapeString(action[1]))
	if err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(page, "</form>")
	for _, m := range hiddenField.FindAllStringSubmatch(first, -1) {
		fill.Set(m[1], html.UnescapeString(m[2]))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), strings.NewReader(fill.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return read(c.Do(req))
}

func read(res *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}
