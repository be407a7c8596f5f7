package ccid

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openct/internal/ifd"
	"openct/internal/usb"
)

// maxStale is how many answers to other commands may come before the right
// one.
const maxStale = 10

// reply is an answer, or why there is none.
type reply struct {
	response
	err error
}

// answersRoom is how many time extensions wait to be looked at; the final
// answer always finds a place.
const answersRoom = 4

// await waits for the answer to cl. A time extension begins a new wait of
// timeout times the reader's multiplier (CCID 1.1, 6.2.6); all of them together
// end after limit.
func (c *conn) await(ctx context.Context, cl *call, timeout, limit time.Duration) (response, error) {
	now := time.Now()
	end, last := now.Add(timeout), now.Add(limit)
	for {
		r, err := c.next(ctx, cl, end)
		if err != nil || r.command() != commandTimeExtension {
			return r, err
		}
		now = time.Now()
		if !now.Before(last) {
			return response{}, fmt.Errorf("reader asked for more time for %v: %w", limit, usb.ErrTimeout)
		}
		if end = now.Add(timeout * time.Duration(max(1, r.code))); end.After(last) {
			end = last
		}
	}
}

// next returns the next message for cl. Where nobody else reads from the
// transport, the caller does.
func (c *conn) next(ctx context.Context, cl *call, end time.Time) (response, error) {
	for {
		select {
		case r := <-cl.answers:
			return r.response, r.err
		default:
		}
		select {
		case <-c.reading:
			err := c.read(ctx, cl, end)
			c.reading <- struct{}{}
			if err != nil {
				return response{}, err
			}
			continue
		default:
		}
		// Another command's goroutine reads. When it has what it wants, this
		// one may have to go on.
		cl.timer.Reset(time.Until(end))
		r, ok := c.wait(ctx, cl)
		cl.timer.Stop()
		if ok {
			return r.response, r.err
		}
	}
}

// wait waits while another goroutine reads. ok is false when nobody reads any
// more.
func (c *conn) wait(ctx context.Context, cl *call) (r reply, ok bool) {
	select {
	case r = <-cl.answers:
	case <-c.reading:
		c.reading <- struct{}{}
		return reply{}, false
	case <-cl.timer.C:
		r.err = usb.ErrTimeout
	case <-ctx.Done():
		r.err = ctx.Err()
	case <-c.life.Done():
		r.err = usb.ErrClosed
	case <-c.t.gone():
		r.err = usb.ErrUnplugged
	}
	return r, true
}

// read reads one message on behalf of cl, and hands it to the command that it
// answers; what ends the reading of others as well is handed to all of them.
// The error is why cl need not wait any longer.
func (c *conn) read(ctx context.Context, cl *call, end time.Time) error {
	if len(cl.answers) > 0 {
		return nil // it came while cl waited to read
	}
	left := time.Until(end)
	if left <= 0 {
		return usb.ErrTimeout
	}
	msg, err := c.t.recv(ctx, left)
	switch {
	case err == nil:
		c.dispatch(msg)
		clear(msg) // a card's data
	case ctx.Err() != nil:
		return ctx.Err()
	case c.life.Err() != nil:
		return usb.ErrClosed
	case errors.Is(err, usb.ErrTimeout):
		return err
	case errors.Is(err, usb.ErrUnplugged), errors.Is(err, usb.ErrClosed):
		c.lose(err)
	case errors.Is(err, errMalformed):
		c.fail(fmt.Errorf("%w: %w", ifd.ErrComm, err))
	default:
		c.fail(err)
	}
	return nil
}

// check sorts out answers of the wrong type. A failure is believed whatever
// its type: some readers report all of them as SlotStatus.
func (c *conn) check(m message, r response) (response, error) {
	if r.typ == m.answer || r.command() == commandFailed {
		return r, nil
	}
	return response{}, fmt.Errorf("reader answers with message %02X, not %02X: %w", r.typ, m.answer, ifd.ErrComm)
}

// dispatch hands a message to the command it answers. Late answers, duplicates
// and answers to the commands of another host are discarded, maxStale of them
// at most.
func (c *conn) dispatch(msg []byte) {
	r, err := parseResponse(msg)
	if err != nil {
		c.fail(fmt.Errorf("%w: %w", ifd.ErrComm, err))
		return
	}
	if n := headerSize + len(r.data); n < len(msg) {
		c.padded.Do(func() {
			c.log.Warn("the reader sends more bytes than the message announces; ignoring them", "have", len(msg), "want", n)
		})
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
		c.failLocked(fmt.Errorf("the reader answers a command that was not sent: %w", ifd.ErrComm))
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
