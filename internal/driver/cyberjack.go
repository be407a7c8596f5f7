package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"openct/internal/ctbcs"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
)

// cyberJack is a Reiner SCT cyberJack e-com or pinpad. The host speaks T=1 with
// the reader, in one session for the reader itself, which does what CT-BCS says,
// and for the card, which get their own node addresses; the reader speaks T=0 or
// T=1 with the card. Each block is in a frame of its own: 00, its length in two
// bytes, the low one first, the block (doc/devices/cyberjack.md).
type cyberJack struct {
	dev   usb.Device
	name  string
	log   *slog.Logger
	slot  *cyberSlot
	units ctbcs.Features

	// turn is full while the reader is at work. It is a channel so that a wait
	// for it can end with its context.
	turn chan struct{}

	// Guarded by turn.
	t1    *proto.T1Engine
	nad   byte          // of the blocks under way
	limit time.Duration // how long the reader may be at work with a block
	moved bool          // the reader told that the card came or went, and no Status has since
	buf   [cyberPackets * cyberPacket]byte
}

var (
	_ proto.Link    = (*cyberJack)(nil)
	_ ifd.Displayer = (*cyberJack)(nil)
	_ ifd.Keypad    = (*cyberJack)(nil)
)

// Node addresses: of the reader's commands, of the card, and of the link (C
// OpenCT's ifd-cyberjack.c). The reader answers with both halves exchanged.
const (
	cyberReader = 0x12
	cyberCard   = 0x02
	cyberLink   = 0xE2
)

// Supervisory blocks that the reader has beside those of T=1. Bit 5 is set in
// some of them; they are answered and not numbered (ifd-cyberjack.c).
const (
	cyberWTX   = 0xC3 // of T=1, also without a value
	cyberKey   = 0xC4 // a key was pressed
	cyberMoved = 0xC5 // the card came or went; as E5 or F5
	cyberNoise = 0xC6 // means nothing; as E6 or F6

	cyberSAnswer  = 0x20
	cyberMovedAck = 0xD5
)

// cyberS is such a block's kind: E5 and F5 are one.
func cyberS(pcb byte) byte { return pcb &^ 0x30 }

const (
	cyberOut = 0x02
	cyberIn  = 0x82

	cyberPacket  = 64
	cyberPackets = 5 // hold the longest frame, 3 + 259 bytes
	cyberHeader  = 3
	cyberMaxINF  = 254

	cyberTimeout = 20 * time.Second // of an answer, C OpenCT's
	cyberLinkUp  = 8 * time.Second  // of an answer while the link begins, C OpenCT's
	cyberStatus  = 5 * time.Second  // of a question that takes no card
	cyberPowerUp = 200 * time.Millisecond
	cyberAfterPI = 500 * time.Millisecond // C OpenCT gives the reader so long after a PIN

	cyberPIN      = 30 * time.Second // where nobody says how long, C OpenCT's
	cyberUserMore = 10 * time.Second // beyond the user's own time
	cyberInsert   = 20 * time.Second // for a card that is in, C OpenCT's

	// In one wait: empty packets in a row, and supervisory blocks. A user who
	// types for minutes makes some hundreds.
	cyberEmpty  = 16
	cyberBlocks = 1000
)

func openCyberJack(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	c := &cyberJack{dev: dev, name: o.Name, log: o.Log, turn: make(chan struct{}, 1)}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.slot = &cyberSlot{c: c}
	c.t1 = proto.NewT1(c, proto.T1Params{NAD: cyberLink, IFSC: cyberMaxINF, IFSD: cyberMaxINF, Timeout: cyberTimeout, Once: ctbcs.AsksPIN})
	ctx := context.Background()
	if err := pause(ctx, dev, cyberPowerUp); err != nil {
		return nil, err
	}
	if r, ok := dev.(usb.Resetter); ok {
		// C OpenCT: without it the reader does not always come up.
		if err := r.Reset(); err != nil {
			return nil, fmt.Errorf("USB reset of the reader: %w", err)
		}
	}
	if err := dev.Claim(0, 0); err != nil {
		return nil, err
	}
	if err := c.activate(ctx, true); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *cyberJack) Slots() []ifd.Slot     { return []ifd.Slot{c.slot} }
