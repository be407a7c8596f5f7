package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Errors of a client that are not Codes.
var (
	// ErrProtocol says that the handler sent something no handler sends. The
	// connection is of no further use.
	ErrProtocol = errors.New("handler sent a malformed reply")
	// ErrNoReply says that the handler closed the connection instead of
	// replying: it stopped, or the reader was unplugged.
	ErrNoReply = errors.New("handler closed the connection")
)

// opError says which command failed. It returns nil for a nil err.
func opError(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", op, err)
}

// Client is one connection to a handler. Its methods may be called
// concurrently; one request is on its way at a time. A context's end ends the
// wait, not what the card does.
type Client struct {
	mu     sync.Mutex
	nc     net.Conn
	xid    uint32
	broken error // why no further call can work
	owed   int   // replies still to come that nobody waits for any more

	out     [MaxPacket]byte
	in      [MaxPacket]byte
	fill    int // bytes in in, from 0
	used    int // of them, the reply returned last
	builder Builder
}

// NewClient makes a client of a connection.
func NewClient(nc net.Conn) *Client { return &Client{nc: nc} }

// Close closes the connection; the handler releases the client's locks.
func (c *Client) Close() error { return c.nc.Close() }

// ReaderInfo is what a handler says about its reader.
type ReaderInfo struct {
	Name    string
	Slots   int
	Display bool
	Keypad  bool
}

// ReaderStatus asks for the reader's name and units.
func (c *Client) ReaderStatus(ctx context.Context) (ReaderInfo, error) {
	var info ReaderInfo
	err := c.call(ctx, "reader status", CmdStatus, UnitReader, nil, func(t TLV) error {
		info.Name = t.Text(TagReaderName)
		units, _ := t.Bytes(TagReaderUnits)
		for _, u := range units {
			switch {
			case u < UnitReader:
				info.Slots++
			case u == UnitDisplay:
				info.Display = true
			case u == UnitKeypad:
				info.Keypad = true
			}
		}
		return nil
	})
	return info, err
}

// CardStatus asks whether slot has a card, and whether that changed since
// the last STATUS of any client.
func (c *Client) CardStatus(ctx context.Context, slot int) (present, changed bool, err error) {
	err = c.call(ctx, "card status", CmdStatus, slot, nil, func(t TLV) error {
		v, ok := t.Int(TagCardStatus)
		if !ok {
			return missing("card status")
		}
		present, changed = v&StatusPresent != 0, v&StatusChanged != 0
		return nil
	})
	return present, changed, err
}

// Limits are the longest APDUs that slot carries, in bytes. C OpenCT's handlers
// answer InvalidCmd.
func (c *Client) Limits(ctx context.Context, slot int) (command, response int, err error) {
	err = c.call(ctx, "limits", CmdLimits, slot, nil, func(t TLV) error {
		maxCommand, ok := t.Int(TagMaxCommand)
		if !ok {
			return missing("longest command")
		}
		maxResponse, ok := t.Int(TagMaxResponse)
		if !ok {
			return missing("longest response")
		}
		command, response = int(min(maxCommand, MaxAPDU)), int(min(maxResponse, MaxResponse))
		return nil
	})
	return command, response, err
}

// CardNews is what WATCH tells of a slot's card.
type CardNews struct {
	Events  uint32 // how often the handler saw the card come, go or change
	Present bool
}

// Watch returns what there is to know of the card in slot as soon as it is
// something else than known; nil: at once. It keeps the client's connection to
// itself while it waits: only ctx bounds that. Handlers before 0.8 answer
// InvalidCmd.
func (c *Client) Watch(ctx context.Context, slot int, known *CardNews) (CardNews, error) {
	var news CardNews
	err := c.call(ctx, "watch", CmdWatch, slot, func(b *Builder) {
		if known != nil {
			b.Int(TagCardEvents, known.Events)
		}
	}, func(t TLV) error {
		events, ok := t.Int(TagCardEvents)
		if !ok {
			return missing("number of events")
		}
		v, ok := t.Int(TagCardStatus)
		if !ok {
			return missing("card status")
		}
		news = CardNews{Events: events, Present: v&StatusPresent != 0}
		return nil
	})
	return news, err
}

// Lock locks slot and returns the handle for Unlock. It does not wait: Locked
// if another client is in the way.
func (c *Client) Lock(ctx context.Context, slot int, exclusive bool) (handle uint32, err error) {
	kind := uint32(LockShared)
	if exclusive {
		kind = LockExclusive
	}
	err = c.call(ctx, "lock", CmdLock, slot, func(b *Builder) { b.Int(TagLockType, kind) }, func(t TLV) error {
		h, ok := t.Int(TagLock)
		if !ok {
			return missing("lock handle")
		}
		handle = h
		return nil
	})
	return handle, err
}

