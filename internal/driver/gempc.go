package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"openct/internal/atr"
	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
)

// gemPC is a Gemplus reader with GemCore firmware on a serial line, such as the
// GemPC 410: commands in GBP, answered with a status byte and data
// (doc/devices/gempc.md).
type gemPC struct {
	line  serial.Line
	name  string
	log   *slog.Logger
	gbp   *proto.GBPEngine
	begun bool // some of an answer has come
	on    bool // the card has power
}

var _ ifd.Presence = (*gemPC)(nil)

// Commands (C OpenCT's ifd-gempc.c).
const (
	gemSpeed    = 0x0A
	gemPowerOff = 0x11
	gemPowerOn  = 0x12
	gemOutput   = 0x13 // a T=0 command that brings data
	gemInput    = 0x14 // a T=0 command that brings none
	gemExchange = 0x15 // an APDU, in T=1
	gemStatus   = 0x17

	gemPowered = 0x02 // bits of the card's status
	gemPresent = 0x04
)

var (
	gem38400    = []byte{gemSpeed, 0x02}
	gemROSMode  = []byte{0x01, 0x00, 0x08}
	gemFirmware = []byte{0x22, 0x05, 0x3F, 0xE0, 0x10} // reads 16 bytes of memory
	gemEMV      = []byte{gemStatus, 0x00, 0x47}

	// The ways of power-up, in C OpenCT's order: with the reader's own PPS,
	// without one, and as EMV has it.
	gemPowerUps = [][]byte{{gemPowerOn, 0x23}, {gemPowerOn, 0x13}, {gemPowerOn}}

	// What stands in the place of a header for the rest of a long command or
	// response.
	gemRest = []byte{0xFF, 0xFF, 0xFF, 0xFF}
)

// Names by firmware (C OpenCT's ifd-gempc.c).
var gemNames = map[string]string{
	"OROS-R2.24RM":     "GCR 400",
	"OROS-R2.99-R1.10": "GCR 410",
	"OROS-R2.99-R1.11": "GCR 410P",
	"OROS-R2.99-R1.21": "GemPC 410",
	"GemCore-R1.21-GM": "GemPC 410",
	"OROS-R2.99-R1.32": "GemPC 413",
}

const (
	gemCommand = 2 * time.Second  // for an answer of the reader itself
	gemCard    = 20 * time.Second // for one of the card: C OpenCT's, for everything
	gemSettle  = 500 * time.Millisecond
)

// Status bytes of an answer; texts are the meanings of some others.
const (
	gemOK        = 0x00
	gemUnknown   = 0x01
	gemMore      = 0x1B // the rest is to be fetched
	gemMute      = 0xA2
	gemStopped   = 0xE5 // the card stopped after SW1 SW2, which follow
	gemNot9000   = 0xE7 // the status word, which follows, is not 9000
	gemWithdrawn = 0xF7
	gemAbsent    = 0xFB
)

var gemTexts = map[byte]string{
	0x02: "argument missing", 0x03: "wrong argument", 0x10: "wrong TS", 0x1D: "wrong TCK", 0xA0: "error in the answer to reset",
	0xA1: "protocol error", gemMute: "card is silent", 0xA3: "parity error", 0xA4: "card aborted chaining",
	0xA5: "reader aborted chaining", 0xA6: "card resynchronised", 0xA7: "error in PPS", 0xA8: "not as EMV has it",
}

func openGemPCAt(path string, o ifd.Options) (ifd.Reader, error) {
	return openSerialLine(path, o, openGemPC)
}

// openGemPC changes the speed, which a reader has that begins to count. One
// that was served before has it already, and does not hear the first command.
func openGemPC(l serial.Line, o ifd.Options) (ifd.Reader, error) {
	g := &gemPC{line: l, name: o.Name, log: o.Log}
	g.gbp = proto.NewGBP((*gemLink)(g))
	ctx := context.Background()
	if err := l.Set(serial.Params{Speed: 9600}); err != nil {
		return nil, err
	}
	if _, err := g.gbp.Exchange(ctx, gem38400, nil, gemCommand); errors.Is(err, device.ErrUnplugged) {
		return nil, err
	}
	if err := serial.Wait(ctx, l, gemSettle); err != nil {
		return nil, err
	}
	if err := l.Flush(serial.In); err != nil {
		return nil, err
	}
	if err := l.Set(serial.Params{Speed: 38400}); err != nil {
		return nil, err
	}
	if err := g.gbp.Resynchronise(ctx); err != nil {
		return nil, fmt.Errorf("no GemPC on %s: %w", l.Name(), err)
	}
	if _, err := g.command(ctx, gemROSMode, gemCommand); err != nil && !errors.Is(err, ifd.ErrNotSupported) {
		return nil, fmt.Errorf("no GemPC on %s: %w", l.Name(), err)
	}
	firmware, err := g.command(ctx, gemFirmware, gemCommand)
	if err != nil {
		return nil, fmt.Errorf("no GemPC on %s: firmware: %w", l.Name(), err)
	}
	if name, ok := gemNames[string(firmware)]; ok {
		g.name = name
	}
	g.log.Debug("reader identified", "firmware", fmt.Sprintf("%q", firmware))
	return g, nil
}

