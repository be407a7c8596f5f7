package proto

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// GBPEngine speaks the Gemplus block protocol, which carries commands to a
// reader on a serial line, and not to a card: a block each way, framed as in T=1
// (ISO/IEC 7816-3, 11.3) with a LEN of up to 255 and without chaining (C OpenCT's
// proto-gbp.c). Its Link carries a stream of bytes and returns ErrCorrupted for
// an answer that has begun and does not go on.
type GBPEngine struct {
	link Link
	seq  byte // N(S) of the next command
	dead bool // the reader's numbers are not known
	out  [gbpMaxBlock]byte
	in   [gbpMaxBlock]byte
}

const (
	gbpHost   = 0x42 // NAD of blocks to the reader
	gbpReader = 0x24 // and from it

	gbpMaxInf   = 255
	gbpMaxBlock = t1Header + gbpMaxInf + 1

	gbpTries = 3 // C OpenCT's, for blocks and for S(RESYNCH)

	gbpGap     = time.Second     // for the rest of a block that has begun
	gbpResynch = 2 * time.Second // for the answer to S(RESYNCH)
)

// NewGBP makes the engine for a reader that begins to count.
func NewGBP(link Link) *GBPEngine { return &GBPEngine{link: link} }

// Exchange sends one command to the reader and appends its answer to resp[:0].
// A block that arrives damaged is asked for again. Where that does not help, or
// nothing comes within timeout, the command may have been run or not; the next one
// begins with a resynchronisation.
func (g *GBPEngine) Exchange(ctx context.Context, command, resp []byte, timeout time.Duration) ([]byte, error) {
	if len(command) == 0 || len(command) > gbpMaxInf {
		return nil, fmt.Errorf("GBP: %w: %d bytes; a block holds 1 to %d", ErrInvalidAPDU, len(command), gbpMaxInf)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("GBP: %w", err) // nothing was sent yet
	}
	if g.dead {
		if err := g.Resynchronise(ctx); err != nil {
			return nil, err
		}
	}
	g.dead = true // unless it ends well
	send := func() error { return g.send(ctx, g.seq*pcbISeq, command) }
	err := send()
	var fault *t1Fault
	for tries := 0; err == nil && tries < gbpTries; tries++ {
		var inf []byte
		var pcb byte
		if pcb, inf, fault, err = g.receive(ctx, timeout); err != nil {
			break
		}
		switch {
		case fault == nil && pcb == g.seq*pcbISeq:
			g.seq, g.dead = g.seq^1, false
			resp = append(resp[:0], inf...)
			clear(g.in[:])
			return resp, nil
		case fault == nil && pcb&^pcbRError == pcbR|g.seq*pcbRSeq && len(inf) == 0:
			fault = faultRepeat
			if tries+1 < gbpTries {
				err = send()
			}
			continue
		case fault == nil && pcb&0x80 == 0:
			fault = faultSeq
		case fault == nil:
			fault = faultPCB
		}
		if tries+1 < gbpTries {
			err = g.send(ctx, pcbR|g.seq*pcbRSeq|fault.code, nil)
		}
	}
	clear(g.in[:])
	if err != nil {
		return nil, fmt.Errorf("GBP: %w", err)
	}
	return nil, fmt.Errorf("GBP: %w: %w, %d times", ErrProtocol, fault, gbpTries)
}

// Resynchronise has the reader count anew.
func (g *GBPEngine) Resynchronise(ctx context.Context) error {
	g.dead = true
	var last error
	for range gbpTries {
		if err := g.send(ctx, sResynch, nil); err != nil {
			return fmt.Errorf("GBP: resynchronisation: %w", err)
		}
		pcb, inf, fault, err := g.receive(ctx, gbpResynch)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("GBP: resynchronisation: %w", err)
		case err != nil:
			last = err
		case fault != nil:
			last = fault
		case pcb == sResynch|pcbSAnswer && len(inf) == 0:
			g.seq, g.dead = 0, false
			return nil
		default:
			last = faultPCB
		}
	}
	return fmt.Errorf("GBP: %w: %w: %w", ErrProtocol, faultResynch, last)
}

func (g *GBPEngine) send(ctx context.Context, pcb byte, inf []byte) error {
	b := append(g.out[:0], gbpHost, pcb, byte(len(inf)))
	b = append(b, inf...)
	b = append(b, xorOf(b))
	err := g.link.Send(ctx, b)
	clear(g.out[:]) // there may be a PIN
	return err
}

// receive takes one block. A fault is what is wrong with it.
func (g *GBPEngine) receive(ctx context.Context, timeout time.Duration) (pcb byte, inf []byte, fault *t1Fault, err error) {
	head := g.in[:t1Header]
	if err := g.recv(ctx, head, timeout); err != nil {
		return corrupted(err)
	}
	if head[0] != gbpReader {
		return 0, nil, faultCorrupted, nil // not the begin of a block
	}
	n := int(head[2])
	if err := g.recv(ctx, g.in[t1Header:t1Header+n+1], gbpGap); err != nil {
		return corrupted(err)
	}
	if xorOf(g.in[:t1Header+n+1]) != 0 {
		return 0, nil, faultEDC, nil
	}
	return head[1], g.in[t1Header : t1Header+n], nil, nil
}

// recv fills buf.
func (g *GBPEngine) recv(ctx context.Context, buf []byte, timeout time.Duration) error {
	n, err := g.link.Recv(ctx, buf, timeout)
	if err == nil && n != len(buf) {
		err = ErrCorrupted
	}
	return err
}

// corrupted makes a fault of an error after which the line is fit for the next
// block.
func corrupted(err error) (byte, []byte, *t1Fault, error) {
	if errors.Is(err, ErrCorrupted) {
		return 0, nil, faultCorrupted, nil
	}
	return 0, nil, nil, err
}

func xorOf(b []byte) (sum byte) {
	for _, c := range b {
		sum ^= c
	}
	return sum
}
