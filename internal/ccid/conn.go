package ccid

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"openct/internal/ifd"
	"openct/internal/usb"
)

// How long things may take; libccid's ccid_usb.c and commands.c have the same.
const (
	commandTimeout = 3 * time.Second  // what the reader does by itself
	powerTimeout   = 60 * time.Second // the longest ATR takes 29 s at 4 MHz
	escapeTimeout  = 30 * time.Second
	abortTimeout   = 3 * time.Second

	// extensionLimit bounds what time extensions can add up to: the longest
	// key generations take minutes, and a broken reader asks for ever.
	extensionLimit = 10 * time.Minute

	// A slot that is busy with something of its own is asked again.
	busyPause = 100 * time.Millisecond
	busyTries = 10

	// removalGrace is how long the answer to a command may take after the
	// reader has reported that the card is gone. Most readers answer soon; where
	// one goes on waiting for the card, the command is aborted, which is less
	// often tried in firmware.
	removalGrace = 100 * time.Millisecond
)

// conn runs commands on one reader: it numbers them, waits for their answers
// (answers.go), keeps no more of them in flight than the reader takes, and aborts
// those that were given up. Slots may use it concurrently.
//
// It has no goroutine of its own: of the callers that wait for an answer, one
// reads from the transport and passes on what is for the others. Most of the
// time one command is in flight, and its caller reads its own answer.
type conn struct {
	t   transport
	log *slog.Logger

	// room has one entry for each command the reader still takes; readers
	// within one device share it.
	room    chan struct{}
	reading chan struct{} // a goroutine that takes the entry may read from t
	slots   []*call

	life context.Context    // ends with close
	stop context.CancelFunc // ends life

	sending sync.Mutex // one message at a time goes out
	out     []byte

	mu    sync.Mutex
	seq   byte
	stale int   // answers discarded since the last command began
	lost  error // why no command can be run any more

	padded sync.Once // the reader sends more than its headers announce: logged
}

// call is the one command a slot can have in flight.
type call struct {
	slot byte
	turn chan struct{} // a goroutine that takes the entry may run a command on the slot

	// Guarded by conn.mu.
	pending  bool
	aborting bool
	watched  bool // the removal of the card ends the wait
	seq      byte
	expect   byte // message type of the answer

	answers chan reply // the answer, and time extensions before it
	data    []byte     // the answer's data; the caller copies and clears it
	timer   *time.Timer

	card cardContext
}

// cardContext is a context that ends with its parent and with the removal of
// the card. It is made anew when the parent is another one, or when the last
// one has ended, and so costs nothing while a client sends its APDUs.
type cardContext struct {
	parent context.Context
	ctx    context.Context
	end    context.CancelCauseFunc
}

// within returns the context for a command that its caller gave parent.
// conn.mu is held.
func (c *cardContext) within(parent context.Context) context.Context {
	if c.parent != parent || c.ctx.Err() != nil {
		c.release()
		c.parent = parent
		c.ctx, c.end = context.WithCancelCause(parent)
	}
	return c.ctx
}

func (c *cardContext) release() {
	if c.end != nil {
		c.end(context.Canceled)
	}
	*c = cardContext{}
}

// errRemoved is why a cardContext ended: the reader has reported the removal.
var errRemoved = fmt.Errorf("card was removed: %w", ifd.ErrNoCard)

// errOccupied: the reader does something else at the moment.
var errOccupied = errors.New("reader is busy with another command")

func newRoom(n int) chan struct{} {
	room := make(chan struct{}, n)
	for range n {
		room <- struct{}{}
	}
	return room
}

func newConn(t transport, slots int, room chan struct{}, log *slog.Logger) *conn {
	c := &conn{t: t, log: log, room: room, reading: newRoom(1), slots: make([]*call, slots)}
	c.life, c.stop = context.WithCancel(context.Background())
	for i := range c.slots {
		timer := time.NewTimer(time.Hour)
		timer.Stop()
		c.slots[i] = &call{
			slot: byte(i), turn: newRoom(1), timer: timer,
			answers: make(chan reply, answersRoom),
		}
	}
	return c
}

// close ends every command in flight. The transport is to be closed first, so
// that a pending read comes back: nobody reads any more when close returns.
func (c *conn) close() {
	c.stop()
	<-c.reading
	c.lose(usb.ErrClosed)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range c.slots {
		cl.card.release()
	}
}

// leave ends every wait; the transport stays open.
func (c *conn) leave() { c.stop() }

// removed is called when the reader has reported that a slot's card is gone: a
// command in flight that needs the card gets no more time than removalGrace.
func (c *conn) removed(slot int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slot >= len(c.slots) {
		return
	}
	if cl := c.slots[slot]; cl.pending && cl.watched {
		cl.card.end(errRemoved)
	}
}

// run sends m to a slot and returns the answer; its data is valid until the
// slot's next command. timeout is for one answer: a reader that asks for more
// time gets it, within bounds. When ctx ends, the command is aborted.
// A failed answer is returned together with the error it stands for.
func (c *conn) run(ctx context.Context, slot byte, m message, timeout time.Duration) (response, error) {
	cl := c.slots[slot]
	if err := c.take(ctx, cl.turn); err != nil {
		return response{}, c.wrap(slot, m, err)
	}
	defer func() { cl.turn <- struct{}{} }()
	if err := c.take(ctx, c.room); err != nil {
		return response{}, c.wrap(slot, m, err)
	}
	defer func() { c.room <- struct{}{} }()
	return c.repeat(ctx, cl, m, timeout)
}

