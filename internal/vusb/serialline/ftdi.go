package serialline

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"openct/internal/serial"
	"openct/internal/usb"
	"openct/internal/vusb"
)

// FTDI is a USB-serial adapter with the protocol of an FT232B, as Linux has it
// (drivers/usb/serial/ftdi_sio.h): vendor requests for the line, and bulk
// endpoints for its bytes, to the host with two bytes of status ahead of each
// packet.
//
// A byte takes as long as the line needs for it, unless Instant.
type FTDI struct {
	// Instant makes bytes arrive at once. It is set before plugging.
	Instant bool

	mu       sync.Mutex
	reader   Reader
	params   serial.Params
	dtr, rts bool
	latency  time.Duration // until a packet that is not full is sent
	free     time.Time     // when the line has sent what it was given
	in       []arrival
	told     serial.Inputs
	wake     chan struct{} // closed and replaced when In should look again
}

// arrival is a byte and when it is here.
type arrival struct {
	Char
	at time.Time
}

var _ vusb.Model = (*FTDI)(nil)

// Requests (ftdi_sio.h).
const (
	ftdiReset          = 0
	ftdiModemCtrl      = 1
	ftdiFlowCtrl       = 2
	ftdiSetBaud        = 3
	ftdiSetData        = 4
	ftdiGetModemStatus = 5
	ftdiSetEventChar   = 6
	ftdiSetErrorChar   = 7
	ftdiSetLatency     = 9
	ftdiGetLatency     = 10
)

// Status bytes (ftdi_sio.h, FTDI_RS0_ and FTDI_RS_).
const (
	ftdiCTS  = 0x10
	ftdiDSR  = 0x20
	ftdiRI   = 0x40
	ftdiDCD  = 0x80
	ftdiPE   = 0x04
	ftdiTHRE = 0x20
	ftdiTEMT = 0x40
)

const (
	ftdiIn      = 0x81
	ftdiOut     = 0x02
	ftdiPacket  = 64
	ftdiData    = ftdiPacket - 3         // one less than fits, so that each transfer ends with its packet
	ftdiLatency = 16 * time.Millisecond  // after a reset (ftdi_sio.c)
	ftdiClock   = 24_000_000             // baud rate times divisor in eighths (ftdi_232bm_baud_base_to_divisor)
	ftdiPause   = 500 * time.Microsecond // from reset to answer to reset: 400 clocks and more
)

// NewFTDI puts a reader behind an adapter, 0403:6001.
func NewFTDI(r Reader) *FTDI {
	a := &FTDI{reader: r, wake: make(chan struct{})}
	a.Reset()
	return a
}

// Descriptors implements vusb.Model.
func (a *FTDI) Descriptors() vusb.Descriptors {
	dev := []byte{
		18, 1, 0x10, 0x01, 0, 0, 0, 8,
		0, 0, 0, 0, 0x00, 0x04, 1, 2, 3, 1, // bcdDevice 4.00: FT232B (ftdi_sio.c, ftdi_determine_type)
	}
	binary.LittleEndian.PutUint16(dev[8:], 0x0403)
	binary.LittleEndian.PutUint16(dev[10:], 0x6001)
	config := []byte{
		9, 2, 0, 0, 1, 1, 0, 0x80, 45,
		9, 4, 0, 0, 2, 0xFF, 0xFF, 0xFF, 2,
	}
	config = append(config, vusb.Endpoint(ftdiIn, usb.EndpointBulk, ftdiPacket)...)
	config = append(config, vusb.Endpoint(ftdiOut, usb.EndpointBulk, ftdiPacket)...)
	binary.LittleEndian.PutUint16(config[2:], uint16(len(config)))
	return vusb.Descriptors{
		Device: dev, Config: config, Strings: []string{"FTDI", "FT232 Serial", "OPENCT01"}, Speed: vusb.FullSpeed,
	}
}

// Reset implements vusb.Model.
func (a *FTDI) Reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.latency, a.in, a.free = ftdiLatency, nil, time.Time{}
	a.params = serial.Default
	a.reader.Set(a.params)
	a.linesLocked(false, false)
}

// Control implements vusb.Model.
func (a *FTDI) Control(_ context.Context, s usb.Setup, _ []byte, length int) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case s.RequestType == usb.VendorDeviceIn && s.Request == ftdiGetModemStatus:
		b := a.statusLocked()
		return b[:min(len(b), length)], nil
	case s.RequestType == usb.VendorDeviceIn && s.Request == ftdiGetLatency:
		return []byte{byte(a.latency / time.Millisecond)}, nil
	case s.RequestType != usb.VendorDeviceOut:
		return nil, vusb.ErrStall
	}
	switch s.Request {
	case ftdiReset:
		if s.Value != 2 { // 0: all, 1: what was received; 2: what is to be sent
			a.in = nil
		}
	case ftdiModemCtrl: // bit 0 DTR, 1 RTS; a bit 8 higher says that it counts
		dtr, rts := a.dtr, a.rts
		if s.Value&0x100 != 0 {
			dtr = s.Value&1 != 0
		}
		if s.Value&0x200 != 0 {
			rts = s.Value&2 != 0
		}
		a.linesLocked(dtr, rts)
	case ftdiSetBaud:
		if speed := ftdiSpeed(s.Value, s.Index); speed != 0 {
			a.params.Speed = speed
			a.reader.Set(a.params)
		}
	case ftdiSetData: // bits 0-7 data bits, 8-10 parity, 11-13 stop bits, 14 break
		p := serial.Params{Speed: a.params.Speed, Bits: int(s.Value & 0xFF), StopBits: 1}
		if s.Value>>11&7 == 2 {
			p.StopBits = 2
		}
		switch s.Value >> 8 & 7 {
		case 1:
			p.Parity = serial.Odd
		case 2:
			p.Parity = serial.Even
		}
		a.params = p
		a.reader.Set(p)
	case ftdiSetLatency:
		a.latency = time.Duration(s.Value&0xFF) * time.Millisecond
	case ftdiFlowCtrl, ftdiSetEventChar, ftdiSetErrorChar:
	default:
		return nil, vusb.ErrStall
	}
	return nil, nil
}

