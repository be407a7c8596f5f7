package proto

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// T1Params tell a T1Engine about card and reader. The zero value is right for
// a USB token whose limits are unknown.
type T1Params struct {
	// NAD of the host's blocks; the card's have its nibbles exchanged.
	NAD byte

	// IFSC is the longest information field to send, IFSD the longest the
	// card may send before anything else was negotiated: 1 to 254 bytes, 0
	// for 32. Larger values count as 254.
	IFSC, IFSD int

	// MaxIFSC bounds what the card may raise IFSC to, for tokens that do not
	// hold what their cards promise. 0 for 254.
	MaxIFSC int

	// CRC instead of LRC (TC byte of the ATR).
	CRC bool

	// BWT is the card's block waiting time: the unit of its requests for
	// more time, though at least a second is granted.
	BWT time.Duration

	// Timeout is how long an answer may take if no more time was asked for.
	// 0 for 20 s or, if that is more, one and a half BWT.
	Timeout time.Duration

	// Stream says that the Link carries bytes, not blocks. After a damaged
	// block the engine then reads on until the line is silent for CWT (0 for
	// the standard's default, 0.9 s).
	Stream bool
	CWT    time.Duration

	// Once names commands, besides GET RESPONSE, that must not be run a second
	// time because the answer did not arrive. nil: there are none.
	Once func(apdu []byte) bool
}

// Budgets and limits of the T=1 engine (ISO/IEC 7816-3, 11.6.3.2; those that
// the standard leaves open are chosen here).
const (
	t1DefaultIFS     = 32
	t1DefaultTimeout = 20 * time.Second
	t1DefaultCWT     = 900 * time.Millisecond
	t1MinWTX         = time.Second // unit of a waiting time extension, at least

	// t1MaxWait bounds a single wait, whatever the card asks for.
	t1MaxWait = 10 * time.Minute

	// t1MaxBusy bounds what a card may be granted for one APDU in all. Cards
	// ask for more than they need, and a key takes some minutes: this is for
	// those that never end.
	t1MaxBusy = time.Hour

	t1Attempts = 3 // exchanges without progress before a resynchronisation
	t1Resynchs = 3 // S(RESYNCH request) in one APDU

	// Blocks that are legal but bring nothing: S(IFS) and S(ABORT) requests
	// in a row, and I-blocks without data in one APDU.
	t1MaxRequests = 8
	t1MaxEmpty    = 64

	// A response this long is not waited for any more. It is twice
	// MaxResponse, up to which the card may finish and keep its session.
	t1Endless = 2 * MaxResponse
)

// T1Engine exchanges APDUs in T=1, the half-duplex block protocol of ISO/IEC
// 7816-3, 11. It recovers from damaged, lost and repeated blocks as the
// standard says, with bounded effort.
type T1Engine struct {
	Session
	link   Link
	params T1Params
	format t1Format

	timeout time.Duration // in force

	ifsc, ifsd int   // in force
	raised     int   // IFSD agreed upon by NegotiateIFSD, 0 for none
	ns, nr     uint8 // number of the host's next I-block, and of the card's
	wtx        byte  // multiplier for the next wait, 0 for none

	out     []byte // last block sent or to be sent, in sendBuf
	sendBuf [t1MaxBlock]byte
	recvBuf [t1MaxBlock]byte

	current t1Exchange // the APDU under way; here so that none is allocated
}

var _ Engine = (*T1Engine)(nil)

// NewT1 makes the engine for a card that was just reset.
func NewT1(link Link, p T1Params) *T1Engine {
	p.IFSC = ifs(p.IFSC, t1DefaultIFS)
	p.IFSD = ifs(p.IFSD, t1DefaultIFS)
	p.MaxIFSC = ifs(p.MaxIFSC, t1MaxInf)
	p.IFSC = min(p.IFSC, p.MaxIFSC)
	if p.Timeout <= 0 {
		p.Timeout = max(t1DefaultTimeout, p.BWT*3/2)
	}
	if p.CWT <= 0 {
		p.CWT = t1DefaultCWT
	}
	return &T1Engine{
		link:    link,
		params:  p,
		format:  t1Format{nad: p.NAD, crc: p.CRC},
		timeout: p.Timeout,
		ifsc:    p.IFSC,
		ifsd:    p.IFSD,
	}
}

