package doctor

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/unit"

	"openct/internal/config"
	"openct/internal/readerunit"
	"openct/internal/status"
)

// configured looks at the readers that openct.conf names.
func (o Options) configured(f *Facts, cfg *config.Config) {
	fault, _ := status.ReadFault(o.Dir) // none, or none that makes sense
	for i, instance := range cfg.Instances() {
		r := cfg.Readers[i]
		t, err := r.Target()
		if err != nil {
			continue // the statement was skipped
		}
		c := Configured{Name: instance, Where: r.Where, Driver: r.Driver, Device: t.Path, NoSwitch: r.NoSwitch}
		if f.Systemd {
			c.Unit.Name = readerunit.Name(instance)
		}
		for j := range f.Readers {
			if f.Readers[j].Device == c.Device || c.Unit.Name != "" && f.Readers[j].Unit == c.Unit.Name {
				c.Reader = &f.Readers[j]
			}
		}
		c.Far = o.far(t)
		if fault.Device == c.Device {
			c.Fault = fault.Error
		}
		if readerunit.IsNode(t) {
			c.Node = &Node{Path: t.Path}
			c.Released = o.released(t.Path)
			o.node(c.Node, cfg)
			c.tty(o, f)
		}
		f.Configured = append(f.Configured, c)
	}
}

// tty looks at what else there is about a node.
func (c *Configured) tty(o Options, f *Facts) {
	real, err := filepath.EvalSymlinks(o.Root.Path(c.Device))
	if err != nil {
		return
	}
	c.real = "/" + strings.TrimPrefix(strings.TrimPrefix(real, string(o.Root)), "/")
	for _, other := range f.Configured {
		if other.real == c.real {
			c.Same = other.Name
		}
	}
	name := filepath.Base(c.real)
	if f.Systemd {
		c.Getty.Name = "serial-getty@" + unit.UnitNameEscape(name) + ".service"
	}
	// Either keeps ModemManager off (its manual, "Filtering ports and devices").
	p := o.Root.TTYProperties(name)
	c.noModem = p["ID_MM_PORT_IGNORE"] == "1" || p["ID_MM_DEVICE_IGNORE"] == "1"
}

// askedUnits are the units of configured readers that systemd is asked about.
func (f *Facts) askedUnits() []*Unit {
	var units []*Unit
	for i := range f.Configured {
		c := &f.Configured[i]
		for _, u := range []*Unit{&c.Unit, &c.Getty} {
			if u.Name != "" {
				units = append(units, u)
			}
		}
	}
	return units
}

// unitUsers says who opens the nodes of configured readers that have units.
func (o Options) unitUsers(f *Facts) {
	for i := range f.Configured {
		c := &f.Configured[i]
		if c.Node == nil || c.Node.Missing || c.Unit.Load != "loaded" || c.Unit.User == "" {
			continue
		}
		o.nodeFor(c.Node, c.Unit.User)
		if c.Node.Mode&0o060 == 0o060 && slices.Contains(strings.Fields(c.Unit.Groups), c.Node.Group) {
			c.Node.UserMay = true
		}
	}
}

// stale compares what systemd was told with what openct.conf says now.
func (o Options) stale(f *Facts, cfg *config.Config) {
	want, _ := readerunit.Make(cfg, o.Root) // an error is about a name, and init tells it
	told := readerunit.Read(o.Root.Path(readerunit.Dir))
	for i := range f.Configured {
		c := &f.Configured[i]
		c.Stale = c.Unit.Load == "loaded" && !told.Has(want, c.Unit.Name)
	}
}

// holds notes that a process has a node open.
func (f *Facts) holds(p Process, file string) {
	for i := range f.Configured {
		c := &f.Configured[i]
		if c.real == file && c.real != "" && (c.Reader == nil || c.Reader.PID != p.PID) {
			c.Holders = append(c.Holders, p)
		}
	}
}
