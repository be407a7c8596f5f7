package daemon

import (
	"openct/internal/config"
	"openct/internal/devname"
)

// names are what openct.conf calls the reader.
type names struct {
	alias string // of a configured reader, or of a USB device by id, serial number or port
	shown string // the alias of a USB device, which stands in the reader's name as well
}

// nameDevice finds the names of the device that was opened. Two tokens of one model
// have the same name otherwise. (A configured reader's name in the status file stays
// the driver's, as with C OpenCT.)
func (d *daemon) nameDevice() {
	if d.Config == nil {
		return
	}
	if d.dev != nil {
		desc := d.dev.Descriptor()
		d.names.shown = d.Config.AliasOf(config.Plugged{
			ID: devname.USBID(desc.Vendor, desc.Product, desc.Release), Serial: desc.Serial, Port: desc.Port,
		})
	}
	d.names.alias = d.names.shown
	if name := d.Config.NameAt(d.Target); name != "" {
		d.names.alias = name
	}
}

// readerName is the reader's name for clients. The alias comes first: names are cut
// where there is little room.
func (n names) readerName(model string) string {
	if n.shown == "" {
		return model
	}
	return n.shown + ": " + model
}
