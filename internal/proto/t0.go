package proto

import (
	"context"
	"fmt"
	"time"
)

// T0Params tell a T0Engine about card and reader.
type T0Params struct {
	// Stream says that the Link carries single bytes and the engine deals
	// with procedure bytes. Otherwise the reader does: a TPDU goes out as one
	// block, and data and status word come back as one.
	Stream bool

	// WWT is the card's work waiting time.
	WWT time.Duration

	// Timeout is how long one Recv may take. 0 for WWT but at least 2 s in
	// stream mode, where it is the silence before a byte, and 20 s in block
	// mode, where it is the card's whole thinking.
	Timeout time.Duration

	// MaxNULL is how many times in one TPDU the card may ask for more time
	// in stream mode; 0 for 800.
	MaxNULL int
}

// Defaults of the T=0 engine: C OpenCT's (proto-t0.c), but for the wait in block
// mode.
const (
	t0MinStreamTimeout = 2 * time.Second
	t0MinBlockTimeout  = 20 * time.Second
	t0MaxNULL          = 800

	// t0MaxBusy bounds what all NULLs of one TPDU may add up to, as in T=1: with WI
	// 255, 800 of them are more than five hours.
	t0MaxBusy = t1MaxBusy
)

// Status words and the one command that T=0 itself gives meaning to (ISO/IEC
// 7816-3, 12.2).
const (
	insGetResponse = 0xC0

	sw1More  = 0x61 // SW2 bytes are to be fetched with GET RESPONSE
	sw1Wrong = 0x6C // wrong Le, SW2 is the right one
	swOK     = 0x9000
)

// T0Engine exchanges APDUs in T=0, the half-duplex character protocol of
// ISO/IEC 7816-3, 10 and 12. It fetches responses the card announces (61xx),
// repeats commands with the length the card names (6Cxx), and otherwise
// leaves status words to the client. Extended APDUs work as far as T=0 can
// carry them without ENVELOPE: any Le, up to 255 bytes of data.
type T0Engine struct {
	Session
	link   Link
	params T0Params
	send   [5 + 255]byte // a TPDU
	recv   []byte        // block mode: data and status word
	one    [1]byte       // stream mode: procedure or status byte
}

var (
	_ Engine  = (*T0Engine)(nil)
	_ Limiter = (*T0Engine)(nil)
)

// NewT0 makes the engine for a card that was just reset.
func NewT0(link Link, p T0Params) *T0Engine {
	if p.Timeout <= 0 {
		p.Timeout = max(t0MinBlockTimeout, p.WWT)
		if p.Stream {
			p.Timeout = max(t0MinStreamTimeout, p.WWT)
		}
	}
	if p.MaxNULL <= 0 {
		p.MaxNULL = t0MaxNULL
	}
	return &T0Engine{link: link, params: p}
}

// ID is T0.
func (e *T0Engine) ID() ID { return T0 }

// Limits implements Limiter: a TPDU carries 255 bytes of data.
func (e *T0Engine) Limits() Limits { return Limits{ShortAPDU.Command, MaxResponse} }

// Transmit sends a command APDU of 4 bytes or more. resp must not share memory
// with apdu.
func (e *T0Engine) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	if e.lost != nil {
		return nil, e.lost
	}
	c, err := ParseCommand(apdu)
	if err != nil {
		return nil, fmt.Errorf("T=0: %w", err)
	}
	if len(c.Data) > 255 {
		return nil, fmt.Errorf("T=0: %w: %d bytes of data; T=0 allows 255", ErrInvalidAPDU, len(c.Data))
	}
	if ins := c.Header[1] & 0xF0; e.params.Stream && (ins == 0x60 || ins == 0x90) {
		// Its procedure byte would be taken for a status (ISO/IEC 7816-3, 10.3.2).
		return nil, fmt.Errorf("T=0: %w: instructions 6X and 9X cannot be sent", ErrInvalidAPDU)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("T=0: %w", err) // nothing was sent yet
	}
	x := t0Exchange{e: e, ctx: ctx, c: c, resp: resp[:0]}
	sw, err := x.run()
	clear(e.send[:]) // there may be a PIN
	clear(e.recv)
	if err != nil {
		return nil, e.Lose(fmt.Errorf("T=0: %w", err))
	}
	return append(x.resp, byte(sw>>8), byte(sw)), nil
}

// t0Exchange is the way of one APDU through T=0.
type t0Exchange struct {
	e    *T0Engine
	ctx  context.Context
	c    Command
	resp []byte // response data so far, at most c.Le bytes
}

