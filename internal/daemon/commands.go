package daemon

import (
	"context"
	"fmt"
	"math"
	"time"

	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/reader"
	"openct/internal/socket"
	"openct/internal/status"
)

// command is one command of the socket protocol.
type command struct {
	name string
	on   target
	args []socket.Tag // that must be there
	run  func(*client, context.Context, request) error
}

// target is what a command is about.
type target byte

const (
	onAnyUnit   target = iota // the command looks at the unit by itself
	onSlot                    // a card slot
	onCard                    // the card in a slot: the command waits for other clients' locks and has the card to itself
	onCardReset               // the same, and the command resets the card
	onCardAlone               // the same as onCard, but every other client's lock forbids it, at once
)

func (t target) card() bool { return t >= onCard }

// commands are all there are. A new one is a line here, the function that the
// line names, its code in package socket, and its description in
// socket/PROTOCOL.md.
var commands = map[socket.Command]command{
	socket.CmdStatus:      {"STATUS", onAnyUnit, nil, (*client).status},
	socket.CmdLock:        {"LOCK", onSlot, []socket.Tag{socket.TagLockType}, (*client).lock},
	socket.CmdUnlock:      {"UNLOCK", onSlot, []socket.Tag{socket.TagLock}, (*client).unlock},
	socket.CmdReset:       {"RESET", onCardReset, nil, (*client).reset},
	socket.CmdRequest:     {"REQUEST_ICC", onCardReset, nil, (*client).reset},
	socket.CmdEject:       {"EJECT_ICC", onCard, nil, (*client).eject},
	socket.CmdOutput:      {"OUTPUT", onAnyUnit, nil, (*client).output},
	socket.CmdVerify:      {"PERFORM_VERIFY", onCard, []socket.Tag{socket.TagPINData}, (*client).verify},
	socket.CmdChangePIN:   {"CHANGE_PIN", onCard, []socket.Tag{socket.TagPINData}, (*client).changePIN},
	socket.CmdMemoryRead:  {"MEMORY_READ", onCard, []socket.Tag{socket.TagAddress, socket.TagCount}, (*client).readMemory},
	socket.CmdMemoryWrite: {"MEMORY_WRITE", onCard, []socket.Tag{socket.TagAddress, socket.TagData}, (*client).writeMemory},
	socket.CmdInput:       {"INPUT", onAnyUnit, nil, (*client).unknown}, // has a code, but no meaning
	socket.CmdTransactOld: {"TRANSACT_OLD", onCardAlone, nil, (*client).transactOld},
	socket.CmdTransact:    {"TRANSACT", onCard, []socket.Tag{socket.TagCardRequest}, (*client).transact},
	socket.CmdSetProtocol: {"SET_PROTOCOL", onCard, []socket.Tag{socket.TagProtocol}, (*client).setProtocol},
	socket.CmdLimits:      {"LIMITS", onSlot, nil, (*client).limits},
	socket.CmdWatch:       {"WATCH", onSlot, nil, (*client).watch},
}

// request is what a command's function gets.
type request struct {
	*socket.Request
	reply *socket.Reply
	slot  *reader.Slot // the unit's; nil for onAnyUnit
}

// maxTimeout caps TIMEOUT, for which a client may send any number: it is what a
// reader can be told, one byte of seconds (CCID 1.1, 6.1.11, bTimeOut; CT-BCS,
// REQUEST ICC).
const maxTimeout = 255 * time.Second

// maxMessage is the longest text for a reader's display, bytes; the rest is
// cut, as C OpenCT does it (process.c).
const maxMessage = 127

// prompt is what the commands that involve the user may bring: how long he may
// take, and the text for the display.
func (r request) prompt() (timeout time.Duration, message string) {
	seconds, _ := r.Args.Int(socket.TagTimeout)
	return min(time.Duration(seconds)*time.Second, maxTimeout), r.message()
}

func (r request) message() string {
	s := r.Args.Text(socket.TagMessage)
	return s[:min(len(s), maxMessage)]
}

func (c *client) unknown(context.Context, request) error { return socket.InvalidCmd }

func (c *client) status(ctx context.Context, r request) error {
	if r.Unit == socket.UnitReader {
		r.reply.Text(socket.TagReaderName, c.name)
		r.reply.Bytes(socket.TagReaderUnits, c.units())
		return nil
	}
	slot, err := c.reader.Slot(int(r.Unit))
	if err != nil {
		return err
	}
	st, err := slot.Status(ctx)
	if err != nil {
		return err
	}
	var bits uint32
	if st.Present {
		bits |= socket.StatusPresent
	}
	if st.Changed {
		bits |= socket.StatusChanged
	}
	r.reply.Int(socket.TagCardStatus, bits)
	return nil
}

// limits tells what programs may send; it asks neither card nor reader.
func (c *client) limits(_ context.Context, r request) error {
	most := r.slot.Limits()
	r.reply.Int(socket.TagMaxCommand, uint32(min(most.Command, socket.MaxAPDU)))
	r.reply.Int(socket.TagMaxResponse, uint32(min(most.Response, socket.MaxResponse)))
	return nil
}

