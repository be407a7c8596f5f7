package usbip

import (
	"encoding/binary"
	"sync"
	"unicode/utf16"

	"openct/internal/usb"
	"openct/internal/vusb"
)

// Standard requests, descriptor types and features (USB 2.0, tables 9-4, 9-5
// and 9-6).
const (
	reqGetStatus        = 0
	reqClearFeature     = 1
	reqSetFeature       = 3
	reqSetAddress       = 5
	reqGetDescriptor    = 6
	reqGetConfiguration = 8
	reqSetConfiguration = 9
	reqGetInterface     = 10
	reqSetInterface     = 11

	descDevice = 1
	descConfig = 2
	descString = 3

	featureEndpointHalt = 0
	featureRemoteWakeup = 1
)

// resetProbe is the wLength of the first thing Linux asks a device after a bus
// reset, with a device descriptor of 18 bytes (drivers/usb/core/hub.c,
// GET_DESCRIPTOR_BUFSIZE). USB/IP does not carry the reset itself.
const resetProbe = 64

// langEnglishUS is the one language of the strings (USB LANGIDs 1.0).
const langEnglishUS = 0x0409

// standard answers the standard requests for a model (USB 2.0, 9.4) and keeps
// the state they change.
type standard struct {
	model      vusb.Model
	desc       vusb.Descriptors
	interfaces []usb.Interface

	configured     chan struct{} // closed by the first SET_CONFIGURATION
	configuredOnce sync.Once

	mu     sync.Mutex
	config uint8
	alts   map[uint8]uint8
	halted map[uint8]bool
}

func newStandard(m vusb.Model) (*standard, error) {
	d := m.Descriptors()
	parsed, err := usb.ParseDescriptors(append(append([]byte{}, d.Device...), d.Config...))
	if err != nil {
		return nil, err
	}
	return &standard{
		model:      m,
		desc:       d,
		interfaces: parsed.Interfaces,
		configured: make(chan struct{}),
		alts:       make(map[uint8]uint8),
		halted:     make(map[uint8]bool),
	}, nil
}

// isHalted reports whether an endpoint has stalled and was not cleared.
func (d *standard) isHalted(ep uint8) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.halted[ep]
}

func (d *standard) halt(ep uint8) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.halted[ep] = true
}

func (d *standard) busReset() {
	d.mu.Lock()
	d.config = 0
	clear(d.alts)
	clear(d.halted)
	d.mu.Unlock()
	d.model.Reset()
}

// request answers one standard request with its data stage, not yet cut to
// length; ErrStall refuses it.
func (d *standard) request(s usb.Setup, length int) ([]byte, error) {
	if s.Request == reqGetDescriptor {
		if s.RequestType != 0x80 {
			return nil, vusb.ErrStall
		}
		if s.Value == descDevice<<8 && length == resetProbe {
			d.busReset()
		}
		return d.descriptor(s)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch s.RequestType {
	case 0x00, 0x80:
		return d.deviceLocked(s)
	case 0x01, 0x81:
		return d.interfaceLocked(s)
	case 0x02, 0x82:
		return d.endpointLocked(s)
	}
	return nil, vusb.ErrStall
}

func (d *standard) descriptor(s usb.Setup) ([]byte, error) {
	kind, index := s.Value>>8, int(s.Value&0xFF)
	switch {
	case kind == descDevice && index == 0:
		return d.desc.Device, nil
	case kind == descConfig && index == 0:
		return d.desc.Config, nil
	case kind == descString && index == 0:
		return []byte{4, descString, langEnglishUS & 0xFF, langEnglishUS >> 8}, nil
	case kind == descString && index <= len(d.desc.Strings):
		return stringDescriptor(d.desc.Strings[index-1]), nil
	}
	// Also a device qualifier: only a device with two speeds has one.
	return nil, vusb.ErrStall
}

// stringDescriptor is UTF-16LE and at most 255 bytes long (USB 2.0, 9.6.7).
func stringDescriptor(text string) []byte {
	units := utf16.Encode([]rune(text))
	units = units[:min(len(units), (255-2)/2)]
	desc := []byte{byte(2 + 2*len(units)), descString}
	for _, u := range units {
		desc = binary.LittleEndian.AppendUint16(desc, u)
	}
	return desc
}

func (d *standard) deviceLocked(s usb.Setup) ([]byte, error) {
	in := s.In()
	switch {
	case in && s.Request == reqGetStatus:
		return []byte{0, 0}, nil // bus powered, no remote wakeup
	case in && s.Request == reqGetConfiguration:
		return []byte{d.config}, nil
	case !in && s.Request == reqSetConfiguration:
		// bConfigurationValue is byte 5 of the configuration descriptor.
		if s.Value != 0 && s.Value != uint16(d.desc.Config[5]) {
			return nil, vusb.ErrStall
		}
		d.config = uint8(s.Value)
		clear(d.alts)
		clear(d.halted)
		if d.config != 0 {
			d.configuredOnce.Do(func() { close(d.configured) })
		}
		return nil, nil
	case !in && s.Request == reqSetAddress:
		return nil, nil // vhci_hcd keeps addresses to itself
	case !in && (s.Request == reqSetFeature || s.Request == reqClearFeature) && s.Value == featureRemoteWakeup:
		return nil, nil
	}
	return nil, vusb.ErrStall
}

func (d *standard) interfaceLocked(s usb.Setup) ([]byte, error) {
	number := uint8(s.Index)
	if s.Index > 0xFF || !d.hasSetting(number, -1) {
		return nil, vusb.ErrStall
	}
	switch in := s.In(); {
	case in && s.Request == reqGetStatus:
		return []byte{0, 0}, nil
	case in && s.Request == reqGetInterface:
		return []byte{d.alts[number]}, nil
	case !in && s.Request == reqSetInterface && s.Value <= 0xFF && d.hasSetting(number, int(s.Value)):
		d.alts[number] = uint8(s.Value)
		clear(d.halted)
		return nil, nil
	}
	return nil, vusb.ErrStall
}

// hasSetting reports whether there is the interface, with the alternate
// setting alt unless that is negative.
func (d *standard) hasSetting(number uint8, alt int) bool {
	for _, i := range d.interfaces {
		if i.Number == number && (alt < 0 || int(i.Alt) == alt) {
			return true
		}
	}
	return false
}

func (d *standard) endpointLocked(s usb.Setup) ([]byte, error) {
	ep := uint8(s.Index)
	if s.Index > 0xFF || !d.hasEndpoint(ep) {
		return nil, vusb.ErrStall
	}
	switch in := s.In(); {
	case in && s.Request == reqGetStatus:
		if d.halted[ep] {
			return []byte{1, 0}, nil
		}
		return []byte{0, 0}, nil
	case !in && s.Request == reqClearFeature && s.Value == featureEndpointHalt:
		delete(d.halted, ep)
		return nil, nil
	case !in && s.Request == reqSetFeature && s.Value == featureEndpointHalt:
		if ep&0x0F != 0 {
			d.halted[ep] = true
		}
		return nil, nil
	}
	return nil, vusb.ErrStall
}

func (d *standard) hasEndpoint(ep uint8) bool {
	if ep&0x0F == 0 {
		return true
	}
	for _, i := range d.interfaces {
		for _, e := range i.Endpoints {
			if e.Address == ep {
				return true
			}
		}
	}
	return false
}