// ifs brings the length of an information field into the range 1 to 254.
func ifs(n, def int) int {
	if n <= 0 {
		return def
	}
	return min(n, t1MaxInf)
}

// ID is T1.
func (e *T1Engine) ID() ID { return T1 }

// IFSC is the longest information field the card takes at present.
func (e *T1Engine) IFSC() int { return e.ifsc }

// IFSD is the longest information field the card may send at present.
func (e *T1Engine) IFSD() int { return e.ifsd }

// SetNAD changes the NAD of the blocks to come. The blocks of one session are
// numbered together, whatever their NAD: a terminal with several cards behind
// it has one session with the host.
func (e *T1Engine) SetNAD(nad byte) { e.format.nad = nad }

// SetTimeout changes how long an answer to come may take before its first byte: a
// user at a keypad needs longer than a card. 0 is what T1Params said.
func (e *T1Engine) SetTimeout(d time.Duration) {
	if d <= 0 {
		d = e.params.Timeout
	}
	e.timeout = d
}

// Transmit sends a command APDU of 1 to MaxCommand bytes. Damaged blocks are
// repeated; where that does not help, the card is resynchronised and gets the
// command again from its start, unless it is GET RESPONSE or one that Once names:
// their response is lost. resp must not share memory with apdu.
func (e *T1Engine) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	if e.lost != nil {
		return nil, e.lost
	}
	if len(apdu) == 0 || len(apdu) > MaxCommand {
		return nil, fmt.Errorf("T=1: %w: %d bytes", ErrInvalidAPDU, len(apdu))
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("T=1: %w", err) // nothing was sent yet
	}
	x := &e.current
	*x = t1Exchange{e: e, apdu: apdu, resp: resp[:0]}
	err := x.run(ctx)
	resp = x.resp
	*x = t1Exchange{} // keep neither command nor response, there may be a PIN
	clear(e.sendBuf[:])
	clear(e.recvBuf[:])
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// NegotiateIFSD tells the card that it may send n bytes per block, 1 to 254,
// in place of the 32 that hold at first. If the card does not confirm in three
// attempts, the old value stays in force and the error wraps ErrProtocol; only
// a Link's error ends the session.
func (e *T1Engine) NegotiateIFSD(ctx context.Context, n int) error {
	if e.lost != nil {
		return e.lost
	}
	if n < 1 || n > t1MaxInf {
		return fmt.Errorf("T=1: block size %d is not in 1 to %d", n, t1MaxInf)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("T=1: %w", err)
	}
	err := e.negotiate(ctx, n)
	if fault := (*t1Fault)(nil); errors.As(err, &fault) {
		return fmt.Errorf("T=1: card did not accept a block size of %d: %w: %v", n, ErrProtocol, err)
	}
	if err != nil {
		return e.Lose(fmt.Errorf("T=1: %w", err))
	}
	return nil
}

// negotiate fails with a *t1Fault, or with an error that ends the session.
func (e *T1Engine) negotiate(ctx context.Context, n int) error {
	var last *t1Fault
	for range t1Attempts {
		value := [1]byte{byte(n)}
		e.out = e.format.encode(e.sendBuf[:], sIFS, value[:])
		b, fault, err := e.exchange(ctx)
		switch {
		case err != nil:
			return err
		case fault != nil:
			last = fault
		case b.pcb != sIFS|pcbSAnswer:
			last = faultS
		case b.inf[0] != byte(n):
			last = faultValue
		default:
			e.ifsd, e.raised = n, n
			return nil
		}
	}
	return last
}

// Resynchronise starts the session anew without a card reset: both sides
// number their blocks from 0, and the block sizes are the first ones. It
// succeeds even after the session was lost, given a Link that works.
func (e *T1Engine) Resynchronise(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("T=1: %w", err)
	}
	if e.params.Stream {
		e.drain(ctx)
	}
	var last *t1Fault
	for range t1Resynchs {
		fault, err := e.resynch(ctx)
		if err != nil {
			return e.Lose(fmt.Errorf("T=1: %w", err))
		}
		if last = fault; last == nil {
			e.lost = nil
			return nil
		}
	}
	return e.Lose(fmt.Errorf("T=1: %w: %w (%v)", ErrProtocol, faultResynch, last))
}

