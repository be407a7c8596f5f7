package main

import (
	"io"

	"openct/internal/cli"
)

const proxyUsage = `usage: ifdproxy [--help | --version]

OpenCT has no proxy any more. C OpenCT's gave the serial line of a reader to
other machines, unencrypted and to whoever asked. What takes its place:

  a reader or token that OpenCT serves on the other machine, over ssh, with a
  statement in openct.conf of this machine:
      reader desk { driver = openct; device = remote:ssh://user@host/0; };
  a serial reader at a terminal server: a pseudo-terminal that socat connects to
  the terminal server, and
      reader desk { driver = towitoko; device = serial:/run/openct-line/desk; };
  a whole USB token, by the kernel's USB/IP:
      usbip bind --busid=1-2                    on the other machine
      usbip attach --remote=host --busid=1-2    on this machine

ifdproxy(8) and "A reader on another machine" in openct(7) tell more.

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
