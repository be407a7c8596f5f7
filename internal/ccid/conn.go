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

	// readSlice is how long one read of the transport lasts. It says how long
	// a read may outlive the command it was for, and nothing else: a read that
	// comes to its end while a command waits is simply begun again.
	readSlice = 30 * time.Second
)

// maxStale is how many answers to other commands may come before the right
// one.
const maxStale = 10

// conn runs commands on one reader: it numbers them, waits for their answers,
// keeps no more of them in flight than the reader takes, and ends those that
// nobody wants any more. Slots may use it concurrently.
type conn struct {
	t   transport
	log *slog.Logger

	// room has one entry for each command the reader still takes; readers
	// within one device share it.
	room  chan struct{}
	slots []*call

	kick chan struct{}      // tells readLoop that there is something to wait for
	life context.Context    // ends with close
	stop context.CancelFunc // ends life
	done chan struct{}      // closed when readLoop has ended

	sending sync.Mutex // one message at a time goes out
	out     []byte

	mu    sync.Mutex
	seq   byte
	stale int   // answers discarded since the last one that was wanted
	lost  error // why nothing works any more
}

// call is the one command a slot can have in flight.
type call struct {
	slot byte
	turn chan struct{} // whoever takes the entry may run a command on the slot

	// Guarded by conn.mu.
	pending  bool
	aborting bool
	seq      byte
	expect   byte // message type of the answer

	answers chan reply // the answer, and time extensions before it
	data    []byte     // the answer's data, until the slot's next command
	timer   *time.Timer
}

// reply is an answer, or why there is none.
type reply struct {
	response
	err error
}

// answersRoom is how many time extensions wait to be looked at; the final
// answer always finds a place.
const answersRoom = 4

func newRoom(n int) chan struct{} {
	room := make(chan struct{}, n)
	for range n {
		room <- struct{}{}
	}
	return room
}

// newConn starts the goroutine that reads; close ends it.
func newConn(t transport, slots int, room chan struct{}, log *slog.Logger) *conn {
	c := &conn{
		t: t, log: log, room: room,
		slots: make([]*call, slots),
		kick:  make(chan struct{}, 1),
		done:  make(chan struct{}),
	}
	c.life, c.stop = context.WithCancel(context.Background())
	for i := range c.slots {
		timer := time.NewTimer(time.Hour)
		timer.Stop()
		c.slots[i] = &call{
			slot: byte(i), turn: newRoom(1), timer: timer,
			answers: make(chan reply, answersRoom),
		}
	}
	go c.readLoop()
	return c
}

// close ends the reading. The transport is to be closed first, so that a
// pending read comes back.
func (c *conn) close() {
	c.stop()
	<-c.done
	c.lose(usb.ErrClosed)
}

// leave ends the reading, and does not wait for that; the transport stays open.
func (c *conn) leave() { c.stop() }

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
	if err := c.take(ctx, c.room); err != nil {
		return response{}, err
	}
	defer func() { c.room <- struct{}{} }()
	if err := c.begin(cl, m); err != nil {
		return response{}, err
	}
	defer c.end(cl)
	var r response
	err := c.write(ctx, m, cl.slot, cl.seq)
	sent := err == nil
	if sent {
		c.wake()
		r, err = c.await(ctx, cl, timeout)
	}
	switch {
	case err == nil:
		return c.check(m, r)
	case sent && errors.Is(err, usb.ErrTimeout), ctx.Err() != nil && errors.Is(err, ctx.Err()):
		if failed := c.abort(cl); failed != nil {
			c.log.Warn("reader does not take an abort; if it stays silent, unplug it and plug it in again",
				"reader", c.t.name(), "slot", cl.slot, "error", failed)
		}
	}
	return response{}, err
}

