package doctor

import (
	"slices"

	"openct/internal/config"
	"openct/internal/devname"
	"openct/internal/machine"
)

// Alias is a name that openct.conf has for a USB device.
type Alias struct {
	Name  string
	Where string // FILE:LINE
	Port  string // where the device is plugged; empty: it is not
}

// aliases says which plugged devices have a name.
func (f *Facts) aliases(cfg *config.Config, plugged []machine.Device) {
	for _, a := range cfg.Aliases {
		alias := Alias{Name: a.Name, Where: a.Where}
		i := slices.IndexFunc(plugged, func(d machine.Device) bool {
			desc, err := d.Descriptor()
			return err == nil && a.Name == cfg.AliasOf(config.Plugged{
				ID: devname.USBID(desc.Vendor, desc.Product, desc.Release), Serial: d.Serial, Port: d.Name,
			})
		})
		if i >= 0 {
			alias.Port = plugged[i].Name
		}
		f.Aliases = append(f.Aliases, alias)
	}
}

// checkAliases tells of names as information: their devices may be in a drawer.
func checkAliases(f *Facts) []Finding {
	var all []Finding
	for _, a := range f.Aliases {
		if a.Port == "" {
			all = append(all, fine("the device that %s names %s is not plugged in", a.Where, a.Name)...)
			continue
		}
		all = append(all, fine("the device at port %s is named %s by %s", a.Port, a.Name, a.Where)...)
	}
	return all
}
