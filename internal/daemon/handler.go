package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"openct/internal/ifd"
	"openct/internal/lock"
	"openct/internal/proto"
	"openct/internal/reader"
	"openct/internal/socket"
)

// handler does what clients ask for: it finds the slot, asks the lock table,
// and lets the reader work. One serves all clients of the reader.
type handler struct {
	name   string
	reader *reader.Reader
	locks  lock.Table
	log    *slog.Logger

	enforce  bool          // locks keep others off the card (spec/socket-protocol.md, 6.5)
	patience time.Duration // how long a request waits for another client's lock
	news     func()        // clients or locks have changed
	fault    func(error)   // a request failed because of card or device
}

var _ socket.Handler = (*handler)(nil)

func client(c *socket.Conn) lock.Client {
	return lock.Client{ID: c.ID, UID: c.UID, PID: c.PID}
}

// Connected implements socket.Handler.
func (h *handler) Connected(*socket.Conn) { h.news() }

// Disconnected implements socket.Handler: a client's locks die with it.
func (h *handler) Disconnected(c *socket.Conn) {
	if n := h.locks.Release(c.ID); n > 0 {
		h.log.Debug("released the locks of a client that left", "locks", n, "pid", c.PID, "uid", c.UID)
	}
	h.news()
}

// Handle implements socket.Handler.
func (h *handler) Handle(ctx context.Context, c *socket.Conn, req *socket.Request, reply *socket.Reply) socket.Code {
	err := h.run(ctx, c, req, reply)
	code := codeOf(err)
	switch code {
	case socket.Success:
	case socket.Timeout, socket.CommError, socket.NoATR, socket.IncompatibleDevice, socket.InvalidATR:
		h.fault(err)
	default:
		h.log.Debug("request refused", "command", byte(req.Cmd), "unit", req.Unit, "pid", c.PID, "code", int(code), "error", err)
	}
	return code
}

// Which commands there are, with their arguments and results, is in
// socket/PROTOCOL.md.
func (h *handler) run(ctx context.Context, c *socket.Conn, req *socket.Request, reply *socket.Reply) error {
	switch req.Cmd {
	case socket.CmdStatus:
		return h.status(ctx, req, reply)
	case socket.CmdLock:
		return h.lock(ctx, c, req, reply)
	case socket.CmdUnlock:
		return h.unlock(c, req)
	case socket.CmdOutput:
		return h.output(ctx, req)
	case socket.CmdReset, socket.CmdRequest, socket.CmdEject, socket.CmdVerify, socket.CmdChangePIN,
		socket.CmdMemoryRead, socket.CmdMemoryWrite, socket.CmdTransact, socket.CmdTransactOld, socket.CmdSetProtocol:
		return h.card(ctx, c, req, reply)
	}
	return socket.InvalidCmd
}

// card runs the commands that need the card: they wait for other clients'
// locks and for the card to be free.
func (h *handler) card(ctx context.Context, c *socket.Conn, req *socket.Request, reply *socket.Reply) error {
	slot, err := h.reader.Slot(int(req.Unit))
	switch {
	case err == nil:
	case req.Cmd == socket.CmdTransactOld:
		return socket.Generic // what it always said
	default:
		return err
	}
	if err := checkArgs(req); err != nil {
		return err
	}
	if err := h.enter(ctx, slot, c, req); err != nil {
		return err
	}
	defer slot.Leave()

	seconds, _ := req.Args.Int(socket.TagTimeout)
	timeout := time.Duration(seconds) * time.Second
	message := req.Args.Text(socket.TagMessage)
	switch req.Cmd {
	case socket.CmdReset, socket.CmdRequest:
		atr, err := slot.Request(ctx, timeout, cutMessage(message))
		if err != nil {
			return err
		}
		reply.Bytes(socket.TagATR, atr)
		return nil
	case socket.CmdEject:
		return slot.Eject(ctx, timeout, cutMessage(message))
	case socket.CmdTransact:
		apdu, _ := req.Args.Bytes(socket.TagCardRequest)
		return h.transmit(ctx, slot, apdu, func(resp []byte) { reply.Bytes(socket.TagCardResponse, resp) })
	case socket.CmdTransactOld:
		return h.transmit(ctx, slot, req.Raw, reply.Raw)
	case socket.CmdSetProtocol:
		p, _ := req.Args.Int(socket.TagProtocol)
		return slot.SetProtocol(ctx, proto.ID(int32(p)))
	case socket.CmdMemoryRead:
		return h.readMemory(ctx, slot, req, reply)
	case socket.CmdMemoryWrite:
		addr, _ := req.Args.Int(socket.TagAddress)
		data, _ := req.Args.Bytes(socket.TagData)
		return slot.WriteMemory(ctx, uint16(addr), data)
	}
	// PIN entry on the reader, Verify or ChangePIN.
	pin, err := pinRequest(req, timeout, cutMessage(message))
	if err != nil {
		return err
	}
	run := slot.Verify
	if req.Cmd == socket.CmdChangePIN {
		run = slot.Modify
	}
	resp, err := run(ctx, pin)
	return answer(resp, err, func(resp []byte) { reply.Bytes(socket.TagCardResponse, resp) })
}

// mandatory arguments of each command (spec/socket-protocol.md, 5).
var mandatory = map[socket.Command][]socket.Tag{
	socket.CmdVerify:      {socket.TagPINData},
	socket.CmdChangePIN:   {socket.TagPINData},
	socket.CmdMemoryRead:  {socket.TagAddress, socket.TagCount},
	socket.CmdMemoryWrite: {socket.TagAddress, socket.TagData},
	socket.CmdTransact:    {socket.TagCardRequest},
	socket.CmdSetProtocol: {socket.TagProtocol},
	socket.CmdLock:        {socket.TagLockType},
	socket.CmdUnlock:      {socket.TagLock},
}