func (c *cyberJack) Name() string          { return c.name }
func (c *cyberJack) Gone() <-chan struct{} { return c.dev.Gone() }
func (c *cyberJack) HasDisplay() bool      { return c.units.Display }
func (c *cyberJack) HasKeypad() bool       { return c.units.Keypad }

// Close powers the card down, if the reader has nothing else to do.
func (c *cyberJack) Close() error {
	select {
	case c.turn <- struct{}{}:
		if c.slot.powered && c.t1.Lost() == nil {
			ctx, cancel := context.WithTimeout(context.Background(), cyberStatus)
			if _, err := c.exchange(ctx, cyberReader, ctbcs.EjectICC(ctbcs.ICC1, 0, ""), nil, cyberStatus); err != nil {
				c.log.Debug("card was not powered down", "error", err)
			}
			cancel()
		}
		<-c.turn
	default:
	}
	return c.dev.Close()
}

// Display implements ifd.Displayer.
func (c *cyberJack) Display(ctx context.Context, message string) error {
	if !c.units.Display {
		return fmt.Errorf("the reader has no display: %w", ifd.ErrNotSupported)
	}
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.leave()
	resp, err := c.command(ctx, ctbcs.Output(message), cyberStatus)
	if err != nil {
		return fmt.Errorf("display: %w", err)
	}
	return ctbcs.Done("display", resp)
}

// enter waits for the reader and takes it; the caller must leave.
func (c *cyberJack) enter(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the reader: %w", context.Cause(ctx))
	}
}

func (c *cyberJack) leave() { <-c.turn }

// activate begins the link and resets the reader, after which the card has no
// power and blocks are numbered from 0. units asks what the reader has.
func (c *cyberJack) activate(ctx context.Context, units bool) error {
	c.slot.off(errors.New("reader was reset"))
	c.limit = cyberLinkUp
	if err := c.Send(ctx, []byte{cyberLink, 0xC1, 0x00, cyberLink ^ 0xC1}); err != nil {
		return err
	}
	if err := c.resynchronise(ctx); err != nil {
		return fmt.Errorf("the reader does not answer: %w", err)
	}
	const what = "reset of the reader"
	resp, err := c.exchange(ctx, cyberReader, ctbcs.ResetCT(), nil, cyberLinkUp)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := ctbcs.Done(what, resp); err != nil {
		return err
	}
	if units {
		resp, err := c.exchange(ctx, cyberReader, ctbcs.GetUnits(), nil, cyberStatus)
		switch {
		case errors.Is(err, usb.ErrUnplugged) || ctx.Err() != nil:
			return err
		case err != nil:
			c.log.Info("the reader does not report its features", "error", err)
		}
		c.units = ctbcs.Units(resp)
	}
	if err := c.resynchronise(ctx); err != nil {
		return fmt.Errorf("the reader does not answer after the change of the block size: %w", err)
	}
	return nil
}

// resynchronise makes both sides number their blocks from 0.
func (c *cyberJack) resynchronise(ctx context.Context) error {
	c.nad, c.limit = cyberLink, cyberLinkUp
	c.t1.SetNAD(cyberLink)
	c.t1.SetTimeout(cyberLinkUp)
	return c.t1.Resynchronise(ctx)
}

// command sends a command to the reader itself. A link that was lost begins
// anew.
func (c *cyberJack) command(ctx context.Context, apdu []byte, wait time.Duration) ([]byte, error) {
	if c.t1.Lost() != nil {
		if err := c.activate(ctx, false); err != nil {
			return nil, err
		}
	}
	return c.exchange(ctx, cyberReader, apdu, nil, wait)
}

func (c *cyberJack) exchange(ctx context.Context, nad byte, apdu, resp []byte, wait time.Duration) ([]byte, error) {
	c.nad, c.limit = nad, max(wait, maxBusy)
	c.t1.SetNAD(nad)
	c.t1.SetTimeout(wait)
	resp, err := c.t1.Transmit(ctx, apdu, resp)
	if err != nil && c.t1.Lost() != nil {
		c.slot.off(err)
	}
	return resp, err
}