// begin makes cl the slot's command in flight and gives it a number.
func (c *conn) begin(cl *call, m message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost != nil {
		return c.lost
	}
	c.seq++
	c.stale = 0
	cl.seq, cl.expect, cl.aborting, cl.pending = c.seq, m.answer, false, true
	return nil
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

// wake tells readLoop that a command is in flight.
func (c *conn) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// await waits for the answer to cl. A time extension begins a new wait of
// timeout times the reader's multiplier (CCID 1.1, 6.2.6).
func (c *conn) await(ctx context.Context, cl *call, timeout time.Duration) (response, error) {
	limit := time.Now().Add(max(extensionLimit, timeout))
	cl.timer.Reset(timeout)
	defer cl.timer.Stop()
	for {
		select {
		case r := <-cl.answers:
			if r.err != nil {
				return response{}, r.err
			}
			if r.command() != commandTimeExtension {
				return r.response, nil
			}
			wait := min(timeout*time.Duration(max(1, r.code)), time.Until(limit))
			if wait <= 0 {
				return response{}, fmt.Errorf("reader asked for more time for %v: %w", extensionLimit, usb.ErrTimeout)
			}
			cl.timer.Reset(wait)
		case <-cl.timer.C:
			return response{}, usb.ErrTimeout
		case <-ctx.Done():
			return response{}, ctx.Err()
		case <-c.life.Done():
			return response{}, usb.ErrClosed
		case <-c.t.gone():
			return response{}, usb.ErrUnplugged
		}
	}
}

// check sorts out answers of the wrong type. A failure is believed whatever
// its type: some readers report all of them as SlotStatus.
func (c *conn) check(m message, r response) (response, error) {
	if r.typ == m.answer || r.command() == commandFailed {
		return r, nil
	}
	return response{}, fmt.Errorf("reader answers with message %02X, not %02X: %w", r.typ, m.answer, ifd.ErrComm)
}

// abort ends cl's command: the class request, then the message, both with the
// command's own number, then everything is discarded up to the SlotStatus that
// answers it (CCID 1.1, 5.3.1 and 6.1.13). Where the transport cannot abort,
// a late answer is discarded for its old number.
func (c *conn) abort(cl *call) error {
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
	c.wake()
	_, err := c.await(context.Background(), cl, abortTimeout)
	return err
}

// readLoop reads as long as commands are in flight, and sleeps otherwise.
func (c *conn) readLoop() {
	defer close(c.done)
	for {
		if !c.waiting() {
			select {
			case <-c.kick:
				continue
			case <-c.life.Done():
				return
			case <-c.t.gone():
				c.lose(usb.ErrUnplugged)
				return
			}
		}
		msg, err := c.t.recv(c.life, readSlice)
		switch {
		case c.life.Err() != nil:
			return
		case err == nil:
			c.dispatch(msg)
		case errors.Is(err, usb.ErrTimeout):
		case errors.Is(err, usb.ErrUnplugged), errors.Is(err, usb.ErrClosed):
			c.lose(err)
			return
		case errors.Is(err, errMalformed):
			c.fail(fmt.Errorf("%w: %w", ifd.ErrComm, err))
		default:
			c.fail(err)
		}
	}
}

// waiting says whether a command is in flight.
func (c *conn) waiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range c.slots {
		if cl.pending {
			return true
		}
	}
	return false
}

// dispatch hands a message to the command it answers. Answers nobody waits for
// - late ones, duplicates, those of a host before us - are discarded, but not
// without end.
func (c *conn) dispatch(msg []byte) {
	r, err := parseResponse(msg)
	if err != nil {
		c.fail(fmt.Errorf("%w: %w", ifd.ErrComm, err))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if int(r.slot) < len(c.slots) {
		cl := c.slots[r.slot]
		if cl.pending && cl.seq == r.seq && !(cl.aborting && r.typ != cl.expect) {
			c.deliverLocked(cl, r)
			return
		}
	}
	if c.stale++; c.stale > maxStale {
		c.failLocked(fmt.Errorf("reader answers commands that were not given: %w", ifd.ErrComm))
	}
}

func (c *conn) deliverLocked(cl *call, r response) {
	if r.command() == commandTimeExtension {
		if len(cl.answers) < cap(cl.answers)-1 {
			r.data = nil
			cl.answers <- reply{response: r}
		}
		return
	}
	cl.data = append(cl.data[:0], r.data...)
	r.data = cl.data
	cl.pending = false
	cl.answers <- reply{response: r}
}

// fail ends every command in flight.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(err)
}

func (c *conn) failLocked(err error) {
	for _, cl := range c.slots {
		if cl.pending {
			cl.pending = false
			cl.answers <- reply{err: err}
		}
	}
}

// lose ends every command in flight and every later one.
func (c *conn) lose(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost == nil {
		c.lost = err
	}
	c.failLocked(err)
}
