package control

import (
	"fmt"
	"io"

	"openct/internal/cli"
	"openct/internal/config"
	"openct/internal/daemon"
	"openct/internal/devname"
	"openct/internal/driver"
	"openct/internal/proto"
)

const handlerUsage = `usage: ifdhandler [options] DRIVER TYPE DEVICE
       ifdhandler -i

Serves one smart card reader or token, in the background unless -F is given:
    ifdhandler etoken64 usb /dev/bus/usb/001/004
    ifdhandler -F etoken64 virtual piv

options:
  -F, --foreground   stay in the foreground, log to standard error
  -i, --info         list drivers, protocols and devices
  -d, --debug        log more; may be repeated
  -s, --syslog       log to syslog
  -f, --config FILE  configuration file
      --id ID        serve the device only if it has this id, such as usb:0529/0600
  -H, -p, -r N       options of C OpenCT, accepted and ignored
  -h, --help         print this text
  -v, --version      print the version
`

// IfdHandler is the command ifdhandler: it serves one smart card reader or token
// until the device is unplugged. It returns the exit status.
func IfdHandler(args []string, openers map[string]daemon.Opener, stdout, stderr io.Writer) int {
	cmd := cli.New("ifdhandler", handlerUsage, stdout, stderr)
	p := daemon.Process{Openers: openers, Stderr: stderr}
	info := cmd.Flags.BoolP("info", "i", false, "")
	foreground := cmd.Flags.BoolP("foreground", "F", false, "")
	cmd.Flags.CountVarP(&p.Debug, "debug", "d", "")
	cmd.Flags.BoolVarP(&p.Syslog, "syslog", "s", false, "")
	cmd.Flags.StringVarP(&p.ConfigFile, "config", "f", cli.ConfigFile, "")
	id := cmd.Flags.String("id", "", "")
	cmd.Flags.BoolP("hotplug", "H", false, "")
	cmd.Flags.BoolP("poll", "p", false, "")
	cmd.Flags.StringP("reader", "r", "", "")
	return cmd.Exit(func() error {
		operands, err := cmd.Parse(args)
		switch {
		case err != nil:
			return err
		case *info && len(operands) == 0:
			listNames(stdout)
			return nil
		case *info:
			return cmd.Mistake("-i takes no argument, and %q is one", operands[0])
		case len(operands) == 0:
			return cmd.Misuse()
		case len(operands) != 3:
			return cmd.Mistake("driver, type and device are wanted; the command line has %d of them", len(operands))
		}
		p.Target = devname.Target{Driver: operands[0], Type: operands[1], Path: operands[2]}
		if *id != "" {
			if p.Target.ID, err = devname.ParseID(*id); err != nil {
				return err
			}
		}
		started := daemon.Started()
		if _, err := driver.Named(p.Target.Driver); err != nil && p.Target.Driver != "" && !started {
			return err // before it waits for OpenCT to be started
		}
		load := LoadConfig
		if started {
			load = loadQuietly // who started this process has told the warnings
		}
		if p.Config, err = load(cmd, p.ConfigFile); err != nil {
			return err
		}
		if *foreground || started {
			return p.Serve()
		}
		return p.Start(nil)
	}())
}

// LoadConfig reads openct.conf and prints its warnings.
func LoadConfig(p *cli.Program, file string) (*config.Config, error) {
	cfg, warnings, err := config.Load(file, driver.Names())
	for _, w := range warnings {
		fmt.Fprintf(p.Err, "%s: %s\n", p.Name, w)
	}
	return cfg, err
}

func loadQuietly(_ *cli.Program, file string) (*config.Config, error) {
	cfg, _, err := config.Load(file, driver.Names())
	return cfg, err
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
			fmt.Fprintf(w, "    %04x:%04x %-10s %s (verified by %s)\n", id.Vendor, id.Product, e.Name, id.Model, e.VerifiedBy())
		}
		if e.Class != nil {
			fmt.Fprintf(w, "    class 0b  %-10s smart card class (verified by %s)\n", e.Name, e.VerifiedBy())
		}
	}
}

// wrapNames breaks lines as C OpenCT does (ifdhandler.c, -i).
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
