package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
)

// The ACR38 in its own protocol, which Perto sold as PertoSmart EMV AC1038
// (doc/devices/acs.md; C OpenCT's ifd-pertosmart1038.c). Messages are
//
//	01 INS LENhi LENlo data      to the reader, filled up to whole packets
//	01 STATUS LENhi LENlo data   from it, filled up or not
//
// over two bulk endpoints; an interrupt endpoint tells of cards.
const (
	acr38Header = 0x01
	acr38Prefix = 4 // bytes before the data
	acr38Packet = 64

	acr38Out       = 0x02
	acr38In        = 0x82
	acr38Interrupt = 0x81

	// acr38MaxData bounds an answer: the longest card responses have 259 bytes.
	acr38MaxData = 512

	// acr38Quiet is how long nothing may come after an error for the reader to
	// be done with what it was saying (C OpenCT reads as long), and acr38Still
	// if nothing was wrong.
	acr38Quiet = 100 * time.Millisecond
	acr38Still = 20 * time.Millisecond

	acr38MaxStale = 64 // packets that are thrown away
)

// News of a card, on the interrupt endpoint.
const (
	acr38Removed  = 0xC0
	acr38Inserted = 0xC1
)

// acr38 is a reader's port.
type acr38 struct {
	dev    usb.Device
	unsure bool // something may still come that belongs to an earlier command
	buf    []byte

	stop      context.CancelFunc
	listening sync.WaitGroup
}

func openPertoSmart1038(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	if err := dev.Claim(0, 0); err != nil {
		return nil, err
	}
	r := newACSNotifier(o.Name)
	p := &acr38{dev: dev}
	r.port = p
	ctx := context.Background()
	// C OpenCT sets 10 here, with which the reader refuses the ATRs of cards
	// that are none of EMV's.
	err := r.set(ctx, acsOption, 0)
	var status []byte
	if err == nil {
		status, err = r.status(ctx)
	}
	if err != nil {
		return nil, err
	}
	r.tell(status[acsCardState] != 0)
	p.listen(r.tell)
	return r, nil
}

// listen turns what comes from the interrupt endpoint into news.
func (p *acr38) listen(tell func(present bool)) {
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.listening.Add(1)
	go func() {
		defer p.listening.Done()
		listenInterrupt(ctx, p.dev, acr38Interrupt, func(b []byte) {
			if len(b) < 2 || b[0] != acr38Header {
				return
			}
			switch b[1] {
			case acr38Inserted:
				tell(true)
			case acr38Removed:
				tell(false)
			}
		})
	}()
}

func (p *acr38) gone() <-chan struct{} { return p.dev.Gone() }

func (p *acr38) close() error {
	p.stop()
	err := p.dev.Close()
	p.listening.Wait()
	return err
}

// command implements acsPort. The reader does not say what protocol it has
// selected.
func (p *acr38) command(ctx context.Context, ins byte, data []byte, timeout time.Duration) ([]byte, proto.ID, error) {
	if p.unsure {
		if err := p.settle(ctx); err != nil {
			return nil, 0, err
		}
	}
	n := acr38Prefix + len(data)
	msg := make([]byte, (n+acr38Packet-1)/acr38Packet*acr38Packet)
	defer clear(msg) // there may be a PIN
	copy(msg, []byte{acr38Header, ins, byte(len(data) >> 8), byte(len(data))})
	copy(msg[acr38Prefix:], data)
	p.unsure = true
	sent, err := p.dev.Bulk(ctx, acr38Out, msg, timeout)
	if err == nil && sent != len(msg) {
		err = fmt.Errorf("reader took %d of %d bytes: %w", sent, len(msg), ifd.ErrComm)
	}
	if err != nil {
		return nil, 0, p.failed(err, acr38Out)
	}
	status, answer, err := p.reply(ctx, timeout)
	if err != nil {
		return nil, 0, p.failed(err, acr38In)
	}
	p.unsure = false
	return answer, proto.Default, acr38Error(status)
}

