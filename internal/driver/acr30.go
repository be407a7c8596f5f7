package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
)

// The ACR30 and its kin, which Perto sold as PertoSmart AC1030, on USB or a
// serial line (doc/devices/acs.md). C OpenCT has two drivers for it,
// ifd-pertosmart1030.c and ifd-acr30u.c.
const (
	acr30Endpoint = 0x81

	// acr30Quiet is how long nothing may come for the reader to be done with
	// what it was saying. C OpenCT reads for 20 ms before each command.
	acr30Quiet = 20 * time.Millisecond

	// acr30MaxStale bounds what is thrown away, in packets.
	acr30MaxStale = 1000

	// acr30Idle is how long after a command the driver begins to listen for
	// cards that come and go: the next command often follows at once.
	acr30Idle = 100 * time.Millisecond

	// acr30PowerUp is how long a reader takes that is powered by the serial
	// line (C OpenCT waits as long).
	acr30PowerUp = time.Second
)

// acr30Wire is what carries the bytes.
type acr30Wire interface {
	// begin and end are called around a command.
	begin() error
	end()

	write(ctx context.Context, b []byte) error
	read(ctx context.Context, buf []byte, timeout time.Duration) (int, error)
	gone() <-chan struct{}
	close() error
}

// acr30 is a reader's port.
type acr30 struct {
	acr30Wire
	parser acr30Parser
	unsure bool // something may still come that belongs to an earlier command
	card   func(present bool)
	buf    [256]byte
}

func (p *acr30) command(ctx context.Context, ins byte, data []byte, timeout time.Duration) ([]byte, proto.ID, error) {
	if ins == acsT0 {
		data = acr30TPDU(data)
	}
	if p.unsure {
		if err := p.settle(ctx); err != nil {
			return nil, 0, err
		}
	}
	if err := p.begin(); err != nil {
		return nil, 0, err
	}
	defer p.end()
	p.unsure = true
	out := acr30Message(ins, data)
	defer clear(out)
	if ins == acsT0 {
		clear(data)
	}
	if err := p.write(ctx, out); err != nil {
		return nil, 0, err
	}
	r, err := p.reply(ctx, timeout)
	if err != nil {
		return nil, 0, err
	}
	p.unsure = false
	if err := r.err(); err != nil {
		return nil, 0, err
	}
	t := proto.Default
	switch {
	case ins != acsReset:
	case r.sw == acr30Memory:
		return nil, 0, fmt.Errorf("%w: the card is a memory card, which this driver does not support", ifd.ErrNoATR)
	case r.sw == acr30T1:
		t = proto.T1
	default:
		t = proto.T0
	}
	return r.data, t, nil
}

// acr30TPDU has Lc and Le both, 00 where the TPDU has none.
func acr30TPDU(tpdu []byte) []byte {
	if len(tpdu) == 5 {
		return append(append(make([]byte, 0, 6), tpdu[:4]...), 0, tpdu[4])
	}
	return append(append(make([]byte, 0, len(tpdu)+1), tpdu...), 0)
}

// reply waits for the next message that is an answer.
func (p *acr30) reply(ctx context.Context, timeout time.Duration) (acr30Reply, error) {
	deadline := time.Now().Add(timeout)
	for {
		wait := time.Until(deadline)
		if p.parser.inside {
			wait = min(wait, acsGap)
		}
		n, err := p.read(ctx, p.buf[:], wait)
		if p.parser.inside && errors.Is(err, device.ErrTimeout) && ctx.Err() == nil {
			return acr30Reply{}, fmt.Errorf("%w: the end of the message is missing: %w", errACR30Frame, err)
		}
		if err != nil {
			return acr30Reply{}, err
		}
		r, done, err := p.take(p.buf[:n])
		if done || err != nil {
			return r, err
		}
		if !time.Now().Before(deadline) {
			return acr30Reply{}, fmt.Errorf("the reader sends card events instead of an answer: %w", device.ErrTimeout)
		}
	}
}

// take looks at bytes up to the end of an answer, and tells news.
func (p *acr30) take(b []byte) (acr30Reply, bool, error) {
	for _, c := range b {
		r, done, err := p.parser.take(c)
		switch {
		case err != nil:
			return r, false, err
		case !done:
		case r.sw == acr30Inserted:
			p.card(true)
		case r.sw == acr30Removed:
			p.card(false)
		case r.sw < acr30Spontaneous:
			return r, true, nil
		}
	}
	return acr30Reply{}, false, nil
}

// listen takes bytes that are no answer to a command: events of the card count, the
// rest is left over from an earlier command.
func (p *acr30) listen(b []byte) {
	for ; len(b) > 0; b = b[1:] {
		_, _, _ = p.take(b[:1])
	}
}

// settle implements acsPort.
func (p *acr30) settle(ctx context.Context) error {
	if err := p.begin(); err != nil {
		return err
	}
	defer p.end()
	failed := false
	for range acr30MaxStale {
		n, err := p.read(ctx, p.buf[:], acr30Quiet)
		p.listen(p.buf[:n])
		switch {
		case err == nil:
		case errors.Is(err, device.ErrTimeout) && ctx.Err() == nil:
			p.unsure = false
			return nil
		case failed || errors.Is(err, device.ErrUnplugged) || ctx.Err() != nil:
			return err
		default:
			failed = true // the transfer of an answer that nobody took
		}
	}
	return fmt.Errorf("reader does not stop sending: %w", ifd.ErrComm)
}

// acr30Serial is a reader on a serial line: 9600 8N1, as the line is opened.
type acr30Serial struct{ serial.Line }

func (w acr30Serial) begin() error                              { return w.Flush(serial.In) }
func (w acr30Serial) end()                                      {}
func (w acr30Serial) write(ctx context.Context, b []byte) error { return w.Write(ctx, b) }
func (w acr30Serial) gone() <-chan struct{}                     { return w.Gone() }
func (w acr30Serial) close() error                              { return w.Line.Close() }

func (w acr30Serial) read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	return w.Read(ctx, buf, timeout)
}

// openPertoSmart1030At opens a reader on a serial line. It is asked for its
// card, as by C OpenCT: to hear of cards by itself takes a read that never ends.
func openPertoSmart1030At(path string, o ifd.Options) (ifd.Reader, error) {
	return openSerialLine(path, o, openPertoSmart1030Line)
}

func openPertoSmart1030Line(l serial.Line, _ ifd.Options) (ifd.Reader, error) {
	ctx := context.Background()
	if err := serial.Wait(ctx, l, acr30PowerUp); err != nil {
		return nil, err
	}
	p := &acr30{acr30Wire: acr30Serial{l}, card: func(bool) {}}
	r := &acsReader{port: p, name: "PertoSmart (AC1030, Serial)"}
	r.slot = acsSlot{r}
	if err := r.open1030(ctx, acr30NewsOff); err != nil {
		return nil, err
	}
	return r, nil
}

// News of cards, for acsNotify.
const (
	acr30NewsOn  = 0x01
	acr30NewsOff = 0x02
)

// open1030 sets a reader up. C OpenCT takes no notice of what the first command
// comes to; a reader that was just powered may not hear it.
func (r *acsReader) open1030(ctx context.Context, tell byte) error {
	err := r.set(ctx, acsNotify, tell)
	if errors.Is(err, device.ErrTimeout) {
		err = r.set(ctx, acsNotify, tell)
	}
	if err == nil {
		err = r.set(ctx, acsOption, 0)
	}
	return err
}
