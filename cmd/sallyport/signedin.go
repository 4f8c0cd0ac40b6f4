package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

// signedInUser is az's name for whoever is signed in.
func (a *app) signedInUser() *cobra.Command {
	return a.noun("signed-in-user", "Manage the user who is signed in.", a.ownPassword())
}

func (a *app) ownPassword() *cobra.Command {
	var current, wanted string
	return a.command(spec{
		use: "change-password", short: "Change your own password.",
		long: `Change the password of the user who is signed in, for the present one. Both are asked
for, unless they are given. It ends all sign-ins of the user, this one too.`,
		example: "sallyport ad signed-in-user change-password",
		flags: func(f *flags) {
			f.text(&current, "current-password", "", "The present password; @FILE to read it from a file. Default: it is asked for.")
			f.text(&wanted, "new-password", "", "The new one, at least 12 characters; @FILE to read it from a file. Default: it is asked for, twice.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			c, err := a.session()
			if err != nil {
				return nil, err
			}
			if a.context.User == "" {
				e := trust.Errorf(trust.Precondition, "The caller of context '%s' is no user with a password.", a.context.Name)
				e.Hint = "sallyport login"
				return nil, e
			}
			if current, err = a.secretText("--current-password", "Current password", current); err != nil {
				return nil, err
			}
			given := wanted != ""
			if wanted, err = a.secretText("--new-password", "New password", wanted); err != nil {
				return nil, err
			}
			if !given {
				again, err := a.secretText("--new-password", "New password again", "")
				if err != nil {
					return nil, err
				}
				if again != wanted {
					return nil, usagef("the new password was not typed twice in the same way")
				}
			}
			if _, err := c.Do(ctx, client.Request{Method: http.MethodPost, Path: userPath(a.context.User) + "/changePassword", Version: client.SallyportVersion,
				Body: map[string]string{"currentPassword": current, "newPassword": wanted}}); err != nil {
				return nil, err
			}
			a.warn("the password is changed. All sign-ins have ended, this one too: sallyport login")
			return nil, nil
		},
	})
}

// secretText is an argument's text, or that of the file that it names, or else
// what a person types unseen.
func (a *app) secretText(argument, question, value string) (string, error) {
	if value != "" {
		text, err := a.fromFile(argument, value)
		return strings.TrimRight(text, "\r\n"), err
	}
	if !a.inTerminal {
		return "", usagef("the following arguments are required: %s (there is no terminal to ask for it)", argument)
	}
	a.busy.stop()
	defer func() { a.busy = a.progress() }()
	fmt.Fprint(a.err, question+": ")
	text, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(a.err)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return string(text), nil
}