// Send implements proto.Link.
func (c *cyberJack) Send(ctx context.Context, block []byte) error {
	frame := append([]byte{0, byte(len(block)), byte(len(block) >> 8)}, block...)
	defer clear(frame) // there may be a PIN
	n, err := bulk(ctx, c.dev, cyberOut, frame, controlTimeout)
	if err == nil && n != len(frame) {
		err = fmt.Errorf("reader took %d of %d bytes: %w", n, len(frame), ifd.ErrComm)
	}
	return err
}

// Recv implements proto.Link. Blocks that are no part of T=1 are dealt with
// here, and the wait begins anew after each, until the reader is at work for too
// long.
func (c *cyberJack) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	end := time.Now().Add(c.limit + timeout)
	for blocks := 1; ; blocks++ {
		block, err := c.frame(ctx, timeout)
		if err != nil {
			return 0, err
		}
		mine, err := c.supervise(ctx, block)
		switch {
		case err != nil:
			return 0, err
		case mine:
			return copy(buf, block), nil
		case blocks == cyberBlocks || time.Now().After(end):
			return 0, fmt.Errorf("the reader stays busy: %w", usb.ErrTimeout)
		}
	}
}

// supervise answers a supervisory block of the reader's own, and says whether
// the block is one of T=1's.
func (c *cyberJack) supervise(ctx context.Context, block []byte) (mine bool, err error) {
	if len(block) < 4 || len(block) != 4+int(block[2]) || xorAll(block) != 0 {
		return true, nil // a damaged one
	}
	nad, pcb, answer := block[0], block[1], byte(0)
	swapped := nad<<4 | nad>>4
	switch {
	case c.nad == cyberLink && swapped != cyberLink:
		return false, nil // of an exchange that was given up
	case pcb == cyberWTX && (len(block) == 4 || swapped != c.nad):
		answer = cyberWTX | cyberSAnswer
	case pcb&0xC0 != 0xC0:
		return true, nil
	case cyberS(pcb) == cyberKey:
		answer = cyberKey | cyberSAnswer
	case cyberS(pcb) == cyberMoved:
		c.moved = true
		answer = cyberMovedAck
	case cyberS(pcb) == cyberNoise:
		return false, nil
	default:
		return true, nil
	}
	reply := append([]byte{swapped, answer, block[2]}, block[3:len(block)-1]...)
	return false, c.Send(ctx, append(reply, xorAll(reply)))
}

// frame reads a frame and returns what is in it, valid until the next one.
func (c *cyberJack) frame(ctx context.Context, timeout time.Duration) ([]byte, error) {
	have := 0
	for empty := 0; have == 0; empty++ {
		if empty == cyberEmpty {
			return nil, fmt.Errorf("the reader sends empty packets only: %w", ifd.ErrComm)
		}
		var err error
		have, err = bulk(ctx, c.dev, cyberIn, c.buf[:cyberPacket], timeout)
		if err != nil {
			return nil, err
		}
	}
	short := have < cyberPacket
	if have < cyberHeader || c.buf[0] != 0 {
		return nil, fmt.Errorf("%w: not a frame", proto.ErrCorrupted)
	}
	want := cyberHeader + int(c.buf[1]) + int(c.buf[2])<<8
	switch {
	case want > len(c.buf):
		return nil, fmt.Errorf("%w: frame of %d bytes", proto.ErrCorrupted, want)
	case want > have && !short:
		rest := (want - have + cyberPacket - 1) / cyberPacket * cyberPacket
		n, err := bulk(ctx, c.dev, cyberIn, c.buf[have:have+rest], timeout)
		if err != nil && !errors.Is(err, usb.ErrTimeout) {
			return nil, err
		}
		have += n
	}
	if want != have {
		return nil, fmt.Errorf("%w: frame of %d bytes, %d came", proto.ErrCorrupted, want, have)
	}
	return c.buf[cyberHeader:want], nil
}

// xorAll is the checksum of a block without it, and 0 with it.
func xorAll(b []byte) (sum byte) {
	for _, v := range b {
		sum ^= v
	}
	return sum
}
