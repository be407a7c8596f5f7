// Command openct is OpenCT's commands in one executable: openct-control,
// ifdhandler, openct-tool, ifdproxy and, for systemd, openct-generator. They are
// installed as links to it, and the name by which it is called says which one it is.
package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"openct/internal/cli"
	"openct/internal/control"
	"openct/internal/daemon"
	"openct/internal/devname"
	"openct/internal/emulator"
	"openct/internal/usb"
	"openct/internal/usb/gousbdev"
)

const usage = `usage: openct COMMAND [argument...]

OpenCT's commands in one executable. A link to it that has a command's name is
that command.

commands:
  openct-control    start and stop OpenCT, attach devices, find errors
  ifdhandler        serve one reader or token
  openct-tool       list readers, and test their cards
  openct-generator  make systemd units for the readers in openct.conf
  ifdproxy          print what to use instead of C OpenCT's ifdproxy

options:
  -h, --help      print this text
  -v, --version   print the version
`

// command runs one of the commands and returns its exit status.
type command func(args []string, stdout, stderr io.Writer) int

var commands = map[string]command{
	"openct-control":   runControl,
	"ifdhandler":       runHandler,
	"openct-tool":      runTool,
	"openct-generator": runGenerator,
	"ifdproxy":         runProxy,
}

// openers are the types of USB devices that can be served.
var openers = map[string]daemon.Opener{
	"usb": func(t devname.Target, log *slog.Logger) (usb.Device, error) { return gousbdev.Open(t.Path, log) },

	"virtual": emulator.Open,
}

func main() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }

// run takes the command from its own name or from the first argument.
func run(args []string, stdout, stderr io.Writer) int {
	for len(args) > 0 {
		if c := commands[filepath.Base(args[0])]; c != nil {
			return c(args[1:], stdout, stderr)
		}
		if filepath.Base(args[0]) != "openct" {
			break
		}
		args = args[1:]
	}
	p := cli.New("openct", usage, stdout, stderr)
	return p.Exit(func() error {
		operands, err := p.Parse(args)
		if err != nil {
			return err
		}
		if len(operands) > 0 {
			fmt.Fprintf(stderr, "openct: no command %q\n", operands[0])
		}
		return p.Misuse()
	}())
}

func runHandler(args []string, stdout, stderr io.Writer) int {
	return control.IfdHandler(args, openers, stdout, stderr)
}
