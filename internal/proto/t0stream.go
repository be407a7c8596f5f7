package proto

import (
	"fmt"
	"time"
)

// procNULL is the procedure byte that asks for more time (ISO/IEC 7816-3,
// 10.3.3).
const procNULL = 0x60

// tpduStream sends the five bytes of header and then does what the card's
// procedure bytes say, until one of them is a status. Either out goes to the
// card, or n bytes come from it.
func (x *t0Exchange) tpduStream(header, out []byte, n int) (uint16, error) {
	e, ins := x.e, header[1]
	if len(out) > 0 {
		n = 0
	}
	acknowledged := len(out) > 0 || n > 0 // may not be acknowledged for nothing
	if err := e.link.Send(x.ctx, header); err != nil {
		return 0, err
	}
	begin := time.Now()
	for nulls := 0; ; {
		if err := x.ctx.Err(); err != nil {
			return 0, err
		}
		p, err := x.readByte()
		if err != nil {
			return 0, err
		}
		if p == procNULL {
			if nulls++; nulls > e.params.MaxNULL {
				return 0, fmt.Errorf("%w: the card asked for more time %d times", ErrProtocol, nulls)
			}
			if time.Since(begin) > t0MaxBusy {
				return 0, fmt.Errorf("%w: the card asked for more than %v", ErrProtocol, t0MaxBusy)
			}
			continue
		}
		if p&0xF0 == 0x60 || p&0xF0 == 0x90 {
			sw2, err := x.readByte()
			return uint16(p)<<8 | uint16(sw2), err
		}

		// The lowest bit once drove the programming voltage and is ignored.
		count := len(out) + n // one of them is 0
		switch {
		case (p^ins)&0xFE == 0: // all that is left
		case (^p^ins)&0xFE == 0: // one byte
			count = min(count, 1)
		default:
			return 0, fmt.Errorf("%w: procedure byte %02X does not belong to the instruction", ErrProtocol, p)
		}
		switch {
		case count == 0 && acknowledged:
			return 0, fmt.Errorf("%w: the card requests more data than the command has", ErrProtocol)
		case count == 0: // a command without data, acknowledged once all the same
			acknowledged = true
		case len(out) > 0:
			if err := e.link.Send(x.ctx, out[:count]); err != nil {
				return 0, err
			}
			out = out[count:]
		default:
			if err := x.readData(count); err != nil {
				return 0, err
			}
			n -= count
		}
	}
}

// readData appends exactly count bytes to the response.
func (x *t0Exchange) readData(count int) error {
	e, before := x.e, len(x.resp)
	for range count {
		x.resp = append(x.resp, 0)
	}
	got, err := e.link.Recv(x.ctx, x.resp[before:], e.params.Timeout)
	if err != nil {
		return err
	}
	if got != count {
		return fmt.Errorf("%w: %d of %d bytes", ErrProtocol, got, count)
	}
	return nil
}

func (x *t0Exchange) readByte() (byte, error) {
	b := &x.e.one
	got, err := x.e.link.Recv(x.ctx, b[:], x.e.params.Timeout)
	if err != nil {
		return 0, err
	}
	if got != 1 {
		return 0, fmt.Errorf("%w: a byte is missing", ErrProtocol)
	}
	return b[0], nil
}