func (g *gemPC) Slots() []ifd.Slot     { return []ifd.Slot{g} }
func (g *gemPC) Name() string          { return g.name }
func (g *gemPC) Gone() <-chan struct{} { return g.line.Gone() }

// Close takes the card's power.
func (g *gemPC) Close() error {
	if g.on {
		// What fails here fails in Close as well, or the reader does not answer.
		_, _ = g.command(context.Background(), []byte{gemPowerOff}, gemCommand)
	}
	return g.line.Close()
}

// Status implements ifd.Presence. A card that has lost its power was taken out
// in between, as in C OpenCT.
func (g *gemPC) Status(ctx context.Context) (ifd.Status, error) {
	b, err := g.command(ctx, []byte{gemStatus}, gemCommand)
	if err == nil && len(b) == 0 {
		err = fmt.Errorf("no status in the answer: %w", ifd.ErrComm)
	}
	if err != nil {
		return ifd.Status{}, fmt.Errorf("status: %w", err)
	}
	st := ifd.Status{Present: b[0]&gemPresent != 0}
	if b[0]&gemPowered == 0 {
		st.Changed, g.on = g.on && st.Present, false
	}
	return st, nil
}

// Reset implements ifd.Slot.
func (g *gemPC) Reset(ctx context.Context) ([]byte, error) {
	st, err := g.Status(ctx)
	switch {
	case err != nil:
		return nil, err
	case !st.Present:
		return nil, ifd.ErrNoCard
	}
	for _, way := range gemPowerUps {
		raw, err := g.powerUp(ctx, way)
		if !errors.Is(err, ifd.ErrNoATR) {
			return raw, err
		}
	}
	// Firmware that knows the mode of EMV has it before the third way.
	if _, err := g.command(ctx, gemEMV, gemCommand); err != nil {
		return nil, fmt.Errorf("%w: %w", ifd.ErrNoATR, err)
	}
	return g.powerUp(ctx, []byte{gemPowerOn})
}

// powerUp resets the card. ErrNoATR says that another way may work.
func (g *gemPC) powerUp(ctx context.Context, way []byte) ([]byte, error) {
	g.on = true
	raw, err := g.command(ctx, way, gemCard)
	var refused *gemError
	switch {
	case errors.As(err, &refused) && !errors.Is(err, ifd.ErrNoCard):
		return nil, fmt.Errorf("%w: %w", ifd.ErrNoATR, err)
	case err != nil:
		return nil, fmt.Errorf("reset: %w", err)
	case len(raw) > atr.MaxLen:
		return nil, fmt.Errorf("ATR of %d bytes: %w", len(raw), ifd.ErrInvalidATR)
	}
	return rawATR(raw)
}

// Protocol implements ifd.Slot. The reader has selected the protocol already: it is
// the one that the ATR puts first.
func (g *gemPC) Protocol(_ context.Context, p proto.ID, a *atr.ATR) (proto.Engine, error) {
	p, err := choose(p, a)
	switch {
	case err != nil:
		return nil, err
	case p != a.Default() || p != proto.T0 && p != proto.T1:
		return nil, fmt.Errorf("protocol T=%d, which the reader has not selected: %w", p, ifd.ErrNotSupported)
	case p == proto.T1:
		return &gemT1{g: g}, nil
	}
	link := &gemT0Link{g: g}
	return &gemT0{proto.NewT0(link, proto.T0Params{WWT: a.WWT(atr.Rate{})}), link}, nil
}

// gemLink is the line as GBP uses it.
type gemLink gemPC

// Send implements proto.Link. What the reader has said without being asked
// belongs to nothing.
func (l *gemLink) Send(ctx context.Context, b []byte) error {
	l.begun = false
	if err := l.line.Flush(serial.In); err != nil {
		return err
	}
	out := append([]byte(nil), b...)
	defer clear(out)
	return l.line.Write(ctx, out)
}

// Recv implements proto.Link.
func (l *gemLink) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	n, err := serial.ReadFull(ctx, l.line, buf, timeout)
	l.begun = l.begun || n > 0
	if l.begun && errors.Is(err, device.ErrTimeout) && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", proto.ErrCorrupted, err)
	}
	return n, err
}
