package main

import (
	"fmt"
	"io"
	"os"

	"openct/internal/cli"
	"openct/internal/config"
	"openct/internal/driver"
	"openct/internal/machine"
	"openct/internal/readerunit"
)

const generatorUsage = `usage: openct-generator [options] DIRECTORY [EARLY LATE]

Makes the units of the readers in openct.conf; systemd runs it (systemd.generator(7)).
"openct-control check-config" lists the errors in openct.conf.

options:
  -f, --config FILE  configuration file
  -h, --help         print this text
  -v, --version      print the version
`

// runGenerator is openct-generator. A configuration that cannot be read, and a
// reader that cannot be served, keep nothing else from starting.
func runGenerator(args []string, stdout, stderr io.Writer) int {
	if os.Getenv("SYSTEMD_SCOPE") != "" { // systemd runs it, before there is a journal
		if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
			defer f.Close()
			stderr = f
		}
	}
	p := cli.New("openct-generator", generatorUsage, stdout, stderr)
	file := p.Flags.StringP("config", "f", cli.ConfigFile, "")
	return p.Exit(func() error {
		operands, err := p.Parse(args)
		if err != nil {
			return err
		}
		if len(operands) != 1 && len(operands) != 3 {
			return p.Misuse()
		}
		cfg, _, err := config.Load(*file, driver.Names())
		if err != nil {
			return err
		}
		files, err := readerunit.Make(cfg, machine.Here)
		if err != nil {
			fmt.Fprintf(stderr, "openct-generator: %v\n", err)
		}
		return files.Write(operands[0])
	}())
}