// failed lets a stalled endpoint work again.
func (p *acr38) failed(err error, ep uint8) error {
	if errors.Is(err, usb.ErrStall) {
		_ = p.dev.ClearHalt(ep)
	}
	return err
}

// reply reads an answer, a packet at a time: a reader that fills up its answers
// sends no short packet that would end a longer read.
func (p *acr38) reply(ctx context.Context, timeout time.Duration) (status byte, data []byte, err error) {
	deadline := time.Now().Add(timeout)
	var packet [acr38Packet]byte
	p.buf = p.buf[:0]
	for empty := 0; ; {
		wait := time.Until(deadline)
		if len(p.buf) > 0 {
			wait = min(wait, acsGap)
		}
		n, err := p.dev.Bulk(ctx, acr38In, packet[:], wait)
		if len(p.buf)+n > 0 && errors.Is(err, usb.ErrTimeout) && ctx.Err() == nil {
			return 0, nil, fmt.Errorf("%w: the end of the answer is missing: %w: %w", ifd.ErrComm, proto.ErrCorrupted, err)
		}
		if err != nil {
			return 0, nil, err
		}
		p.buf = append(p.buf, packet[:n]...)
		if empty++; n > 0 {
			empty = 0
		}
		if len(p.buf) >= 1 && p.buf[0] != acr38Header || empty > acr38MaxStale {
			return 0, nil, fmt.Errorf("the reader does not answer with a message: %w", ifd.ErrComm)
		}
		if len(p.buf) < acr38Prefix {
			continue
		}
		size := int(p.buf[2])<<8 | int(p.buf[3])
		switch {
		case size > acr38MaxData:
			return 0, nil, fmt.Errorf("reader announces an answer of %d bytes: %w", size, ifd.ErrComm)
		case len(p.buf) >= acr38Prefix+size+acr38Packet:
			return 0, nil, fmt.Errorf("reader sends more than it announced: %w", ifd.ErrComm)
		case len(p.buf) >= acr38Prefix+size:
			return p.buf[1], append([]byte(nil), p.buf[acr38Prefix:acr38Prefix+size]...), nil
		}
	}
}

// settle implements acsPort.
func (p *acr38) settle(ctx context.Context) error {
	var packet [acr38Packet]byte
	quiet, failed := acr38Still, false
	if p.unsure {
		quiet = acr38Quiet
	}
	for range acr38MaxStale {
		_, err := p.dev.Bulk(ctx, acr38In, packet[:], quiet)
		switch {
		case err == nil:
		case errors.Is(err, usb.ErrTimeout) && ctx.Err() == nil:
			p.unsure = false
			return nil
		case failed || errors.Is(err, usb.ErrUnplugged) || ctx.Err() != nil:
			return err
		default:
			failed = true
			_ = p.failed(err, acr38In)
		}
	}
	return fmt.Errorf("reader does not stop sending: %w", ifd.ErrComm)
}

// acr38Error is the error that a status code stands for.
func acr38Error(status byte) error {
	switch status {
	case 0x00:
		return nil
	case 0xFA:
		return ifd.ErrNoCard
	case 0xF9:
		return errACSNoPower
	case 0xF8:
		return fmt.Errorf("reader refuses the ATR: %w", ifd.ErrInvalidATR)
	case 0xFE:
		return fmt.Errorf("%w: %w", errACSMute, ifd.ErrComm)
	}
	names := map[byte]string{
		0xFF: "command was aborted", 0xFD: "wrong parity", 0xFC: "more came than could be taken", 0xFB: "hardware failure",
		0xF7: "card's speed is not possible", 0xF6: "wrong length", 0xF4: "wrong procedure byte",
	}
	if name := names[status]; name != "" {
		return fmt.Errorf("the reader reports error %02x, %s: %w", status, name, ifd.ErrComm)
	}
	return fmt.Errorf("the reader reports error %02x: %w", status, ifd.ErrComm)
}
