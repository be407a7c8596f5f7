package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"openct/internal/cli"
	"openct/internal/config"
	"openct/internal/driver"
)

// CheckConfig prints what is to be said about a configuration file; without a
// name, about the one that is read. The result is an error if the file has errors. A
// file that is named must be there.
func (c *Control) CheckConfig(file string) error {
	named := file != ""
	if !named {
		file = c.ConfigFile
	}
	switch _, err := os.Stat(file); {
	case named && err != nil:
		return fmt.Errorf("configuration: %w", err)
	case errors.Is(err, fs.ErrNotExist):
		fmt.Fprintf(c.Out, "%s does not exist: the defaults apply\n", file)
	}
	cfg, warnings, err := config.Load(file, driver.Names())
	if err != nil {
		return err
	}
	for _, w := range warnings {
		fmt.Fprintln(c.Out, w)
	}
	for _, n := range cfg.Notes() {
		fmt.Fprintln(c.Out, n)
	}
	if !named {
		c.NameUnread()
	}
	if len(warnings) > 0 {
		return cli.ErrExit(1)
	}
	fmt.Fprintf(c.Out, "%s: no errors\n", file)
	return nil
}

// NameUnread says which openct.conf is read where there is another one that
// somebody might take for it.
func (c *Control) NameUnread() {
	if c.ConfigFile != cli.ConfigFile {
		return // the caller has chosen one
	}
	for _, f := range config.Unread(string(c.Root), c.ConfigFile) {
		c.say("openct-control: %s is not read; the file that is read is %s", f, c.ConfigFile)
	}
}
