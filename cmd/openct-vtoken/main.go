// Command openct-vtoken plugs a virtual token into this machine's kernel, where
// udev, systemd, libusb and OpenCT see it as a real one. It is the token as
// long as it runs; a second call gives it orders.
//
// It is the devices of the type virtual as well, which are not in the kernel at
// all: for "ifdhandler etoken64 virtual piv", the handler starts it and is the USB
// host itself (package emulator).
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"openct/internal/cli"
	"openct/internal/vusb/model"
	"openct/internal/vusb/usbip"
)

const usage = `usage: openct-vtoken plug [options]
       openct-vtoken ctl SOCKET order...
       openct-vtoken serve DRIVER CARD

Plugs a virtual token into this machine's kernel (module vhci-hcd, as root).

plug stays in the foreground and emulates the token; SIGTERM unplugs it. Each
time the kernel has attached the token, plug prints a line of JSON:

  {"driver":"etoken64","card":"piv","port":0,"busid":"1-1","devnode":"/dev/bus/usb/001/002"}

options of plug:
  --driver NAME     the driver whose device is emulated (default etoken64).
                    ccid:P1 to ccid:P14 are CCID readers with different
                    features; kaan and b1 are card terminals at a USB-serial
                    adapter, at whose keypad PIN 123456 is typed; phoenix,
                    smartmouse, smartboard, towitoko, gempc and
                    pertosmart1030:serial are readers at such an adapter.
                    After a colon: t0 or inverse, a card of T=0 or of the
                    inverse convention; instant, bytes take no time on the line
  --card NAME       the card in the token: piv (default), echo, cardos, sim,
                    rutoken; in towitoko, kaan and b1 also 24c02, 24c16,
                    24c32, sle4432, sle4442, sle4418, sle4428, and in kaan
                    and b1 eurochip
  --id VENDOR:PRODUCT
                    USB ids, instead of those of the real device
  --serial TEXT     USB serial number (default none)
  --control SOCKET  accept the orders of ctl on this socket
  -h, --help        print this text
  -v, --version     print the version

serve emulates the token for a USB/IP host that is connected to its standard
input, a socket: the handler of a reader of the device type virtual starts it.

orders:
  unplug, plug      unplug the token; plug it in again with the same card
  remove, insert    remove the card; insert it again
  stall [N]         refuse the Nth transfer from now (default 1, the next one)
  hang [N]          do not answer the transfer
  drop [N]          unplug the token during the transfer
  remove N          remove the card before the transfer
  delay MS [N]      delay the answer by MS milliseconds
  short BYTES [N]   cut the answer to this length
  garbage BYTES [N] answer with this number of meaningless bytes
  heal              cancel the faults that have not happened yet
  status            print the line of JSON, or "unplugged"

Orders for faults accept two more words: times=T affects T transfers in a row
(-1: all), on=CODE counts only control requests with that bRequest (on=c86) or
transfers on that endpoint (on=e82); both are hexadecimal.
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

type options struct {
	driver, card, id, serial, control string
}

func run(args []string, stdout, stderr io.Writer) int {
	p := cli.New("openct-vtoken", usage, stdout, stderr)
	var o options
	p.Flags.StringVar(&o.driver, "driver", "etoken64", "")
	p.Flags.StringVar(&o.card, "card", "piv", "")
	p.Flags.StringVar(&o.id, "id", "", "")
	p.Flags.StringVar(&o.serial, "serial", "", "")
	p.Flags.StringVar(&o.control, "control", "", "")
	words, err := p.Parse(args)
	switch {
	case err != nil:
	case len(words) == 1 && words[0] == "plug":
		err = plug(o, stdout, stderr)
	case len(words) == 3 && words[0] == "serve":
		err = serveHost(os.Stdin, words[1], words[2])
	case len(words) >= 3 && words[0] == "ctl":
		var answer string
		if answer, err = call(words[1], strings.Join(words[2:], " ")); err == nil {
			fmt.Fprintln(stdout, answer)
		}
	default:
		err = p.Misuse()
	}
	return p.Exit(err)
}

// serveHost is the device for a host at the other end of a socket, until that hangs
// up.
func serveHost(socket *os.File, driver, card string) error {
	m, err := model.New(driver, card)
	if err != nil {
		return err
	}
	conn, err := net.FileConn(socket)
	if err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	socket.Close() // FileConn has its own copy
	return usbip.Serve(context.Background(), conn, m)
}

// plug is the token until a signal comes.
func plug(o options, stdout, stderr io.Writer) error {
	card, err := model.NewCard(o.driver, o.card)
	if err != nil {
		return err
	}
	m, err := model.NewWith(o.driver, card)
	if err != nil {
		return err
	}
	as, err := parseLooks(o.id, o.serial)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	t := &token{
		options: o,
		model:   dressed{m, as},
		attach:  attachKernel,
		insert: func(in bool) error {
			if in {
				return model.Insert(m, card)
			}
			return model.Insert(m, nil)
		},
		plugged: func(p plugged) {
			json.NewEncoder(stdout).Encode(p)
		},
		lost: func() {
			fmt.Fprintln(stderr, "openct-vtoken: the host has detached the token")
		},
	}
	defer t.unplug()
	if o.control == "" {
		if err := t.plug(ctx); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}
	// Listening comes first: whoever reads the line can give orders.
	l, err := listen(o.control)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := t.plug(ctx); err != nil {
		return err
	}
	return serve(ctx, l, t)
}
