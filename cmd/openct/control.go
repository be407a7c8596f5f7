package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"openct/internal/cli"
	"openct/internal/control"
	"openct/internal/doctor"
	"openct/internal/machine"
	"openct/internal/socket"
)

const controlUsage = `usage: openct-control [options] command [argument...]

Starts and stops OpenCT, which serves smart card readers and USB tokens.

commands:
  init            make the status file, attach configured readers and the
                  devices that are plugged in
  attach DEVICE   serve a device; one of
                    001/004, /dev/bus/usb/001/004, a sysfs path,
                    usb:0529/0600/0100 usb /dev/bus/usb/001/004,
                    DRIVER TYPE PATH, or any of them escaped by systemd;
                  or --reader NAME: a reader of the configuration file
  status [READER] list the readers, or one; --json prints all details, --watch
                  keeps the list up to date
  monitor         print a line for each event: plugged, ready, card,
                  client, lock, conflict, fault, unplugged
  doctor          find errors and say what to do next; exit status 0 when
                  there are none
  check-config [FILE]
                  list the errors in openct.conf; exit status 0 when there
                  are none
  watch           serve all devices that are plugged in, now and later, where
                  systemd does not; init starts it if openct.conf says
                  hotplug = yes
  verify [READER|DEVICE]
                  check a reader and the card in it, and write a report that can
                  be published: it contains no PIN, no key and no serial number;
                  READER is a number or a name, DEVICE as for attach
  release READER  stop the handler of a reader, so that another program can
                  open the device; READER is a number or a name in openct.conf
  take [READER]...
                  serve released readers again; without READER, all of them
  shutdown        end all handlers and watch, remove the status file

options:
  -f, --config FILE  configuration file
  -n, --no-coldplug  init, watch: do not serve devices that are plugged in already
      --reader NAME  attach: the reader of this name in the configuration file
  -s, --syslog       log to syslog
  -d, --debug        log more; may be repeated
  -o, --output FILE  verify: the report (default openct-report-DRIVER-...txt)
      --card         verify: ask the user to remove and insert the card
      --unplug       verify: ask the user to unplug the device and plug it in again
      --suspend      verify: ask the user, suspend the machine for 15 s and measure
      --force        release: even if a program holds a lock
      --json         status, doctor, monitor: print JSON
      --watch        status: keep running, print the list when it changes
  -h, --help         print this text
  -v, --version      print the version
`

// controlOptions are the options of openct-control's commands.
type controlOptions struct {
	noColdplug bool
	json       bool
	watch      bool
	force      bool
	reader     string
	named      bool // reader was given
	verify     control.VerifyOptions
}

// runControl is openct-control, which starts and stops OpenCT, attaches devices
// and shows their state.
func runControl(args []string, stdout, stderr io.Writer) int {
	p := cli.New("openct-control", controlUsage, stdout, stderr)
	c := &control.Control{Dir: socket.Dir(), In: os.Stdin, Out: p.Out, Err: stderr, Terminal: control.TerminalOf(stdout), Root: machine.Here, Openers: openers}
	p.Flags.StringVarP(&c.ConfigFile, "config", "f", cli.ConfigFile, "")
	p.Flags.CountVarP(&c.Debug, "debug", "d", "")
	p.Flags.BoolVarP(&c.Syslog, "syslog", "s", false, "")
	var o controlOptions
	p.Flags.BoolVarP(&o.noColdplug, "no-coldplug", "n", false, "")
	p.Flags.BoolVar(&o.json, "json", false, "")
	p.Flags.BoolVar(&o.watch, "watch", false, "")
	p.Flags.StringVar(&o.reader, "reader", "", "")
	p.Flags.BoolVar(&o.force, "force", false, "")
	p.Flags.StringVarP(&o.verify.Output, "output", "o", "", "")
	p.Flags.BoolVar(&o.verify.Card, "card", false, "")
	p.Flags.BoolVar(&o.verify.Unplug, "unplug", false, "")
	p.Flags.BoolVar(&o.verify.Suspend, "suspend", false, "")
	return p.Exit(func() error {
		operands, err := p.Parse(args)
		if err != nil {
			return err
		}
		o.named = p.Flags.Changed("reader")
		verb, rest := "", operands
		if len(operands) > 0 {
			verb, rest = operands[0], operands[1:]
		}
		// doctor and check-config work with an openct.conf that cannot be read, too.
		switch {
		case verb == "doctor" && len(rest) == 0:
			return examine(c, o.json)
		case verb == "check-config" && len(rest) > 1:
			return p.Mistake("check-config takes one file")
		case verb == "check-config" && len(rest) > 0:
			return c.CheckConfig(rest[0])
		case verb == "check-config":
			return c.CheckConfig("")
		}
		if c.Config, err = control.LoadConfig(p, c.ConfigFile); err != nil {
			return err
		}
		if len(operands) == 0 {
			return p.Misuse()
		}
		if mistake := o.mistake(verb, rest); mistake != "" {
			return p.Mistake("%s", mistake)
		}
		return o.run(p, c, verb, rest)
	}())
}

