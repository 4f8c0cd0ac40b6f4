package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
)

// spec is one command: what it is called, which arguments it takes, what it
// does. run's result is printed; nil prints nothing.
type spec struct {
	use, short, long, example string
	hidden                    bool
	positional                int // how many arguments without a name it takes at most
	flags                     func(f *flags)
	run                       func(ctx context.Context, args []string) (any, error)
	columns                   []output.Column
	// text writes the result for people, where neither --output nor --query asks
	// for something else.
	text func(w io.Writer, result any) error
}

// flags declares a command's arguments.
type flags struct {
	*pflag.FlagSet
	a   *app
	cmd *cobra.Command
}

const (
	requiredBy = "sallyport.required" // annotation: this flag or one of its other names
	spreads    = "sallyport.spreads"  // annotation: several values may follow the flag
	segments   = "sallyport.segment"  // annotation: the value becomes one segment of an id
)

// need is a required argument; text is an optional one.
func (f *flags) need(p *string, name, short, usage string) {
	f.StringVarP(p, name, short, "", usage+" [Required]")
	f.require(name)
}

func (f *flags) text(p *string, name, short, usage string) { f.StringVarP(p, name, short, "", usage) }

func (f *flags) flag(p *bool, name, short, usage string) { f.BoolVarP(p, name, short, false, usage) }

// many is an argument with several values, given as "--name A B", "--name A
// --name B" or both.
func (f *flags) many(p *[]string, name, short, usage string) {
	f.StringArrayVarP(p, name, short, nil, usage)
	f.annotate(name, spreads, "true")
}

func (f *flags) require(names ...string) {
	for _, n := range names {
		f.annotate(n, requiredBy, names...)
	}
}

// segment says that an argument becomes one segment of an id.
func (f *flags) segment(name string) { f.annotate(name, segments, "true") }

// alias gives an argument another name, which help does not show.
func (f *flags) alias(name, other, short string) {
	original := f.Lookup(name)
	f.AddFlag(&pflag.Flag{Name: other, Shorthand: short, Usage: original.Usage, Value: original.Value, Hidden: true,
		Annotations: map[string][]string{spreads: original.Annotations[spreads]}})
	if _, ok := original.Annotations[requiredBy]; ok {
		f.annotate(name, requiredBy, append(original.Annotations[requiredBy], other)...)
	}
}

func (f *flags) annotate(name, key string, values ...string) {
	// The only error is a flag that does not exist: a mistake in this program.
	if err := f.SetAnnotation(name, key, values); err != nil {
		panic(err)
	}
}

// group and cluster are az's usual pair.
func (f *flags) group(p *string) {
	f.need(p, "resource-group", "g", "Name of resource group.")
	f.complete("resource-group", f.a.groupNames)
}

// command makes a command of a spec.
func (a *app) command(s spec) *cobra.Command {
	cmd := &cobra.Command{Use: s.use, Short: s.short, Long: s.long, Example: indent(s.example), Hidden: s.hidden}
	f := &flags{cmd.Flags(), a, cmd}
	f.SortFlags = false
	if s.flags != nil {
		s.flags(f)
	}
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > s.positional {
			return usagef("unrecognized arguments: %s", strings.Join(args[s.positional:], " "))
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := missing(cmd); err != nil {
			return err
		}
		if err := a.print.Check(); err != nil {
			return usageError{err}
		}
		a.busy = a.progress()
		result, err := s.run(cmd.Context(), args)
		a.busy.stop()
		if err != nil {
			return err
		}
		if s.text != nil && a.print.Query == "" && !cmd.Flags().Changed("output") {
			return s.text(a.out, result)
		}
		a.print.Color, a.print.Width = a.outTerminal, a.outWidth
		return a.print.Print(a.out, result, s.columns)
	}
	return cmd
}

// missing names the required arguments that were not given, or are empty, and
// those that cannot be what they should be.
func missing(cmd *cobra.Command) error {
	var absent []string
	var wrong error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		text := "--" + f.Name
		if f.Shorthand != "" {
			text += "/-" + f.Shorthand
		}
		names, value := f.Annotations[requiredBy], f.Value.String()
		switch {
		case wrong != nil:
		case f.Changed && len(names) > 0 && value == "":
			wrong = usagef("argument %s: expected one argument, and it is empty", text)
		case f.Changed && len(f.Annotations[segments]) > 0 && !arm.ValidSegment(value):
			wrong = usagef(`argument %s: '%s' cannot be a name: no blanks and none of <>%%&\?/#"`, text, value)
		case len(names) > 0 && !slices.ContainsFunc(names, cmd.Flags().Changed):
			absent = append(absent, text)
		}
	})
	if len(absent) == 0 {
		return wrong
	}
	return usagef("the following arguments are required: %s", strings.Join(absent, ", "))
}

// noun is a group of commands.
func (a *app) noun(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	cmd.AddCommand(commands...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.FParseErrWhitelist.UnknownFlags = true // the word that is no command comes first
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknown(cmd, args[0])
		}
		cmd.SetOut(a.err)
		if err := cmd.Help(); err != nil {
			return err
		}
		return quietError{exitUsage}
	}
	return cmd
}

// unknown says which command may have been meant.
func unknown(parent *cobra.Command, word string) error {
	text := fmt.Sprintf("'%s' is misspelled or not recognized by the system.", word)
	parent.SuggestionsMinimumDistance = 2
	if near := parent.SuggestionsFor(word); len(near) > 0 {
		text += fmt.Sprintf("\nDid you mean: %s %s?", parent.CommandPath(), strings.Join(near, ", "))
	}
	return usagef("%s\nSee what there is: %s --help", text, parent.CommandPath())
}

// spread turns "--roles A B" into "--roles A --roles B", as az reads it, for
// the arguments that say so.
func spread(root *cobra.Command, args []string) ([]string, error) {
	cmd, _, err := root.Find(args)
	if err != nil || cmd == nil || len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		return args, nil // cobra says what is wrong with them
	}
	var out []string
	last := "" // the flag that takes what follows
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return append(out, args[i:]...), nil
		}
		name, dash := strings.CutPrefix(arg, "-")
		if !dash || name == "" {
			if last != "" && !slices.Contains(strings.Fields(cmd.CommandPath()), arg) {
				out = append(out, last)
			}
			out = append(out, arg)
			continue
		}
		last = ""
		out = append(out, arg)
		name, long := strings.CutPrefix(name, "-")
		name, _, assigned := strings.Cut(name, "=")
		flag := cmd.Flags().Lookup(name)
		if !long {
			flag = cmd.Flags().ShorthandLookup(name[:1])
		}
		if flag == nil || flag.NoOptDefVal != "" {
			continue
		}
		inline := assigned || !long && len(name) > 1
		if len(flag.Annotations[spreads]) > 0 {
			last = "--" + flag.Name
		}
		if !inline && i+1 < len(args) { // its first value, whatever it looks like
			i++
			out = append(out, args[i])
		}
	}
	return out, nil
}

// indent puts an example's lines two blanks in, as help shows them.
func indent(s string) string {
	if s == "" {
		return ""
	}
	lines := strings.Split(strings.Trim(s, "\n"), "\n")
	for i, l := range lines {
		lines[i] = "  " + strings.TrimSpace(l)
		if strings.HasPrefix(l, "    ") {
			lines[i] = "      " + strings.TrimSpace(l)
		}
	}
	return strings.Join(lines, "\n")
}

// complete completes an argument with names that the server knows.
func (f *flags) complete(flag string, names func(ctx context.Context) []string) {
	err := f.cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return names(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // a flag that does not exist: a mistake in this program
	}
}
