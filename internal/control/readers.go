package control

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"time"

	"openct/internal/cli"
	"openct/internal/devname"
	"openct/internal/readerunit"
	"openct/internal/socket"
	"openct/internal/status"
)

// startReaders starts the readers of the configuration, in its order: with
// systemd each in its unit, otherwise each in a handler that this process starts.
func (c *Control) startReaders() {
	units := c.readerUnits()
	var start []string
	for i, instance := range c.Config.Instances() {
		r := c.Config.Readers[i]
		t, err := r.Target()
		unit := readerunit.Name(instance)
		switch {
		case err != nil || c.isReleased(t):
		case (units[unit] || c.watches()) && readerunit.IsNode(t) && !c.Root.Exists(t.Path):
			// It is started when the device comes. systemd, told to start the unit
			// now, would wait for the device, and give up after a while.
			c.say("reader %s waits for its device: %s does not exist", instance, t.Path)
		case !units[unit]:
			err = c.start(t)
		default:
			start = append(start, unit)
		}
		c.complain("reader "+instance, err)
	}
	c.complain("readers", startUnits(start))
}

// reloadWait is how long systemd may take to read all unit files anew.
const reloadWait = 90 * time.Second

// readerUnits are the units of readers that systemd knows as the configuration
// has them now. What openct-generator wrote when systemd read its unit files last
// may be older than the configuration: systemd then reads them anew, and readers
// that are no longer configured are stopped.
func (c *Control) readerUnits() map[string]bool {
	if !c.Root.SystemdRuns() || c.ConfigFile != cli.ConfigFile || c.Dir != socket.DefaultDir {
		return nil // the units serve the installed configuration
	}
	want, err := readerunit.Make(c.Config, c.Root)
	c.complain("systemd", err)
	dir := c.Root.Path(readerunit.Dir)
	have := readerunit.Read(dir)
	if !maps.Equal(have, want) {
		before := have.Units()
		c.complain("systemd", reloadUnits())
		have = readerunit.Read(dir)
		c.complain("stopping readers that openct.conf no longer has", stopUnits(slices.DeleteFunc(before, func(unit string) bool {
			return slices.Contains(want.Units(), unit)
		})))
	}
	units := map[string]bool{}
	for _, unit := range want.Units() {
		units[unit] = have.Has(want, unit)
	}
	return units
}

func reloadUnits() error {
	ctx, cancel := context.WithTimeout(context.Background(), reloadWait)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "systemctl", "daemon-reload").CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl daemon-reload for the readers of openct.conf: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// stopUnits asks systemd to stop units, and to forget that it was to start them.
func stopUnits(units []string) error { return tellUnits("stop", units) }

// WaitingReaders names the readers of the configuration whose device is not there.
func (c *Control) WaitingReaders() {
	for i, instance := range c.Config.Instances() {
		t, err := c.Config.Readers[i].Target()
		switch {
		case err != nil:
		case readerunit.IsNode(t) && !c.Root.Exists(t.Path):
			c.say("openct-control: reader %s waits for its device: %s does not exist", instance, t.Path)
		case (t.Type == devname.TypeRemote || t.Type == devname.TypeUnix) && !c.isServed(t):
			c.say("openct-control: reader %s is not served: there is no connection to the far reader %s", instance, t.Path)
		}
	}
}

// isServed says whether a handler serves the device; where the status file cannot be
// read, one may.
func (c *Control) isServed(t devname.Target) bool {
	f, err := status.OpenReadOnly(c.Dir)
	if err != nil {
		return true
	}
	defer f.Close()
	_, _, ok := serving(f, t.Path)
	return ok
}
