// Package cli is what the commands have in common: C OpenCT's conventions for
// options, and the rules for output.
//
// Results go to standard output and are an interface; scripts parse them.
// Everything else goes to standard error. An error is one line that begins
// with the program's name, in lower case and without a full stop; a second
// line may say what to do next ("next: ..."). What would talk to a terminal is taken
// out of both. Exit status is 0 or 1, or
// ExitConfig.
package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"openct/internal/printable"
)

// Version is the release, set by the linker (see Makefile).
var Version = "0.8.0"

// ConfigFile is the configuration file, set by the linker where it is
// installed elsewhere.
var ConfigFile = "/etc/openct.conf"

// Program is one command line program.
type Program struct {
	Name  string
	Usage string // the whole help text, ends with a newline
	Flags *pflag.FlagSet

	Out, Err io.Writer

	help, version *bool
}

// New starts a program's command line: -h and -v are there, the caller adds
// its own to Flags. As with getopt, options may follow operands.
func New(name, usage string, out, err io.Writer) *Program {
	p := &Program{Name: name, Usage: usage, Out: printable.Writer(out), Err: printable.Writer(err)}
	p.Flags = pflag.NewFlagSet(name, pflag.ContinueOnError)
	p.Flags.SortFlags = false
	p.Flags.SetOutput(io.Discard)
	p.help = p.Flags.BoolP("help", "h", false, "")
	p.version = p.Flags.BoolP("version", "v", false, "")
	return p
}

// ExitConfig is the exit status of "openct-control init" when it has served what
// it could, and openct.conf names a driver that does not exist (EX_CONFIG of
// sysexits.h; systemd.exec(5) calls it CONFIG).
const ExitConfig = 78

// ErrExit ends a program at once with the given status; the message has been
// printed.
type ErrExit int

func (e ErrExit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Parse reads the options and returns the operands. -h, -v and mistakes are
// answered here, with an ErrExit.
func (p *Program) Parse(args []string) ([]string, error) {
	if err := p.Flags.Parse(args); err != nil {
		return nil, p.Mistake("%s", mistake(err))
	}
	switch {
	case *p.help:
		fmt.Fprint(p.Out, p.Usage)
		return nil, ErrExit(0)
	case *p.version:
		fmt.Fprintf(p.Out, "OpenCT %s\n", Version)
		return nil, ErrExit(0)
	}
	return p.Flags.Args(), nil
}

// mistake says what is wrong with an option in getopt's words, which C OpenCT's
// users know.
func mistake(err error) string {
	var unknown *pflag.NotExistError
	var bare *pflag.ValueRequiredError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "":
		return fmt.Sprintf("invalid option -- '%s'", unknown.GetSpecifiedName())
	case errors.As(err, &unknown):
		return fmt.Sprintf("unrecognized option '--%s'", unknown.GetSpecifiedName())
	case errors.As(err, &bare) && bare.GetSpecifiedShortnames() != "":
		return fmt.Sprintf("option requires an argument -- '%s'", bare.GetSpecifiedName())
	case errors.As(err, &bare):
		return fmt.Sprintf("option '--%s' requires an argument", bare.GetSpecifiedName())
	case errors.As(err, &invalid):
		return fmt.Sprintf("invalid argument '%s' for option '--%s'", invalid.GetValue(), invalid.GetFlag().Name)
	}
	return err.Error()
}

// Misuse prints the whole usage to standard error: the answer to a command line
// without a command.
func (p *Program) Misuse() error {
	fmt.Fprint(p.Err, p.Usage)
	return ErrExit(1)
}

// Mistake prints what is wrong with the command line, and of the usage the first
// paragraph only: behind the whole of it the mistake would leave the screen.
func (p *Program) Mistake(format string, args ...any) error {
	synopsis, _, _ := strings.Cut(p.Usage, "\n\n")
	fmt.Fprintf(p.Err, "%s: %s\n%s\nnext: %s --help\n", p.Name, printable.Line(fmt.Sprintf(format, args...)),
		strings.TrimSuffix(synopsis, "\n"), p.Name)
	return ErrExit(1)
}

// Exit turns a program's result into its exit status, saying what is unsaid.
func (p *Program) Exit(err error) int {
	var exit ErrExit
	var hint *Hint
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	}
	fmt.Fprintf(p.Err, "%s: %s\n", p.Name, printable.Line(err.Error()))
	if errors.As(err, &hint) {
		fmt.Fprintf(p.Err, "next: %s\n", printable.Line(hint.Hint))
	}
	return 1
}

// Hint is an error with what to do next.
type Hint struct {
	Err  error
	Hint string
}

func (h *Hint) Error() string { return h.Err.Error() }
func (h *Hint) Unwrap() error { return h.Err }
