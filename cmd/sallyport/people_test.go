package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"html"
	"io"
	"math/big"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// certify writes a certificate, and one file with it and its key, for stories.
func certify(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nightly"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	both := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), public...)
	return errors.Join(os.WriteFile(filepath.Join(dir, "certificate.pem"), public, 0o600), os.WriteFile(filepath.Join(dir, "key-and-certificate.pem"), both, 0o600))
}

// visitor is a person at a browser, for stories.
type visitor struct {
	ca, name, password string
	code               string // of a device sign-in
}

// browse is a browser of few words: $BROWSER is this program, with NAME and
// PASSWORD in the environment. It fills the sign-in page in and takes the answer
// where it leads, as a person's browser does.
func browse() {
	v := visitor{ca: os.Getenv("CA_FILE"), name: os.Getenv("NAME"), password: os.Getenv("PASSWORD")}
	if err := v.visit(os.Args[len(os.Args)-1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var deviceMessage = regexp.MustCompile(`open the page (\S+) and enter the code (\S+) to authenticate`)

// device runs a command that shows a device code, and signs $NAME in with it:
// "device sallyport login --use-device-code …".
func device(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: device COMMAND ARGS...")
	}
	path, err := exec.LookPath(args[0])
	ts.Check(err)
	cmd := exec.Command(path, args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"SALLYPORT_CONFIG", "HOME", "PATH"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	said, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	var all strings.Builder
	v := visitor{ca: ts.Getenv("CA_FILE"), name: ts.Getenv("NAME"), password: ts.Getenv("PASSWORD")}
	for lines := bufio.NewScanner(said); lines.Scan(); {
		all.WriteString(lines.Text() + "\n")
		if m := deviceMessage.FindStringSubmatch(lines.Text()); m != nil && v.code == "" {
			v.code = m[2]
			ts.Check(v.visit(m[1]))
		}
	}
	if err := cmd.Wait(); err != nil || v.code == "" {
		ts.Fatalf("%v: %s", err, all.String())
	}
}

var (
	formAction  = regexp.MustCompile(`<form[^>]* action="([^"]+)"`)
	hiddenField = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)">`)
)

func (v visitor) visit(page string) error {
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(v.ca)
	if err != nil {
		return err
	}
	roots.AppendCertsFromPEM(ca)
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	c := &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: 30 * time.Second}
	defer c.CloseIdleConnections()
	at, err := url.Parse(page)
	if err != nil {
		return err
	}
	text, err := read(c.Get(page))
	if err != nil {
		return err
	}
	if v.code != "" {
		if text, err = send(c, at, text, url.Values{"code": {v.code}}); err != nil {
			return err
		}
	}
	if text, err = send(c, at, text, url.Values{"username": {v.name}, "password": {v.password}}); err != nil {
		return err
	}
	if strings.Contains(text, "Go back to the program") { // what its script does
		if text, err = send(c, at, text, nil); err != nil {
			return err
		}
	}
	if !strings.Contains(text, "signed in") {
		return fmt.Errorf("not signed in: %s", text)
	}
	return nil
}

// send posts a page's first form, with more filled in.
func send(c *http.Client, at *url.URL, page string, fill url.Values) (string, error) {
	action := formAction.FindStringSubmatch(page)
	if action == nil {
		return "", fmt.Errorf("no form: %s", page)
	}
	to, err := at.Parse(html.UnescapeString(action[1]))
	if err != nil {
		return "", err
	}
	form := url.Values{}
	first, _, _ := strings.Cut(page, "</form>")
	for _, m := range hiddenField.FindAllStringSubmatch(first, -1) {
		form.Set(m[1], html.UnescapeString(m[2]))
	}
	for name, values := range fill {
		form[name] = values
	}
	return read(c.PostForm(to.String(), form))
}

func read(res *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}
