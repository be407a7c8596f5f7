package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"openct/internal/config"
	"openct/internal/driver"
	"openct/internal/socket"
)

// udevAsk is the file beside the status file whose existence makes
// 60-openct.rules ask "openct-control udev" about the devices of the driver
// table, too. Without it they are what the table says, and udev runs nothing.
const udevAsk = "udev-ask"

// changesTable says whether openct.conf says something else about a device of
// the driver table, or something more, than the table does.
func changesTable(c *config.Config) bool {
	if c.PCSC == config.PCSCIgnore {
		return true
	}
	for _, d := range c.Drivers {
		for _, id := range d.IDs {
			vendor, product, one := id.USB()
			e, listed := driver.ByID(vendor, product)
			switch {
			case id.Bus != "usb":
			case !one, listed && e.Name != d.Name: // not one: all products of a vendor
				return true
			}
		}
	}
	return false
}

// tellUdev leaves the file for 60-openct.rules, or takes it away, as openct.conf
// says now. When that changes, udev looks once more at the devices that are there:
// at boot it has seen them before. Only the usual directory is one that udev knows.
func (c *Control) tellUdev() error {
	if c.Dir != socket.DefaultDir {
		return nil
	}
	changed, err := setMark(filepath.Join(c.Dir, udevAsk), changesTable(c.Config))
	if err != nil || !changed || !c.Root.UdevRuns() {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, "udevadm", "trigger", "--action=change", "--subsystem-match=usb",
		"--property-match=OPENCT_DRIVER=?*").CombinedOutput()
	if err != nil {
		return fmt.Errorf("the devices that are plugged in keep their old properties: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// setMark makes an empty file or removes it, and says whether that was to be
// done. The directory is the handlers' own: links in it are not followed.
func setMark(path string, want bool) (changed bool, err error) {
	if !want {
		err = os.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}
