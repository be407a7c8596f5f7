package proto

import (
	"context"
	"fmt"
	"time"
)

// t1Phase says whose turn it is to send I-blocks, and why.
type t1Phase int

const (
	t1Sending   t1Phase = iota // the host, with its command
	t1Receiving                // the card, with its response
	t1Aborting                 // the card gave up (S(ABORT)), and it is the host's turn again
)

// t1Exchange is the way of one APDU through T=1: it looks at each valid block
// and decides what to send next.
type t1Exchange struct {
	e     *T1Engine
	phase t1Phase

	apdu  []byte
	pos   int // bytes the card has acknowledged
	chunk int // bytes in the I-block under way

	resp     []byte
	received int // bytes of response, with those beyond MaxResponse

	failures int // answers in a row that brought nothing
	resynchs int // S(RESYNCH request) so far
	requests int // S(IFS), S(ABORT) requests since the last progress
	empty    int // I-blocks without data

	granted time.Duration // by waiting time extensions
}

// t1Verdict is what a block from the card leads to.
type t1Verdict int

const (
	t1Next   t1Verdict = iota // progress; the next block is prepared
	t1Answer                  // an S response is prepared; no progress, no failure
	t1Repeat                  // the card asks for a repetition, which is prepared
	t1Refuse                  // the card has to repeat, see the fault
	t1Done                    // the response is complete
	t1Ended                   // the card has aborted
	t1Flood                   // the response has no end
	t1Busy                    // the card has asked for time often enough
)

// run exchanges blocks until the response is complete.
func (x *t1Exchange) run(ctx context.Context) error {
	e := x.e
	x.start()
	for {
		b, fault, err := e.exchange(ctx)
		if err != nil {
			return e.Lose(fmt.Errorf("T=1: %w", err))
		}
		verdict := t1Refuse
		if fault == nil {
			verdict, fault = x.handle(b)
		}
		switch verdict {
		case t1Next:
			x.failures, x.requests = 0, 0
			continue
		case t1Answer:
			continue
		case t1Done:
			return x.finish()
		case t1Ended:
			return fmt.Errorf("T=1: %w", ErrAborted)
		case t1Flood:
			return e.Lose(fmt.Errorf("T=1: %w: the response has no end after %d bytes", ErrTooLong, x.received))
		case t1Busy:
			return e.Lose(fmt.Errorf("T=1: %w: the card asked for more than %v", ErrProtocol, t1MaxBusy))
		}

		// Nothing gained. Repeat or ask for a repetition, then resynchronise.
		if x.failures++; x.failures < t1Attempts {
			if verdict == t1Refuse {
				e.out = e.format.encode(e.sendBuf[:], pcbR|e.nr*pcbRSeq|fault.code, nil)
			}
			continue
		}
		if x.phase != t1Aborting && e.once(x.apdu) {
			return e.Lose(fmt.Errorf("T=1: %w: the response is lost: %w", ErrProtocol, fault))
		}
		if err := x.resynch(ctx, fault); err != nil {
			return e.Lose(fmt.Errorf("T=1: %w", err))
		}
		if x.phase == t1Aborting {
			return fmt.Errorf("T=1: %w", ErrAborted)
		}
		x.start()
	}
}

// once says that a resynchronisation must not repeat a command. A card that has run GET
// RESPONSE has nothing more to give, or gives what follows (ISO/IEC 7816-4, 7.6.1).
func (e *T1Engine) once(apdu []byte) bool {
	return len(apdu) > 1 && apdu[1] == insGetResponse || e.params.Once != nil && e.params.Once(apdu)
}

// start begins the command from its first byte, at first and after every
// resynchronisation.
func (x *t1Exchange) start() {
	x.phase, x.pos, x.resp, x.received = t1Sending, 0, x.resp[:0], 0
	x.failures, x.requests = 0, 0
	x.sendChunk()
}

// finish judges a complete response. The session is well either way.
func (x *t1Exchange) finish() error {
	switch {
	case x.received > MaxResponse:
		return fmt.Errorf("T=1: %w: %d bytes", ErrTooLong, x.received)
	case x.received < 2:
		return fmt.Errorf("T=1: %w: response of %d bytes has no status word", ErrProtocol, x.received)
	}
	return nil
}

// resynch brings the card back to the start of the session.
func (x *t1Exchange) resynch(ctx context.Context, why *t1Fault) error {
	for x.resynchs < t1Resynchs {
		x.resynchs++
		fault, err := x.e.resynch(ctx)
		if err != nil || fault == nil {
			return err
		}
	}
	return fmt.Errorf("%w: %w, and %d resynchronisations did not help", ErrProtocol, why, t1Resynchs)
}

