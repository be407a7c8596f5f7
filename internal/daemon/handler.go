package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"openct/internal/ifd"
	"openct/internal/lock"
	"openct/internal/reader"
	"openct/internal/socket"
	"openct/internal/status"
)

// handler does what clients ask for: it finds the slot, asks the lock table,
// and lets the reader work. One serves all clients of the reader.
type handler struct {
	name   string
	reader *reader.Reader
	locks  lock.Table
	log    *slog.Logger

	// left marks slots that a client had locked exclusively when its connection
	// ended: whatever it has verified, nobody else may use.
	left [reader.MaxSlots]atomic.Bool

	// far is the lock of each slot at the other handler, where one serves it.
	far [reader.MaxSlots]farLock

	enforce  bool               // locks keep others off the card (socket/PROTOCOL.md, "Locks")
	patience time.Duration      // how long a request waits for another client's lock
	note     func(status.Event) // something that people may want to know
	fault    func(error)        // a request failed because of card or device
}

var _ socket.Handler = (*handler)(nil)

// Connect implements socket.Handler.
func (h *handler) Connect(c *socket.Conn) socket.Session {
	who := lock.Client{ID: c.ID, UID: c.UID, PID: c.PID, HungUp: c.HungUp}
	h.note(status.Event{Event: status.Connected, Client: clientOf(who)})
	return &client{
		handler:  h,
		who:      who,
		wait:     c.Wait,
		response: make([]byte, 0, socket.MaxPacket),
	}
}

// client is one connection to the handler.
type client struct {
	*handler
	who      lock.Client
	wait     func(context.Context, <-chan struct{}) error // until there is news, or the client wants something else
	response []byte                                       // room for a card's response
}

var _ socket.Session = (*client)(nil)

// Disconnect implements socket.Session: a client's locks end with it, and so
// does what it has verified under an exclusive one.
func (c *client) Disconnect() {
	var slots [reader.MaxSlots]bool
	for _, g := range c.locks.Holders() {
		if g.Client.ID == c.who.ID && g.Exclusive && !slots[g.Slot] {
			slots[g.Slot] = true
			c.left[g.Slot].Store(true) // before the lock is released
			c.resetLeft(g.Slot)
		}
	}
	released := c.locks.Release(c.who.ID)
	for _, g := range released {
		c.noteLock(status.Unlocked, g.Slot, g.Exclusive)
		if slot, err := c.reader.Slot(g.Slot); err == nil {
			c.far[g.Slot].give(context.Background(), slot, g.Exclusive)
		}
	}
	if len(released) > 0 {
		c.log.Debug("released the locks of a client that disconnected", "locks", len(released), "pid", c.who.PID, "uid", c.who.UID)
	}
	c.note(status.Event{Event: status.Disconnected, Client: clientOf(c.who)})
}

// Handle implements socket.Session.
func (c *client) Handle(ctx context.Context, req *socket.Request, reply *socket.Reply) socket.Code {
	cmd, known := commands[req.Cmd]
	if !known {
		cmd = command{name: fmt.Sprintf("%#02x", byte(req.Cmd)), run: (*client).unknown}
	}
	err := c.run(ctx, &cmd, request{req, reply, nil})
	code := codeOf(err)
	switch code {
	case socket.Success:
	case socket.Timeout, socket.CommError, socket.NoATR, socket.IncompatibleDevice, socket.InvalidATR:
		c.fault(err)
	default:
		if errors.Is(err, lock.ErrLocked) {
			c.noteConflict(int(req.Unit))
		}
		c.log.Debug("request refused", "command", cmd.name, "unit", req.Unit, "pid", c.who.PID, "code", int(code), "error", err)
	}
	return code
}

// run checks what every command has in common, in the order that PROTOCOL.md
// gives: unit, arguments, locks; then the command runs.
func (c *client) run(ctx context.Context, cmd *command, r request) (err error) {
	if cmd.on != onAnyUnit {
		r.slot, err = c.reader.Slot(int(r.Unit))
		if err != nil && cmd.on == onCardAlone {
			return socket.Generic // as C OpenCT answers it (process.c)
		}
		if err != nil {
			return err
		}
	}
	for _, tag := range cmd.args {
		if _, ok := r.Args.Bytes(tag); !ok {
			return socket.MissingArg
		}
	}
	if cmd.on.card() {
		if err := c.enter(ctx, cmd.on == onCardAlone, r); err != nil {
			return err
		}
		defer r.slot.Leave()
		if left := &c.left[r.Unit]; left.Swap(false) {
			return c.afterLeft(ctx, cmd, r, left)
		}
	}
	return cmd.run(c, ctx, r)
}

// afterLeft runs the first command on a card that a client had locked when its
// connection ended. The card is reset before, unless the command does that. As
// long as no reset succeeds, none but commands that reset it get to the card.
func (c *client) afterLeft(ctx context.Context, cmd *command, r request, left *atomic.Bool) error {
	if cmd.on == onCardReset {
		err := cmd.run(c, ctx, r)
		left.Store(err != nil)
		return err
	}
	c.log.Debug("card reset: the client that held the exclusive lock has disconnected", "slot", r.Unit)
	if _, err := r.slot.Reset(ctx); err != nil && !errors.Is(err, ifd.ErrNoCard) {
		left.Store(true)
		return fmt.Errorf("card reset after a client with an exclusive lock disconnected: %w", err)
	}
	return cmd.run(c, ctx, r)
}

// enter waits until neither a lock nor another request keeps this client from
// the card, and takes it. A lock that is granted while it waits for the card
// counts. alone: every lock of another client keeps this one off, and none is waited
// for.
func (c *client) enter(ctx context.Context, alone bool, r request) error {
	if !alone && !c.enforce {
		return r.slot.Enter(ctx)
	}
	slot, use, patience := int(r.Unit), lock.Use(alone), c.patience
	if alone {
		patience = 0
	}
	for {
		var err error
		if patience, err = c.locks.Wait(ctx, slot, c.who, use, patience); err != nil {
			return err
		}
		if err := r.slot.Enter(ctx); err != nil {
			return err
		}
		if c.locks.Check(slot, c.who, use) == nil {
			return nil
		}
		r.slot.Leave()
	}
}

// answer passes a card's response on. An empty one cannot be told to clients:
// a zero-length result crashes C OpenCT's libopenct (client.c).
func answer(resp []byte, err error, put func([]byte)) error {
	if err != nil {
		return err
	}
	if len(resp) == 0 {
		return fmt.Errorf("the card sent an empty answer: %w", ifd.ErrComm)
	}
	put(resp)
	return nil
}