// mistake is what is wrong with a command's options and operands; empty: nothing.
func (o *controlOptions) mistake(verb string, rest []string) string {
	switch {
	case verb == "verify":
	case o.verify != control.VerifyOptions{}, o.force && verb != "release":
		return verb + " does not take one of these options"
	case verb == "release" && len(rest) != 1:
		return "release takes one reader, its number or its name"
	case verb == "release", verb == "take":
	case o.named && verb != "attach":
		return "--reader belongs to attach"
	case o.watch && verb != "status":
		return "--watch belongs to status"
	case verb == "attach" && o.named && len(rest) > 0:
		return "attach takes a device or --reader, not both"
	case verb == "attach" && !o.named && len(rest) == 0:
		return "attach takes a device, such as 001/004, or --reader"
	case verb == "udev" && len(rest) == 0:
		return "udev takes a device"
	case verb == "status" && (len(rest) > 1 || o.watch && len(rest) > 0):
		return "status takes one reader, and none with --watch"
	case len(rest) > 0 && slices.Contains([]string{"init", "monitor", "doctor", "watch", "shutdown"}, verb):
		return fmt.Sprintf("%s takes no argument, and %q is one", verb, rest[0])
	}
	return ""
}

func (o *controlOptions) run(p *cli.Program, c *control.Control, verb string, rest []string) error {
	switch verb {
	case "init":
		c.NameUnread()
		return c.Init(o.noColdplug)
	case "attach":
		if o.named {
			return c.AttachReader(o.reader)
		}
		return c.Attach(rest)
	case "status":
		return o.status(c, rest)
	case "monitor":
		c.NameUnread()
		return c.Monitor(o.json)
	case "watch":
		c.NameUnread()
		return c.Watch(o.noColdplug)
	case "verify":
		return c.Verify(rest, o.verify)
	case "release":
		return c.Release(rest[0], o.force)
	case "take":
		return c.Take(rest)
	case "shutdown":
		return c.Shutdown()
	case "udev": // for 60-openct.rules
		return c.Udev(rest[0])
	}
	fmt.Fprintf(p.Err, "Unknown command: %s\nnext: %s --help\n", verb, p.Name)
	return cli.ErrExit(1)
}

func (o *controlOptions) status(c *control.Control, rest []string) error {
	reader := ""
	if len(rest) > 0 {
		reader = rest[0]
	} else {
		c.NameUnread()
		c.WaitingReaders()
		c.ReleasedReaders()
	}
	switch {
	case o.watch:
		return c.StatusWatch(o.json)
	case o.json:
		return c.StatusJSON(reader)
	}
	return c.Status(reader)
}

// examine prints doctor's report. The exit status is 1 if the report has an error.
func examine(c *control.Control, asJSON bool) error {
	report := doctor.Diagnose(doctor.Gather(context.Background(), doctor.Options{
		Root: c.Root, Dir: c.Dir, ConfigFile: c.ConfigFile,
	}))
	print := report.Print
	if asJSON {
		print = report.PrintJSON
	}
	if err := print(c.Out); err != nil {
		return err
	}
	if !report.OK {
		return cli.ErrExit(1)
	}
	return nil
}