// handle decides on a valid block. A fault comes with t1Refuse and t1Repeat.
func (x *t1Exchange) handle(b t1Block) (t1Verdict, *t1Fault) {
	switch {
	case b.isI():
		return x.handleI(b)
	case b.isR():
		return x.handleR(b)
	default:
		return x.handleS(b)
	}
}

// handleI takes a piece of the response.
func (x *t1Exchange) handleI(b t1Block) (t1Verdict, *t1Fault) {
	e := x.e
	switch {
	case x.phase == t1Aborting:
		return t1Refuse, faultS
	case x.phase == t1Sending && x.pos+x.chunk < len(x.apdu):
		return t1Refuse, faultEarly
	case b.iSeq() != e.nr:
		return t1Refuse, faultSeq
	}
	if len(b.inf) == 0 {
		if x.empty++; x.empty > t1MaxEmpty {
			return t1Refuse, faultEmpty
		}
	}
	if x.phase == t1Sending { // the response acknowledges the command
		e.ns ^= 1
		x.phase = t1Receiving
	}
	e.nr ^= 1
	if x.received += len(b.inf); x.received <= MaxResponse {
		x.resp = append(x.resp, b.inf...)
	}
	if !b.more() {
		return t1Done, nil
	}
	if x.received > t1Endless {
		return t1Flood, nil
	}
	e.out = e.format.encode(e.sendBuf[:], pcbR|e.nr*pcbRSeq, nil)
	return t1Next, nil
}

// handleR takes an acknowledgement, or repeats what the card did not get.
func (x *t1Exchange) handleR(b t1Block) (t1Verdict, *t1Fault) {
	e := x.e
	if b.bad() != 0 && e.out[1]&pcbS == pcbS { // our answer to a request got lost
		if e.out[1] == sWTX|pcbSAnswer {
			e.wtx = e.out[t1Header]
		}
		return t1Repeat, faultRepeat
	}
	switch x.phase {
	case t1Aborting: // it is the host's turn, and the card says what it expects
		e.ns = b.rSeq()
		return t1Ended, nil
	case t1Receiving:
		e.out = e.format.encode(e.sendBuf[:], pcbR|e.nr*pcbRSeq, nil)
		return t1Repeat, faultRepeat
	}
	if b.rSeq() == e.ns {
		x.encodeChunk()
		return t1Repeat, faultRepeat
	}
	if b.bad() == 0 && x.pos+x.chunk < len(x.apdu) {
		e.ns ^= 1
		x.pos += x.chunk
		x.sendChunk()
		return t1Next, nil
	}
	return t1Refuse, faultSeq
}

// handleS answers the card's requests.
func (x *t1Exchange) handleS(b t1Block) (t1Verdict, *t1Fault) {
	e := x.e
	switch b.pcb {
	case sWTX:
		if b.inf[0] == 0 {
			return t1Refuse, faultValue
		}
		if x.granted += e.extension(b.inf[0]); x.granted > t1MaxBusy {
			return t1Busy, nil
		}
		e.wtx = b.inf[0]
	case sIFS:
		if b.inf[0] == 0 || b.inf[0] > t1MaxInf {
			return t1Refuse, faultValue
		}
		if x.requests++; x.requests > t1MaxRequests {
			return t1Refuse, faultEmpty
		}
		e.ifsc = min(int(b.inf[0]), e.params.MaxIFSC)
	case sAbort:
		if x.requests++; x.requests > t1MaxRequests {
			return t1Refuse, faultEmpty
		}
		x.phase = t1Aborting
	default: // answers nobody waits for; RESYNCH, which only the host may ask
		return t1Refuse, faultS
	}
	e.out = e.format.encode(e.sendBuf[:], b.pcb|pcbSAnswer, b.inf)
	return t1Answer, nil
}

// sendChunk prepares the next piece of the command.
func (x *t1Exchange) sendChunk() {
	x.chunk = min(len(x.apdu)-x.pos, x.e.ifsc)
	x.encodeChunk()
}

// encodeChunk prepares the piece under way, at first or once more: as long as
// it was, even if the card has changed IFSC since.
func (x *t1Exchange) encodeChunk() {
	e := x.e
	pcb := byte(pcbI) | e.ns*pcbISeq
	if x.pos+x.chunk < len(x.apdu) {
		pcb |= pcbIMore
	}
	e.out = e.format.encode(e.sendBuf[:], pcb, x.apdu[x.pos:x.pos+x.chunk])
}