// Unlock gives a lock back.
func (c *Client) Unlock(ctx context.Context, slot int, handle uint32) error {
	return c.call(ctx, "unlock", CmdUnlock, slot, func(b *Builder) { b.Int(TagLock, handle) }, nil)
}

// Reset powers the card up or resets it and returns its ATR, which is empty
// for a memory card without one.
func (c *Client) Reset(ctx context.Context, slot int) ([]byte, error) {
	return c.reset(ctx, "reset", CmdReset, slot, 0, "")
}

// Request waits up to timeout, in full seconds, for a card and resets it. A
// reader that cannot wait resets at once. message is for its display.
func (c *Client) Request(ctx context.Context, slot int, timeout time.Duration, message string) ([]byte, error) {
	return c.reset(ctx, "request card", CmdRequest, slot, timeout, message)
}

func (c *Client) reset(ctx context.Context, op string, cmd Command, slot int, timeout time.Duration, message string) (atr []byte, err error) {
	err = c.call(ctx, op, cmd, slot, prompt(timeout, message), func(t TLV) error {
		b, _ := t.Bytes(TagATR)
		atr = append(atr, b...)
		return nil
	})
	return atr, err
}

// prompt appends the two arguments of every command that talks to a user.
func prompt(timeout time.Duration, message string) func(*Builder) {
	if timeout == 0 && message == "" {
		return nil
	}
	return func(b *Builder) {
		if s := (timeout + time.Second - 1) / time.Second; s > 0 {
			b.Int(TagTimeout, uint32(min(s, 1<<31)))
		}
		b.Text(TagMessage, message)
	}
}

// Eject ejects the card where the reader can.
func (c *Client) Eject(ctx context.Context, slot int, timeout time.Duration, message string) error {
	return c.call(ctx, "eject", CmdEject, slot, prompt(timeout, message), nil)
}

// Output shows message on the reader's display; an empty one clears it.
func (c *Client) Output(ctx context.Context, message string) error {
	return c.call(ctx, "output", CmdOutput, UnitReader, prompt(0, message), nil)
}

// response copies the card's response out of a reply.
func response(to *[]byte) func(TLV) error {
	return func(t TLV) error {
		b, ok := t.Bytes(TagCardResponse)
		if !ok {
			return missing("card response")
		}
		*to = append([]byte(nil), b...)
		return nil
	}
}

// ReadMemory reads count bytes of a memory card; the card may have fewer.
func (c *Client) ReadMemory(ctx context.Context, slot int, addr uint16, count int) (data []byte, err error) {
	if count <= 0 || count > MaxResponse {
		return nil, opError("read memory", InvalidArg)
	}
	err = c.call(ctx, "read memory", CmdMemoryRead, slot, func(b *Builder) {
		b.Int(TagAddress, uint32(addr))
		b.Int(TagCount, uint32(count))
	}, func(t TLV) error {
		b, ok := t.Bytes(TagData)
		if !ok || len(b) > count {
			return missing("data")
		}
		data = append(data, b...)
		return nil
	})
	return data, err
}

// WriteMemory writes data to a memory card.
func (c *Client) WriteMemory(ctx context.Context, slot int, addr uint16, data []byte) error {
	if len(data) == 0 {
		return opError("write memory", InvalidArg)
	}
	return c.call(ctx, "write memory", CmdMemoryWrite, slot, func(b *Builder) {
		b.Int(TagAddress, uint32(addr))
		b.Bytes(TagData, data)
	}, nil)
}

// SetProtocol chooses the protocol for the card: 0 is T=0, 1 is T=1, ^0 the
// driver's default.
func (c *Client) SetProtocol(ctx context.Context, slot int, protocol uint32) error {
	return c.call(ctx, "set protocol", CmdSetProtocol, slot, func(b *Builder) { b.Int(TagProtocol, protocol) }, nil)
}

// Transact sends an APDU of up to MaxAPDU bytes and returns the card's
// response with its status word, at most MaxResponse bytes.
func (c *Client) Transact(ctx context.Context, slot int, apdu []byte) ([]byte, error) {
	const op = "transact"
	if len(apdu) == 0 {
		return nil, opError(op, InvalidArg)
	}
	// Spelled out rather than made of closures: this one is called often.
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := c.start(CmdTransact, slot)
	if err != nil {
		return nil, opError(op, err)
	}
	b.Bytes(TagCardRequest, apdu)
	payload, err := c.roundTrip(ctx)
	if err != nil {
		return nil, opError(op, err)
	}
	t, err := ParseTLV(payload)
	if err != nil {
		return nil, opError(op, fmt.Errorf("%w: %w", ErrProtocol, err))
	}
	resp, ok := t.Bytes(TagCardResponse)
	if !ok {
		return nil, opError(op, missing("card response"))
	}
	out := append([]byte(nil), resp...)
	clear(payload) // there may be a secret
	return out, nil
}