// resynch makes one attempt at a resynchronisation. Only the one right block
// counts as its answer.
func (e *T1Engine) resynch(ctx context.Context) (*t1Fault, error) {
	e.out = e.format.encode(e.sendBuf[:], sResynch, nil)
	b, fault, err := e.exchange(ctx)
	if err != nil || fault != nil {
		return fault, err
	}
	if b.pcb != sResynch|pcbSAnswer {
		return faultS, nil
	}
	e.ns, e.nr = 0, 0
	e.ifsc, e.ifsd = e.params.IFSC, e.params.IFSD
	if raised := e.raised; raised != 0 {
		e.raised = 0
		err := e.negotiate(ctx, raised)
		if fault := (*t1Fault)(nil); err != nil && !errors.As(err, &fault) {
			return nil, err
		}
	}
	return nil, nil
}

// exchange sends the block in e.out and takes the card's answer. A fault is
// something to ask a repetition for; an error ends the session.
func (e *T1Engine) exchange(ctx context.Context) (t1Block, *t1Fault, error) {
	if err := ctx.Err(); err != nil {
		return t1Block{}, nil, err
	}
	timeout := e.timeout
	if e.wtx != 0 {
		timeout += e.extension(e.wtx)
		timeout = max(e.timeout, min(timeout, t1MaxWait))
		e.wtx = 0
	}
	if err := e.link.Send(ctx, e.out); err != nil {
		return t1Block{}, nil, err
	}
	raw, fault, err := e.receive(ctx, timeout)
	if err != nil {
		return t1Block{}, nil, err
	}
	var b t1Block
	if fault == nil {
		b, fault = e.format.decode(raw, e.ifsd)
	}
	if e.params.Stream && fault != nil && fault.framing() {
		e.drain(ctx)
	}
	return b, fault, nil
}

// extension is the time a card gets that asks for it.
func (e *T1Engine) extension(multiplier byte) time.Duration {
	return min(time.Duration(multiplier)*max(e.params.BWT, t1MinWTX), t1MaxWait)
}

// receive returns the bytes of one answer and none from earlier ones.
func (e *T1Engine) receive(ctx context.Context, timeout time.Duration) ([]byte, *t1Fault, error) {
	if e.params.Stream {
		return e.receiveStream(ctx, timeout)
	}
	// One byte more than the longest block: that is how eTokens were always
	// asked, and they are known to answer to it (C OpenCT, proto-t1.c).
	want := min(t1Header+e.ifsd+e.format.edcLen()+1, t1MaxBlock)
	n, err := e.link.Recv(ctx, e.recvBuf[:want], timeout)
	if errors.Is(err, ErrCorrupted) {
		return nil, faultCorrupted, nil
	}
	if err != nil {
		return nil, nil, err
	}
	return e.recvBuf[:max(0, min(n, want))], nil, nil
}

// receiveStream reads the header and then as many bytes as it announces.
func (e *T1Engine) receiveStream(ctx context.Context, timeout time.Duration) ([]byte, *t1Fault, error) {
	if fault, err := e.fill(ctx, e.recvBuf[:t1Header], timeout); fault != nil || err != nil {
		return nil, fault, err
	}
	n := int(e.recvBuf[2])
	if n > t1MaxInf {
		return nil, faultReserved, nil
	}
	end := t1Header + n + e.format.edcLen()
	if fault, err := e.fill(ctx, e.recvBuf[t1Header:end], e.params.Timeout); fault != nil || err != nil {
		return nil, fault, err
	}
	return e.recvBuf[:end], nil, nil
}

// fill reads exactly len(buf) bytes of a stream.
func (e *T1Engine) fill(ctx context.Context, buf []byte, timeout time.Duration) (*t1Fault, error) {
	n, err := e.link.Recv(ctx, buf, timeout)
	switch {
	case errors.Is(err, ErrCorrupted):
		return faultCorrupted, nil
	case err != nil:
		return nil, err
	case n != len(buf):
		return faultShort, nil
	}
	return nil, nil
}

// drain reads until the line is silent, so that the next block starts clean.
// A Link that fails for good says so at the next Send.
func (e *T1Engine) drain(ctx context.Context) {
	var b [1]byte
	for range 2 * t1MaxBlock {
		n, err := e.link.Recv(ctx, b[:], e.params.CWT)
		if n == 0 || err != nil && !errors.Is(err, ErrCorrupted) {
			return
		}
	}
}
