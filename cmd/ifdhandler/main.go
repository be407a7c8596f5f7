// Command ifdhandler serves one smart card reader or token: it opens the
// device, claims an entry of the status file and answers OpenCT's socket
// protocol until the device is unplugged.
package main

import (
	"fmt"
	"io"
	"os"

	"openct/internal/cli"
	"openct/internal/control"
	"openct/internal/devname"
	"openct/internal/driver"
	"openct/internal/proto"
)

const usage = `usage: ifdhandler [options] DRIVER TYPE DEVICE
       ifdhandler -i

Serves one smart card reader or token, in the background unless -F is given:
    ifdhandler etoken64 usb /dev/bus/usb/001/004
    ifdhandler -F etoken64 virtual piv

options:
  -F, --foreground   stay in the foreground, log to standard error
  -i, --info         list drivers and protocols
  -d, --debug        log more; may be repeated
  -s, --syslog       log to syslog
  -f, --config FILE  configuration file
  -H, -p, -r N       accepted for C OpenCT's sake; unplugging is always noticed,
                     readers that can tell are never polled, the first free
                     number is taken
  -h, --help         print this text
  -v, --version      print the version
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	p := cli.New("ifdhandler", usage, stdout, stderr)
	var o control.HandlerOptions
	info := p.Flags.BoolP("info", "i", false, "")
	p.Flags.BoolVarP(&o.Foreground, "foreground", "F", false, "")
	p.Flags.CountVarP(&o.Debug, "debug", "d", "")
	p.Flags.BoolVarP(&o.Syslog, "syslog", "s", false, "")
	p.Flags.StringVarP(&o.ConfigFile, "config", "f", cli.ConfigFile, "")
	p.Flags.BoolP("hotplug", "H", false, "")
	p.Flags.BoolP("poll", "p", false, "")
	p.Flags.StringP("reader", "r", "", "")
	return p.Exit(func() error {
		operands, err := p.Parse(args)
		switch {
		case err != nil:
			return err
		case *info && len(operands) == 0:
			listNames(stdout)
			return nil
		case *info || len(operands) != 3:
			return p.Misuse()
		}
		o.Target = devname.Target{Driver: operands[0], Type: operands[1], Path: operands[2]}
		o.Stderr = stderr
		return control.Handle(o)
	}())
}

// listNames prints drivers and protocols in C OpenCT's layout, and behind it
// what the drivers take and what they were verified against.
func listNames(w io.Writer) {
	var drivers, protocols []string
	for _, e := range driver.Table() {
		drivers = append(drivers, e.Name)
	}
	for _, n := range proto.Names() {
		protocols = append(protocols, n.Name)
	}
	wrapNames(w, "reader drivers", drivers)
	wrapNames(w, "protocols", protocols)
	fmt.Fprintln(w, "Devices:")
	for _, e := range driver.Table() {
		for _, id := range e.IDs {
			fmt.Fprintf(w, "    %04x:%04x %-10s %s (verified by %s)\n", id.Vendor, id.Product, e.Name, id.Model, e.Verified)
		}
		if e.Class != nil {
			fmt.Fprintf(w, "    class 0b  %-10s smart card class (verified by %s)\n", e.Name, e.Verified)
		}
	}
}

// wrapNames breaks lines as C OpenCT does (spec/cli.md, 2.1).
func wrapNames(w io.Writer, what string, names []string) {
	if len(names) == 0 {
		fmt.Fprintf(w, "No %s configured\n", what)
		return
	}
	fmt.Fprintf(w, "%c%s:\n   ", what[0]&^0x20, what[1:])
	width := 3
	for i, n := range names {
		if width+len(n)+1 > 64 {
			fmt.Fprint(w, "\n   ")
			width = 3
		}
		fmt.Fprint(w, " ", n)
		if i < len(names)-1 {
			fmt.Fprint(w, ",")
		}
		width += len(n) + 2
	}
	fmt.Fprintln(w)
}
