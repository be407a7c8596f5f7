package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"openct/internal/ctbcs"
	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
)

// kaan is a card terminal of Kobil's on a serial line: a KAAN Professional, or a
// B1, which T-TeleSec sold. The host speaks T=1 with the terminal, in one session
// for the terminal and its slots, which differ in their NAD. The terminal does
// what CT-BCS says (package ctbcs), and speaks T=0 or T=1 with the card by itself.
//
// Sources: C OpenCT's ifd-kaan.c; doc/devices/kaan.md has what is known.
type kaan struct {
	line  serial.Line
	name  string
	log   *slog.Logger
	b1    bool
	units ctbcs.Features
	slots []ifd.Slot
	cards []*kaanSlot

	// turn is full while the terminal is at work. It is a channel so that a wait
	// for it can end with its context.
	turn chan struct{}

	// Guarded by turn.
	t1     *proto.T1Engine
	begun  bool // the answer under way has begun
	freeze kaanFreeze
}

var (
	_ proto.Link    = (*kaan)(nil)
	_ ifd.Displayer = (*kaan)(nil)
	_ ifd.Keypad    = (*kaan)(nil)
)

// kaanNAD is of blocks to the terminal: it is 1, the host 2 (ifd-kaan.c). The
// slots are 0, 3 and up.
const kaanNAD = 0x12

func kaanSlotNAD(slot int) byte {
	if slot == 0 {
		return 0x02
	}
	return byte(2+slot)<<4 | 0x02
}

// kaanMaxSlots is how many slots have a DAD of their own, four bits.
const kaanMaxSlots = 13

// INS that Kobil's terminals have beside those of CT-BCS, and in their place
// (ifd-kaan.c).
const (
	insKaanReset   = 0x10
	insKaanRequest = 0x17
)

// Waits for an answer. A terminal that is at work asks for more time, S(WTX).
const (
	kaanTimeout = 20 * time.Second // C OpenCT's proto-t1.c
	kaanStatus  = 5 * time.Second  // to a question that needs no card

	// kaanResynch is for the answer to S(RESYNCH), kaanResynchs how often it is
	// asked for.
	kaanResynch  = 3 * time.Second
	kaanResynchs = 3

	// kaanGap is the longest silence within a block.
	kaanGap = time.Second

	// Waits for a user: his own time and some more, and never less than people
	// need for a PIN.
	kaanUserExtra = 10 * time.Second
	kaanMinPIN    = 90 * time.Second
)

func openKaanAt(path string, o ifd.Options) (ifd.Reader, error) {
	return openSerialLine(path, o, openKaan)
}

func openB1At(path string, o ifd.Options) (ifd.Reader, error) {
	return openSerialLine(path, o, openB1)
}

func openKaan(l serial.Line, o ifd.Options) (ifd.Reader, error) { return newKaan(l, o, false) }
func openB1(l serial.Line, o ifd.Options) (ifd.Reader, error)   { return newKaan(l, o, true) }

func newKaan(l serial.Line, o ifd.Options, b1 bool) (ifd.Reader, error) {
	ctx := context.Background()
	k := &kaan{line: l, name: o.Name, log: o.Log, b1: b1, turn: make(chan struct{}, 1)}
	if err := l.Set(serial.Params{Speed: 9600, Parity: serial.Even}); err != nil {
		return nil, err
	}
	if b1 {
		if err := k.powerUp(ctx); err != nil {
			return nil, err
		}
	}
	if err := l.Flush(serial.In); err != nil {
		return nil, err
	}
	k.t1 = proto.NewT1(k, proto.T1Params{NAD: kaanNAD, Stream: true, Timeout: kaanTimeout, Once: ctbcs.AsksPIN})
	if !b1 {
		if err := k.resynchronise(ctx); err != nil {
			return nil, fmt.Errorf("no card terminal answers on this line: %w", err)
		}
	}
	if err := k.start(ctx); err != nil {
		return nil, err
	}
	return k, nil
}

// start resets the terminal and asks what it has.
func (k *kaan) start(ctx context.Context) error {
	resp, err := k.command(ctx, kaanINS(ctbcs.ResetCT(), insKaanReset), kaanTimeout)
	if err == nil && ctbcs.Unknown(resp) { // older firmware
		resp, err = k.command(ctx, ctbcs.ResetCT(), kaanTimeout)
	}
	if err != nil {
		return fmt.Errorf("card terminal does not answer to its reset: %w", err)
	}
	if err := ctbcs.Done("reset of the card terminal", resp); err != nil {
		return err
	}
	resp, err = k.command(ctx, ctbcs.GetUnits(), kaanStatus)
	if err != nil {
		return fmt.Errorf("the card terminal does not report its features: %w", err)
	}
	k.units = ctbcs.Units(resp)
	for i := range min(k.units.Slots, kaanMaxSlots) {
		s := &kaanSlot{k: k, index: i, unit: ctbcs.ICC1 + byte(i), nad: kaanSlotNAD(i)}
		k.cards = append(k.cards, s)
		if k.units.Keypad {
			k.slots = append(k.slots, kaanPINSlot{s})
		} else {
			k.slots = append(k.slots, s)
		}
	}
	k.freeze.active = time.Now()
	return nil
}