// ftdiSpeed decodes the divisor of SET_BAUD (ftdi_232bm_baud_base_to_divisor):
// 14 bits, and three for its eighths. 0: no divisor.
func ftdiSpeed(value, index uint16) uint32 {
	switch {
	case value == 0 && index&1 == 0:
		return 3_000_000
	case value == 1 && index&1 == 0:
		return 2_000_000
	}
	eighths := [8]uint32{0, 4, 2, 1, 3, 5, 6, 7}
	d := uint32(value&0x3FFF)<<3 | eighths[value>>14|index&1<<2]
	if d < 8 {
		return 0
	}
	return (ftdiClock + d/2) / d
}

func (a *FTDI) statusLocked() []byte {
	in := a.reader.Inputs()
	modem := byte(1) // always, as the chip does
	for _, l := range []struct {
		set bool
		bit byte
	}{{in.CTS, ftdiCTS}, {in.DSR, ftdiDSR}, {in.RI, ftdiRI}, {in.DCD, ftdiDCD}} {
		if l.set {
			modem |= l.bit
		}
	}
	return []byte{modem, ftdiTHRE | ftdiTEMT}
}

func (a *FTDI) linesLocked(dtr, rts bool) {
	if dtr == a.dtr && rts == a.rts {
		return
	}
	a.dtr, a.rts = dtr, rts
	chars := a.reader.SetLines(dtr, rts)
	a.free = time.Now().Add(ftdiPause)
	a.arriveLocked(chars)
}

// arriveLocked puts what the reader sends on the line, one behind the other.
func (a *FTDI) arriveLocked(chars []Char) {
	for _, c := range chars {
		if !a.Instant {
			a.free = a.free.Add(a.params.Time(1))
		}
		a.in = append(a.in, arrival{c, a.free})
	}
	a.changedLocked()
}

func (a *FTDI) changedLocked() {
	close(a.wake)
	a.wake = make(chan struct{})
}

// Do has something done to the reader, such as its card taken out.
func (a *FTDI) Do(f func(Reader)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(a.reader)
	a.changedLocked()
}

// Changed tells the adapter that the reader's lines have changed.
func (a *FTDI) Changed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changedLocked()
}

// Out implements vusb.Model. The adapter has room for what is written; it is
// sent at the line's speed.
func (a *FTDI) Out(_ context.Context, ep uint8, data []byte) error {
	if ep != ftdiOut {
		return vusb.ErrStall
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); a.free.Before(now) {
		a.free = now
	}
	for _, b := range data {
		a.arriveLocked(a.reader.Send(b))
	}
	return nil
}

// In implements vusb.Model. A real one sends its status every few
// milliseconds; this one when there is something to tell.
func (a *FTDI) In(ctx context.Context, ep uint8, limit int) ([]byte, error) {
	if ep != ftdiIn || limit < 3 {
		return nil, vusb.ErrStall
	}
	for {
		a.mu.Lock()
		packet, wait := a.packetLocked(min(ftdiData, limit-2))
		wake := a.wake
		a.mu.Unlock()
		if packet != nil {
			return packet, nil
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-due:
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// packetLocked is the next packet, or how long there is none; 0 for unknown.
func (a *FTDI) packetLocked(limit int) (packet []byte, wait time.Duration) {
	now := time.Now()
	due := 0
	for due < len(a.in) && due < limit && !a.in[due].at.After(now) && a.in[due].Bad == a.in[0].Bad {
		due++
	}
	inputs := a.reader.Inputs()
	switch {
	case due == 0 && inputs != a.told: // tell the status alone
	case len(a.in) == 0:
		return nil, 0
	case due == 0:
		return nil, a.in[0].at.Sub(now)
	case due < limit && !a.Instant && (due == len(a.in) || a.in[due].at.After(now)):
		// There is room: it leaves when the latency timer has run out.
		if wait := a.in[0].at.Add(a.latency).Sub(now); wait > 0 {
			return nil, wait
		}
	}
	a.told = inputs
	packet = a.statusLocked()
	if due > 0 && a.in[0].Bad {
		packet[1] |= ftdiPE
	}
	for _, c := range a.in[:due] {
		packet = append(packet, c.Byte)
	}
	a.in = a.in[due:]
	return packet, 0
}