// run maps the APDU to TPDUs (ISO/IEC 7816-3, 12.2). Every error ends the
// session.
func (x *t0Exchange) run() (sw uint16, err error) {
	c := x.c
	switch {
	case c.Data == nil && c.Le == 0: // case 1
		return x.tpdu(c.Header, 0, nil, 0)
	case c.Data == nil: // case 2
		sw, err = x.fetch(c.Header, c.Le)
		if err != nil || !c.Extended || sw>>8 != sw1More {
			return sw, err
		}
		return x.getResponses(sw)
	}
	sw, err = x.tpdu(c.Header, byte(len(c.Data)), c.Data, c.Le)
	switch {
	case err != nil, c.Le == 0: // case 3
		return sw, err
	case len(x.resp) > 0: // a token that fetched the response by itself
		return sw, nil
	case sw>>8 == sw1More:
		return x.getResponses(sw)
	case sw == swOK:
		again, err := x.getResponse(c.Le)
		if err == nil && len(x.resp) == 0 && again>>12 == 6 && again>>8 != sw1More {
			// The card had nothing to say; its refusal to repeat that must
			// not hide that the command was done.
			return sw, nil
		}
		if err != nil || again>>8 != sw1More {
			return again, err
		}
		return x.getResponses(again)
	}
	return sw, nil
}

// getResponses fetches what the card announces, piece by piece, until it has
// no more or Le is reached.
func (x *t0Exchange) getResponses(sw uint16) (uint16, error) {
	for sw>>8 == sw1More && len(x.resp) < x.c.Le {
		before := len(x.resp)
		var err error
		sw, err = x.getResponse(min(x.c.Le-before, orMax(int(sw&0xFF), 0x100)))
		if err != nil {
			return 0, err
		}
		if len(x.resp) == before {
			break // announced, and not delivered: the client may judge
		}
	}
	return sw, nil
}

// getResponse fetches up to n bytes.
func (x *t0Exchange) getResponse(n int) (uint16, error) {
	cla := x.c.Header[0]
	if cla&0xE0 == 0 {
		cla &^= 0x1C // neither chained nor secured (ISO/IEC 7816-4, 5.4.1)
	}
	return x.fetch([4]byte{cla, insGetResponse, 0, 0}, n)
}

// fetch sends a command without data that brings up to n bytes, and repeats it
// once if the card names another length. What the card sends beyond n is
// cut off.
func (x *t0Exchange) fetch(header [4]byte, n int) (uint16, error) {
	before := len(x.resp)
	n = min(n, 0x100)
	sw, err := x.tpdu(header, byte(n), nil, n)
	if err == nil && sw>>8 == sw1Wrong && len(x.resp) == before {
		right := orMax(int(sw&0xFF), 0x100)
		sw, err = x.tpdu(header, byte(right), nil, right)
	}
	x.resp = x.resp[:min(len(x.resp), before+n)]
	return sw, err
}

// tpdu sends one command TPDU with data out, or takes up to n bytes in, which
// it appends to x.resp, and returns the status word.
func (x *t0Exchange) tpdu(header [4]byte, p3 byte, out []byte, n int) (uint16, error) {
	if err := x.ctx.Err(); err != nil {
		return 0, err
	}
	e := x.e
	t := append(append(e.send[:0], header[:]...), p3)
	if e.params.Stream {
		return x.tpduStream(t, out, n)
	}
	return x.tpduBlock(append(t, out...), n)
}

// tpduBlock leaves procedure bytes to the reader.
func (x *t0Exchange) tpduBlock(t []byte, n int) (uint16, error) {
	e := x.e
	// A reader may know better and deliver a response where none was asked
	// for; there is room for one.
	room := 2 + max(n, 0x100)
	if cap(e.recv) < room {
		e.recv = make([]byte, room)
	}
	if err := e.link.Send(x.ctx, t); err != nil {
		return 0, err
	}
	got, err := e.link.Recv(x.ctx, e.recv[:room], e.params.Timeout)
	if err != nil {
		return 0, err
	}
	if got < 2 || got > room {
		return 0, fmt.Errorf("%w: %d bytes instead of a status word", ErrProtocol, got)
	}
	data, sw := e.recv[:got-2], e.recv[got-2:got]
	x.resp = append(x.resp, data...)
	return uint16(sw[0])<<8 | uint16(sw[1]), nil
}
