package ccid

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"openct/internal/ifd"
	"openct/internal/serial"
	"openct/internal/usb"
)

// serialModel is a reader on a serial line, which cannot show a class
// descriptor (libccid's ccid_serial.c has the same figures).
type serialModel struct {
	name      string // as libccid's device names end: "/dev/ttyS0:GemPCPinPad"
	slots     int
	features  Features
	clock     uint32 // kHz
	maxRate   uint32 // bit/s
	pin       byte
	hello     byte // escape command that answers with the firmware's name
	noNotify  bool // knows no command for when cards may be notified
	startSlow bool // at 9600 bit/s, until told otherwise
	fewRates  bool // of the slots behind the first
}

const (
	serialFeatures  = LevelTPDU | AutoClock | AutoRate | AcceptsNAD
	sec1210Features = LevelTPDU | AutoParameters | AutoClock | AutoRate | AutoPPS
)

// serialModels are the known readers on a serial line. The first is the default.
var serialModels = []serialModel{
	{name: "GemPCTwin", slots: 1, features: serialFeatures, clock: 4000, maxRate: 344086, hello: 0x02},
	{name: "GemPCPinPad", slots: 1, features: serialFeatures, clock: 4000, maxRate: 500000, hello: 0x02,
		pin: pinSupportVerify | pinSupportModify},
	{name: "GemCorePOSPro", slots: 5, features: serialFeatures, clock: 4000, maxRate: 500000, hello: 0x02, fewRates: true},
	{name: "GemCoreSIMPro2", slots: 2, features: serialFeatures, clock: 4800, maxRate: 825806, hello: 0x02, startSlow: true, fewRates: true},
	{name: "GemCoreSIMPro", slots: 2, features: serialFeatures, clock: 4000, maxRate: 500000, hello: 0x02, fewRates: true},
	{name: "SEC1210URT", slots: 1, features: sec1210Features, clock: 4800, maxRate: 826000, hello: 0x06, noNotify: true},
	{name: "SEC1210", slots: 2, features: sec1210Features, clock: 4800, maxRate: 826000, hello: 0x06, noNotify: true},
}

// Data rates in bit/s of a GemPC Twin, and of the slots behind the first of
// the models that have them.
var (
	twinRates = []uint32{
		10753, 14337, 15625, 17204, 20833, 21505, 23438, 25806, 28674, 31250, 32258, 34409, 39063, 41667,
		43011, 46875, 52083, 53763, 57348, 62500, 64516, 68817, 71685, 78125, 83333, 86022, 93750, 104167,
		107527, 114695, 125000, 129032, 143369, 156250, 166667, 172043, 215054, 229391, 250000, 344086,
	}
	secondaryRates = []uint32{10753, 21505, 43011, 125000}
)

// Line speeds.
const (
	serialSpeed     = 115200
	serialSlowSpeed = 9600
)

// serialParams are 8 data bits, no parity, 2 stop bits, as libccid has it
// (ccid_serial.c).
func serialParams(speed uint32) serial.Params {
	return serial.Params{Speed: speed, StopBits: 2}
}

// Waits while a reader is looked for.
const (
	helloTimeout  = 2 * time.Second
	slowProbe     = 1 * time.Second
	speedSettling = 250 * time.Millisecond
)

// OpenSerial opens a CCID reader on a serial line. path may name the model
// behind a colon, "/dev/ttyS0:GemPCPinPad"; otherwise it is taken for a GemPC
// Twin. The error wraps ifd.ErrIncompatible if no such reader answers.
func OpenSerial(path string, opts ifd.Options) (ifd.Reader, error) {
	path, model, err := serialName(path)
	if err != nil {
		return nil, err
	}
	l, err := opts.Open(path)
	if err != nil {
		return nil, err
	}
	return openSerial(l, model, opts)
}

// serialName takes a device name apart.
func serialName(name string) (path string, m serialModel, err error) {
	path, suffix, named := strings.Cut(name, ":")
	if !named {
		return path, serialModels[0], nil
	}
	var known []string
	for _, m := range serialModels {
		if m.name == suffix {
			return path, m, nil
		}
		known = append(known, m.name)
	}
	return "", m, fmt.Errorf("%s: unknown reader model %q: use one of %s", path, suffix, strings.Join(known, ", "))
}

func (m serialModel) descriptor() *ClassDescriptor {
	return &ClassDescriptor{
		Release: 0x0100, Slots: m.slots, Voltages: 7, Protocols: protocolT0 | protocolT1,
		DefaultClock: m.clock, MaxClock: m.clock, DefaultRate: 10753, MaxRate: m.maxRate,
		MaxIFSD: maxIFSD, Features: m.features, MaxMessage: shortMessage, PINSupport: m.pin, BusySlots: 1,
	}
}

func (m serialModel) rates(slot int) []uint32 {
	switch {
	case m.name == serialModels[0].name:
		return twinRates
	case m.fewRates && slot > 0:
		return secondaryRates
	}
	return nil
}

// openSerial takes the line over, also when it fails. RTS goes down at once:
// while it is up, readers send their plug-and-play identification.
func openSerial(l serial.Line, m serialModel, opts ifd.Options) (ifd.Reader, error) {
	err := l.SetLines(true, false)
	if err == nil {
		err = l.Set(serialParams(serialSpeed))
	}
	if err == nil {
		err = l.Flush(serial.Both)
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return openTransport(newSerialTransport(l), m.descriptor(), m.rates, func(ctx context.Context, c *conn) error {
		return m.greet(ctx, c, l)
	}, opts)
}

// greet finds out whether the reader is there, and has it tell of cards only
// between a command and its answer, where they do not get lost.
func (m serialModel) greet(ctx context.Context, c *conn, l serial.Line) error {
	if m.startSlow {
		if err := m.speedUp(ctx, c, l); err != nil {
			return err
		}
	}
	r, err := c.run(ctx, 0, escape([]byte{m.hello}), helloTimeout)
	if err != nil {
		return err
	}
	c.log.Debug("reader answers", "firmware", fmt.Sprintf("%q", r.data))
	if m.noNotify {
		return nil
	}
	if _, err := c.run(ctx, 0, escape([]byte{0x01, 0x01, 0x01}), commandTimeout); err != nil && r.typ == 0 {
		return err
	}
	return nil
}

// speedUp finds a reader that still has its slow line speed and gives it the
// usual one.
func (m serialModel) speedUp(ctx context.Context, c *conn, l serial.Line) error {
	if err := l.Set(serialParams(serialSlowSpeed)); err != nil {
		return err
	}
	_, err := c.run(ctx, 0, getSlotStatus(), slowProbe)
	switch {
	case errors.Is(err, usb.ErrUnplugged), errors.Is(err, usb.ErrClosed):
		return err
	case err == nil:
		if _, err := c.run(ctx, 0, escape([]byte{0x01, 0x10, 0x20}), commandTimeout); err != nil {
			return err
		}
		if !sleep(ctx, speedSettling) {
			return ctx.Err()
		}
	}
	return l.Set(serialParams(serialSpeed))
}
