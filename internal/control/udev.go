package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"openct/internal/config"
	"openct/internal/devname"
	"openct/internal/driver"
	"openct/internal/machine"
)

// errLent is why a device of this machine is not served.
var errLent = errors.New("the device is exported to another machine by USB/IP")

// choose picks the driver for a plugged device.
func (c *Control) choose(d machine.Device) (driver.Choice, devname.ID, error) {
	if d.Lent {
		return driver.Choice{}, devname.ID{}, fmt.Errorf("%s: %w here: %w", d.Node(), driver.ErrNoDriver, errLent)
	}
	desc, err := d.Descriptor()
	if err != nil {
		return driver.Choice{}, devname.ID{}, err
	}
	choice, err := driver.Pick(desc, c.Config)
	return choice, devname.USBID(desc.Vendor, desc.Product, desc.Release), err
}

// Udev answers 60-openct.rules, which asks about a device that could be ours, by
// its bus and device number (001-004): it prints properties for udev's record.
// They carry openct.conf's decisions, so that init, attach and udev agree:
//
//	OPENCT_DRIVER=etoken64   the driver, or none: leave it alone
//	PCSCLITE_IGNORE=1        pcscd is to leave it alone (pcsc-lite 2.3.2)
func (c *Control) Udev(instance string) error {
	t, err := devname.Parse([]string{instance}, os.DirFS(c.Root.Path("/")))
	if err != nil {
		return err
	}
	d, ok := c.Root.USBDevice(t.Bus, t.Dev)
	if !ok {
		return fmt.Errorf("%s: no such device", t.Path)
	}
	choice, _, err := c.choose(d)
	if err != nil && !errors.Is(err, driver.ErrNoDriver) {
		return err
	}
	if err != nil || !choice.Ours() {
		fmt.Fprintln(c.Out, "OPENCT_DRIVER=none")
		return nil
	}
	fmt.Fprintf(c.Out, "OPENCT_DRIVER=%s\n", choice.Entry.Name)
	// pcscd has a driver of its own for readers of the class: only one of us
	// can have the device.
	if c.Config.PCSC == config.PCSCIgnore || choice.Entry.Class != nil && !(choice.Why == driver.WhyID && c.pcscdAsksForClass()) {
		fmt.Fprintln(c.Out, "PCSCLITE_IGNORE=1")
	}
	return nil
}

// pcscdAsksForClass says whether pcscd has openct-ccid.bundle among its drivers,
// by which it asks us for the readers that the ccid driver lists by id. The
// places are those of pcsc-lite's usbdropdir in distributions.
func (c *Control) pcscdAsksForClass() bool {
	for _, dir := range []string{"usr/lib*/pcsc/drivers", "usr/lib/*/pcsc/drivers", "usr/local/lib*/pcsc/drivers", "usr/lib*/readers/usb"} {
		if found, _ := filepath.Glob(c.Root.Path(filepath.Join(dir, "openct-ccid.bundle"))); len(found) > 0 {
			return true
		}
	}
	return false
}

// handedToSystemd returns the units that udev's record of a device makes systemd
// start for it. Without systemd there are none.
func (c *Control) handedToSystemd(d machine.Device) []string {
	if !c.Root.SystemdRuns() {
		return nil
	}
	return c.Root.Udev(d).Wants
}

// settleTime is how long init waits for udev, which at boot has every device of
// the machine to look at.
const settleTime = 30 * time.Second

// settle waits until udev has processed the devices that are plugged in. At boot, init
// may be faster: it would start a handler for a device whose unit systemd starts a moment
// later. (A record of udev's is no sign that udev has processed the device: the udev of
// an initramfs may lack the rules of OpenCT, and leaves its records.) Without systemd,
// udev may give a node another owner after init has given it to the handlers' user.
func (c *Control) settle() error {
	if !c.Root.UdevRuns() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTime+10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "udevadm", "settle", fmt.Sprintf("--timeout=%d", settleTime/time.Second)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("still processing devices; openct-control starts the handlers of devices without a unit: %w: %s",
			err, strings.TrimSpace(string(out)))
	}
	return nil
}

// startUnits asks systemd to start the units of devices that were plugged in
// before. Units that run are left alone; those that "systemctl stop openct" has stopped
// are started by this alone.
func startUnits(units []string) error { return tellUnits("start", units) }

// tellUnits does not wait for the units, which wait for this very command to end.
func tellUnits(verb string, units []string) error {
	if len(units) == 0 {
		return nil
	}
	out, err := exec.Command("systemctl", append([]string{verb, "--no-block", "--"}, units...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", verb, strings.Join(units, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