// TransactOld is Transact with the old command, which heeds other clients'
// shared locks, too.
func (c *Client) TransactOld(ctx context.Context, slot int, apdu []byte) ([]byte, error) {
	const op = "transact (old)"
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := c.start(CmdTransactOld, slot)
	if err != nil {
		return nil, opError(op, err)
	}
	b.Raw(apdu)
	payload, err := c.roundTrip(ctx)
	if err != nil {
		return nil, opError(op, err)
	}
	return append([]byte(nil), payload...), nil
}

func missing(what string) error { return fmt.Errorf("%w: the reply has no %s", ErrProtocol, what) }

// call makes a request of what build appends and hands the reply's arguments
// to read; both may be nil.
func (c *Client) call(ctx context.Context, op string, cmd Command, unit int, build func(*Builder), read func(TLV) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := c.start(cmd, unit)
	if err != nil {
		return opError(op, err)
	}
	if build != nil {
		build(b)
	}
	payload, err := c.roundTrip(ctx)
	if err != nil {
		return opError(op, err)
	}
	t, err := ParseTLV(payload)
	if err != nil {
		return opError(op, fmt.Errorf("%w: %w", ErrProtocol, err))
	}
	if read == nil {
		return nil
	}
	return opError(op, read(t))
}

// start begins a request. Arguments are large ones, as libopenct's.
func (c *Client) start(cmd Command, unit int) (*Builder, error) {
	if c.broken != nil {
		return nil, c.broken
	}
	if unit < 0 || unit > 0xff {
		return nil, InvalidSlot
	}
	c.out[HeaderSize], c.out[HeaderSize+1] = byte(cmd), byte(unit)
	c.builder = NewBuilder(c.out[:HeaderSize+requestOverhead], true)
	return &c.builder, nil
}

// roundTrip sends the request and returns the payload of its reply, valid
// until the next call.
func (c *Client) roundTrip(ctx context.Context) ([]byte, error) {
	if c.builder.Full() {
		return nil, BufferTooSmall
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := c.nc.SetDeadline(time.Time{}); err != nil {
		return nil, c.fail(fmt.Errorf("%w: %w", NotConnected, err))
	}
	if ctx.Done() != nil {
		ended := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			_ = c.nc.SetDeadline(time.Unix(1, 0)) // wakes Read and Write
			close(ended)
		})
		defer func() {
			if !stop() {
				<-ended // or it would wake the next call
			}
		}()
	}

	if c.xid++; c.xid == 0 {
		c.xid++
	}
	packet := c.builder.Built()
	PutHeader(packet, Header{XID: c.xid, Count: uint16(len(packet) - HeaderSize)})
	n, err := c.nc.Write(packet)
	clear(packet) // there may be a PIN
	if err != nil {
		err = fmt.Errorf("%w: %w", NotConnected, ctxOr(ctx, err))
		if n == 0 && ctx.Err() != nil {
			return nil, err // nothing is lost, the next request may work
		}
		return nil, c.fail(err)
	}
	for {
		head, payload, err := c.readPacket()
		switch {
		case err != nil && ctx.Err() != nil:
			c.owed++ // the reply is skipped when it comes
			return nil, context.Cause(ctx)
		case err != nil:
			return nil, c.fail(err)
		case head.XID != c.xid && c.owed > 0:
			c.owed--
			continue
		case head.XID != c.xid:
			return nil, c.fail(fmt.Errorf("%w: a reply to no request", ErrProtocol))
		case head.Error > 0:
			return nil, fmt.Errorf("%w: error field %d", ErrProtocol, int(head.Error))
		case head.Error != Success:
			return nil, head.Error
		}
		return payload, nil
	}
}

// readPacket returns the next packet. What is read stays in the buffer if the
// rest does not come in time.
func (c *Client) readPacket() (Header, []byte, error) {
	c.fill = copy(c.in[:], c.in[c.used:c.fill])
	c.used = 0
	for {
		if c.fill >= HeaderSize {
			head := ParseHeader(c.in[:])
			if head.Count > MaxPayload {
				return head, nil, fmt.Errorf("%w: a message of %d bytes, more than %d", ErrProtocol, head.Count, MaxPayload)
			}
			if end := HeaderSize + int(head.Count); c.fill >= end {
				c.used = end
				return head, c.in[HeaderSize:end], nil
			}
		}
		n, err := c.nc.Read(c.in[c.fill:])
		c.fill += n
		switch {
		case n > 0:
		case errors.Is(err, io.EOF):
			return Header{}, nil, ErrNoReply
		case err != nil:
			return Header{}, nil, fmt.Errorf("%w: %w", ErrNoReply, err)
		}
	}
}

// fail makes this and every further call return err.
func (c *Client) fail(err error) error {
	c.broken = fmt.Errorf("%w: %w", NotConnected, err)
	c.nc.Close()
	return err
}

// ctxOr prefers the reason a context gives to the timeout it causes.
func ctxOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