// runNow is run where the reader can take the command at once, and errOccupied
// otherwise.
func (c *conn) runNow(ctx context.Context, slot byte, m message, timeout time.Duration) (response, error) {
	cl := c.slots[slot]
	for _, turns := range []chan struct{}{cl.turn, c.room} {
		select {
		case <-turns:
			defer func() { turns <- struct{}{} }()
		default:
			return response{}, c.wrap(slot, m, errOccupied)
		}
	}
	return c.repeat(ctx, cl, m, timeout)
}

// repeat sends m until the reader has the time for it.
func (c *conn) repeat(ctx context.Context, cl *call, m message, timeout time.Duration) (response, error) {
	slot := cl.slot
	for try := 1; ; try++ {
		r, err := c.once(ctx, cl, m, timeout)
		if err != nil {
			return response{}, c.wrap(slot, m, err)
		}
		if r.command() == commandOK {
			return r, nil
		}
		err = failure(m, r)
		if !errors.Is(err, errBusy) || try > busyTries {
			return r, c.wrap(slot, m, fmt.Errorf("%w (reader's code %02X)", err, r.code))
		}
		if err := c.pause(ctx, cl, busyPause); err != nil {
			return response{}, c.wrap(slot, m, err)
		}
	}
}

// wrap names the reader, the slot and the message that failed.
func (c *conn) wrap(slot byte, m message, err error) error {
	return usb.Wrap(fmt.Sprintf("slot %d: %s", slot, m.name()), c.t.name(), err)
}

// take waits for an entry in one of conn's channels of turns.
func (c *conn) take(ctx context.Context, turns chan struct{}) error {
	select {
	case <-turns:
		return nil
	default:
	}
	select {
	case <-turns:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.life.Done():
		return usb.ErrClosed
	case <-c.t.gone():
		return usb.ErrUnplugged
	}
}

func (c *conn) pause(ctx context.Context, cl *call, d time.Duration) error {
	cl.timer.Reset(d)
	defer cl.timer.Stop()
	select {
	case <-cl.timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.life.Done():
		return usb.ErrClosed
	case <-c.t.gone():
		return usb.ErrUnplugged
	}
}

// once sends m and waits for its answer, whatever that says.
func (c *conn) once(ctx context.Context, cl *call, m message, timeout time.Duration) (response, error) {
	until, err := c.begin(ctx, cl, m)
	if err != nil {
		return response{}, err
	}
	defer c.end(cl)
	if err := c.write(ctx, m, cl.slot, cl.seq); err != nil {
		if ctx.Err() != nil {
			c.abort(cl)
		}
		return response{}, err
	}
	r, err := c.await(until, cl, timeout, max(extensionLimit, timeout))
	if err != nil && context.Cause(until) == errRemoved {
		r, err = c.await(ctx, cl, removalGrace, removalGrace)
		if err == nil && r.command() == commandFailed || errors.Is(err, usb.ErrTimeout) {
			if err != nil {
				c.abort(cl)
			}
			return response{}, errRemoved
		}
	}
	switch {
	case err == nil:
		return c.check(m, r)
	case errors.Is(err, usb.ErrTimeout), ctx.Err() != nil && errors.Is(err, ctx.Err()):
		c.abort(cl)
	}
	return response{}, err
}

// begin makes cl the slot's command in flight and numbers it. It
// returns the context that ends the wait for its answer: for a command that
// needs the card, the card's removal does as well.
func (c *conn) begin(ctx context.Context, cl *call, m message) (context.Context, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost != nil {
		return nil, c.lost
	}
	c.seq++
	c.stale = 0
	cl.seq, cl.expect, cl.aborting, cl.pending = c.seq, m.answer, false, true
	if cl.watched = m.needsCard(); cl.watched {
		return cl.card.within(ctx), nil
	}
	return ctx, nil
}

// end takes cl out of flight, with everything that came for it.
func (c *conn) end(cl *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl.pending = false
	for len(cl.answers) > 0 {
		<-cl.answers
	}
}

func (c *conn) write(ctx context.Context, m message, slot, seq byte) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.out = m.append(c.out[:0], slot, seq)
	err := c.t.send(ctx, c.out)
	clear(c.out) // a PIN may have been in it
	return err
}

// abort ends cl's command, and logs when the reader does not let it.
func (c *conn) abort(cl *call) {
	if err := c.tryAbort(cl); err != nil {
		c.log.Warn("the reader does not accept an abort; if it does not answer any more, unplug it and plug it in again",
			"reader", c.t.name(), "slot", cl.slot, "error", err)
	}
}

// tryAbort sends the class request, then the message, both with the command's
// own number, then discards everything up to the SlotStatus that answers it
// (CCID 1.1, 5.3.1 and 6.1.13). Where the transport cannot abort, a late answer
// is discarded for its old number.
func (c *conn) tryAbort(cl *call) error {
	c.mu.Lock()
	cl.aborting, cl.pending, cl.expect = true, true, msgSlotStatus
	for len(cl.answers) > 0 {
		<-cl.answers
	}
	seq := cl.seq
	c.mu.Unlock()

	if err := c.t.abort(c.life, cl.slot, seq); errors.Is(err, errNoAbort) {
		return nil
	} else if err != nil && !errors.Is(err, usb.ErrTimeout) && !errors.Is(err, usb.ErrIO) {
		return err
	}
	if err := c.write(c.life, abortMessage(), cl.slot, seq); err != nil {
		return err
	}
	_, err := c.await(c.life, cl, abortTimeout, abortTimeout)
	return err
}