// powerUp turns a B1 on: DTR feeds it, and it answers with DSR (ifd-kaan.c). On
// a line that has neither it is taken to be on.
func (k *kaan) powerUp(ctx context.Context) error {
	const (
		off     = 50 * time.Millisecond
		rest    = 300 * time.Millisecond
		step    = 210 * time.Millisecond
		timeout = 5 * time.Second
	)
	if err := k.line.SetLines(false, false); err != nil {
		return err
	}
	if err := serial.Wait(ctx, k.line, off); err != nil {
		return err
	}
	in, err := k.line.Lines()
	switch {
	case errors.Is(err, serial.ErrNoLines):
		return nil
	case err != nil:
		return err
	case in.DSR:
		return fmt.Errorf("no B1 is on this line: DSR is high, but a B1 without power has DSR low: %w", ifd.ErrIncompatible)
	}
	if err := serial.Wait(ctx, k.line, rest); err != nil {
		return err
	}
	if err := k.line.SetLines(true, false); err != nil {
		return err
	}
	for waited := time.Duration(0); waited < timeout; waited += step {
		if err := serial.Wait(ctx, k.line, step); err != nil {
			return err
		}
		in, err := k.line.Lines()
		if err != nil {
			return err
		}
		if in.DSR {
			return nil
		}
	}
	return fmt.Errorf("no B1 is on this line: DSR stays low for %v after DTR is high: %w", timeout, ifd.ErrIncompatible)
}

// kaanINS is a command with another INS.
func kaanINS(cmd []byte, ins byte) []byte {
	cmd = slices.Clone(cmd)
	cmd[1] = ins
	return cmd
}

func (k *kaan) Slots() []ifd.Slot     { return k.slots }
func (k *kaan) Name() string          { return k.name }
func (k *kaan) Gone() <-chan struct{} { return k.line.Gone() }
func (k *kaan) HasKeypad() bool       { return k.units.Keypad }
func (k *kaan) HasDisplay() bool      { return k.units.Display }

// Close powers the cards down, if the terminal has nothing else to do.
func (k *kaan) Close() error {
	if k.tryEnter() {
		ctx, cancel := context.WithTimeout(context.Background(), kaanStatus)
		defer cancel()
		for _, s := range k.cards {
			if !s.powered || k.t1.Lost() != nil {
				continue
			}
			if _, err := k.command(ctx, ctbcs.EjectICC(s.unit, 0, ""), kaanStatus); err != nil {
				k.log.Debug("card was not powered down", "slot", s.index, "error", err)
			}
		}
		k.leave()
	}
	return k.line.Close()
}

// Display implements ifd.Displayer.
func (k *kaan) Display(ctx context.Context, message string) error {
	if !k.units.Display {
		return fmt.Errorf("the terminal has no display: %w", ifd.ErrNotSupported)
	}
	if err := k.enter(ctx); err != nil {
		return err
	}
	defer k.leave()
	resp, err := k.command(ctx, ctbcs.Output(message), kaanTimeout)
	if err != nil {
		return fmt.Errorf("display: %w", err)
	}
	return ctbcs.Done("display", resp)
}

// enter waits for the terminal and takes it; the caller must leave.
func (k *kaan) enter(ctx context.Context) error {
	select {
	case k.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the card terminal: %w", context.Cause(ctx))
	}
}

// tryEnter is enter where the terminal is free, and false otherwise.
func (k *kaan) tryEnter() bool {
	select {
	case k.turn <- struct{}{}:
		return true
	default:
		return false
	}
}

// leave gives the terminal to the next one, after something was done with it.
func (k *kaan) leave() {
	k.freeze = kaanFreeze{off: k.freeze.off, active: time.Now()}
	<-k.turn
}

// command sends a command to the terminal itself, and exchange one to a NAD. The
// caller has entered.
func (k *kaan) command(ctx context.Context, apdu []byte, timeout time.Duration) ([]byte, error) {
	return k.exchange(ctx, kaanNAD, apdu, nil, timeout)
}

func (k *kaan) exchange(ctx context.Context, nad byte, apdu, resp []byte, timeout time.Duration) ([]byte, error) {
	if k.t1.Lost() != nil {
		if err := k.resynchronise(ctx); err != nil {
			return nil, err
		}
	}
	k.t1.SetNAD(nad)
	k.t1.SetTimeout(timeout)
	return k.t1.Transmit(ctx, apdu, resp)
}

// resynchronise begins the session with the terminal anew. Cards know nothing
// of it.
func (k *kaan) resynchronise(ctx context.Context) (err error) {
	k.t1.SetNAD(kaanNAD)
	k.t1.SetTimeout(kaanResynch)
	for range kaanResynchs {
		if err = k.t1.Resynchronise(ctx); !errors.Is(err, device.ErrTimeout) {
			return err
		}
	}
	return err
}

// Send implements proto.Link. The terminal speaks when it is asked: what it has said
// and nobody has read is an answer that came too late, or twice.
func (k *kaan) Send(ctx context.Context, block []byte) error {
	k.begun = false
	if err := k.line.Flush(serial.In); err != nil {
		return err
	}
	return k.line.Write(ctx, block)
}

// Recv implements proto.Link. A block that stops in the middle is damaged; one
// that does not begin is not there.
func (k *kaan) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	for n := 0; n < len(buf); {
		if k.begun {
			timeout = min(timeout, kaanGap)
		}
		got, err := k.line.Read(ctx, buf[n:], timeout)
		n += got
		if errors.Is(err, device.ErrTimeout) && k.begun || errors.Is(err, serial.ErrParity) {
			return n, fmt.Errorf("%w: %w", proto.ErrCorrupted, err)
		}
		if err != nil {
			return n, err
		}
		k.begun = true
	}
	return len(buf), nil
}