// watch tells of the card in the slot, as soon as that is not what the client
// knows already.
func (c *client) watch(ctx context.Context, r request) error {
	known, waits := r.Args.Int(socket.TagCardEvents)
	events, present, news := r.slot.Events()
	if waits && events == known {
		if err := c.wait(ctx, news); err != nil {
			return err
		}
		events, present, _ = r.slot.Events()
	}
	var bits uint32
	if present {
		bits = socket.StatusPresent
	}
	r.reply.Int(socket.TagCardEvents, events)
	r.reply.Int(socket.TagCardStatus, bits)
	return nil
}

// units lists what the reader has, a byte each.
func (h *handler) units() []byte {
	var units []byte
	for i := range h.reader.Slots() {
		units = append(units, byte(i))
	}
	display, keypad := h.reader.Features()
	if display {
		units = append(units, socket.UnitDisplay)
	}
	if keypad {
		units = append(units, socket.UnitKeypad)
	}
	return units
}

func (c *client) lock(ctx context.Context, r request) error {
	kind, _ := r.Args.Int(socket.TagLockType)
	exclusive := kind == socket.LockExclusive
	handle, err := c.locks.Lock(ctx, int(r.Unit), c.who, exclusive)
	if err != nil {
		return err
	}
	if err := c.far[r.Unit].take(ctx, r.slot, exclusive); err != nil {
		_, _ = c.locks.Unlock(int(r.Unit), c.who, handle)
		return err
	}
	r.reply.Int(socket.TagLock, handle)
	c.noteLock(status.Locked, int(r.Unit), exclusive)
	return nil
}

func (c *client) unlock(ctx context.Context, r request) error {
	handle, _ := r.Args.Int(socket.TagLock)
	g, err := c.locks.Unlock(int(r.Unit), c.who, handle)
	if err != nil {
		return err
	}
	c.noteLock(status.Unlocked, g.Slot, g.Exclusive)
	c.far[r.Unit].give(ctx, r.slot, g.Exclusive)
	return nil
}

func (c *client) reset(ctx context.Context, r request) error {
	timeout, message := r.prompt()
	atr, err := r.slot.Request(ctx, timeout, message)
	if err != nil {
		return err
	}
	r.reply.Bytes(socket.TagATR, atr)
	return nil
}

func (c *client) eject(ctx context.Context, r request) error {
	timeout, message := r.prompt()
	return r.slot.Eject(ctx, timeout, message)
}

func (c *client) output(ctx context.Context, r request) error {
	if r.Unit > socket.UnitDisplay {
		return socket.InvalidArg
	}
	return c.reader.Display(ctx, r.message())
}

func (c *client) transact(ctx context.Context, r request) error {
	apdu, _ := r.Args.Bytes(socket.TagCardRequest)
	return c.transmit(ctx, r, apdu, func(resp []byte) { r.reply.Bytes(socket.TagCardResponse, resp) })
}

func (c *client) transactOld(ctx context.Context, r request) error {
	return c.transmit(ctx, r, r.Raw, r.reply.Raw)
}

func (c *client) transmit(ctx context.Context, r request, apdu []byte, put func([]byte)) error {
	resp, err := r.slot.Transmit(ctx, apdu, c.response)
	err = answer(resp, err, put)
	clear(resp) // may be elsewhere, where it was long
	clear(c.response[:cap(c.response)])
	return err
}

func (c *client) setProtocol(ctx context.Context, r request) error {
	p, _ := r.Args.Int(socket.TagProtocol)
	return r.slot.SetProtocol(ctx, proto.ID(int32(p)))
}

func (c *client) readMemory(ctx context.Context, r request) error {
	addr, _ := r.Args.Int(socket.TagAddress)
	count, _ := r.Args.Int(socket.TagCount)
	buf := make([]byte, min(count, socket.MaxResponse))
	n, err := r.slot.ReadMemory(ctx, memoryAddress(addr), buf)
	return answer(buf[:max(n, 0)], err, func(b []byte) { r.reply.Bytes(socket.TagData, b) })
}

func (c *client) writeMemory(ctx context.Context, r request) error {
	addr, _ := r.Args.Int(socket.TagAddress)
	data, _ := r.Args.Bytes(socket.TagData)
	return r.slot.WriteMemory(ctx, memoryAddress(addr), data)
}

// memoryAddress is an ADDRESS argument as an address, on a computer of any word
// size: what is beyond every card stays so.
func memoryAddress(addr uint32) int { return int(min(addr, math.MaxInt32)) }

func (c *client) verify(ctx context.Context, r request) error {
	return r.keypad(ctx, r.slot.Verify)
}

func (c *client) changePIN(ctx context.Context, r request) error {
	return r.keypad(ctx, r.slot.Modify)
}

// keypad runs a command with a PIN that the user types on the reader. PIN_DATA
// is control, position of the PIN, APDU.
func (r request) keypad(ctx context.Context, run func(context.Context, ifd.PINRequest) ([]byte, error)) error {
	data, _ := r.Args.Bytes(socket.TagPINData)
	const header = 2 + 4 // control and position, then at least CLA INS P1 P2
	if len(data) < header {
		return fmt.Errorf("PIN data of %d bytes: %w", len(data), socket.InvalidArg)
	}
	timeout, message := r.prompt()
	resp, err := run(ctx, ifd.PINRequest{
		Timeout: timeout, Message: message,
		Control: data[0], Offset: data[1], APDU: data[2:],
	})
	return answer(resp, err, func(resp []byte) { r.reply.Bytes(socket.TagCardResponse, resp) })
}