func checkArgs(req *socket.Request) error {
	for _, tag := range mandatory[req.Cmd] {
		if _, ok := req.Args.Bytes(tag); !ok {
			return socket.MissingArg
		}
	}
	return nil
}

// enter waits until neither a lock nor another request keeps this client from
// the card, and takes it. A lock granted while we waited for the card counts.
func (h *handler) enter(ctx context.Context, slot *reader.Slot, c *socket.Conn, req *socket.Request) error {
	// The old command was always refused beside any lock, at once.
	alone := req.Cmd == socket.CmdTransactOld
	until := time.Now().Add(h.patience)
	for {
		if h.enforce && !alone {
			if err := h.locks.Wait(ctx, int(req.Unit), client(c), time.Until(until)); err != nil {
				return err
			}
		}
		if err := slot.Enter(ctx); err != nil {
			return err
		}
		var err error
		switch {
		case alone:
			err = h.locks.CheckAlone(int(req.Unit), client(c))
		case h.enforce:
			err = h.locks.Check(int(req.Unit), client(c))
		}
		if err == nil {
			return nil
		}
		slot.Leave()
		if alone && h.settle(ctx, c) {
			continue
		}
		if alone || !time.Now().Before(until) {
			return err
		}
	}
}

func (h *handler) status(ctx context.Context, req *socket.Request, reply *socket.Reply) error {
	if req.Unit == socket.UnitReader {
		reply.Text(socket.TagReaderName, h.name)
		reply.Bytes(socket.TagReaderUnits, h.units())
		return nil
	}
	slot, err := h.reader.Slot(int(req.Unit))
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
	reply.Int(socket.TagCardStatus, bits)
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

func (h *handler) lock(ctx context.Context, c *socket.Conn, req *socket.Request, reply *socket.Reply) error {
	if _, err := h.reader.Slot(int(req.Unit)); err != nil {
		return err
	}
	if err := checkArgs(req); err != nil {
		return err
	}
	kind, _ := req.Args.Int(socket.TagLockType)
	exclusive := kind == socket.LockExclusive
	handle, err := h.locks.Lock(int(req.Unit), client(c), exclusive)
	if errors.Is(err, lock.ErrLocked) && h.settle(ctx, c) {
		handle, err = h.locks.Lock(int(req.Unit), client(c), exclusive)
	}
	if err != nil {
		return err
	}
	reply.Int(socket.TagLock, handle)
	h.news()
	return nil
}

// settleWait bounds the wait for a client that has left, but whose last request
// the card still works on.
const settleWait = 2 * time.Second

// settle reports whether clients that had left without our noticing are gone
// now, and their locks with them.
func (h *handler) settle(ctx context.Context, c *socket.Conn) bool {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	return c.Server().Settle(ctx, c)
}

func (h *handler) unlock(c *socket.Conn, req *socket.Request) error {
	if _, err := h.reader.Slot(int(req.Unit)); err != nil {
		return err
	}
	if err := checkArgs(req); err != nil {
		return err
	}
	handle, _ := req.Args.Int(socket.TagLock)
	if err := h.locks.Unlock(int(req.Unit), client(c), handle); err != nil {
		return err
	}
	h.news()
	return nil
}

func (h *handler) output(ctx context.Context, req *socket.Request) error {
	if req.Unit > socket.UnitDisplay {
		return socket.InvalidArg
	}
	return h.reader.Display(ctx, cutMessage(req.Args.Text(socket.TagMessage)))
}

// buffers for responses; a client's reply is built before the next one is read.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, socket.MaxPacket); return &b }}

func (h *handler) transmit(ctx context.Context, slot *reader.Slot, apdu []byte, put func([]byte)) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	resp, err := slot.Transmit(ctx, apdu, (*buf)[:0])
	return answer(resp, err, put)
}

// answer passes a card's response on. An empty one cannot be told to clients:
// a zero-length result crashes the old ones (spec/socket-protocol.md, 3).
func answer(resp []byte, err error, put func([]byte)) error {
	if err != nil {
		return err
	}
	if len(resp) == 0 {
		return fmt.Errorf("card answered nothing: %w", ifd.ErrComm)
	}
	put(resp)
	return nil
}

func (h *handler) readMemory(ctx context.Context, slot *reader.Slot, req *socket.Request, reply *socket.Reply) error {
	addr, _ := req.Args.Int(socket.TagAddress)
	count, _ := req.Args.Int(socket.TagCount)
	buf := make([]byte, min(count, socket.MaxResponse))
	n, err := slot.ReadMemory(ctx, uint16(addr), buf)
	return answer(buf[:max(n, 0)], err, func(b []byte) { reply.Bytes(socket.TagData, b) })
}

// pinRequest reads PIN_DATA: control, position of the PIN, APDU.
func pinRequest(req *socket.Request, timeout time.Duration, message string) (ifd.PINRequest, error) {
	data, _ := req.Args.Bytes(socket.TagPINData)
	const header = 2 + 4 // control and position, then at least CLA INS P1 P2
	if len(data) < header {
		return ifd.PINRequest{}, fmt.Errorf("PIN data of %d bytes: %w", len(data), socket.InvalidArg)
	}
	return ifd.PINRequest{
		Timeout: timeout, Message: message,
		Control: data[0], Offset: data[1], APDU: data[2:],
	}, nil
}

// maxMessage is the longest text for a reader's display, bytes; the rest is
// cut (spec/socket-protocol.md, 2.3).
const maxMessage = 127

func cutMessage(s string) string { return s[:min(len(s), maxMessage)] }
