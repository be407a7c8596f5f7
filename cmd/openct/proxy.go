package main

import (
	"io"

	"openct/internal/cli"
)

const proxyUsage = `usage: ifdproxy [--help | --version]

This OpenCT has no proxy. C OpenCT's gave other machines access to the serial
line of a reader, without encryption or authentication. Use instead, for

  a reader or token that OpenCT serves on the other machine, over ssh, with a
  statement in openct.conf of this machine:
      reader desk { driver = openct; device = remote:ssh://user@host/0; };
  a serial reader at a terminal server: a pseudo-terminal that socat connects to
  the terminal server, and
      reader desk { driver = towitoko; device = serial:/run/openct-line/desk; };
  a whole USB token, by the kernel's USB/IP:
      usbip bind --busid=1-2                    on the other machine
      usbip attach --remote=host --busid=1-2    on this machine

ifdproxy(8) and "A reader on another machine" in openct(7) describe each of these.

options:
  -h, --help      print this text
  -v, --version   print the version
`

// runProxy is ifdproxy. Whatever C OpenCT's would be asked for, it tells what
// takes the place of that.
func runProxy(args []string, stdout, stderr io.Writer) int {
	p := cli.New("ifdproxy", proxyUsage, stdout, stderr)
	p.Flags.ParseErrorsAllowlist.UnknownFlags = true
	return p.Exit(func() error {
		if _, err := p.Parse(args); err != nil {
			return err
		}
		return p.Misuse()
	}())
}
