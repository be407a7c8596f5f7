package driver

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
	"openct/internal/usb"
)

// The ACR30 and its kin, which Perto sold as PertoSmart AC1030, on USB or a
// serial line. A message is binary, the bytes on the wire are its hexadecimal
// digits between STX and ETX (doc/devices/acs.md; C OpenCT's
// ifd-pertosmart1030.c and ifd-acr30u.c, which are two drivers for one reader).
//
//	01 INS LEN data XOR        to the reader
//	01 SW1 SW2 LEN data XOR    from it
//
// LEN is one byte, or FF and two bytes.
const (
	acr30Header = 0x01
	acr30STX    = 0x02
	acr30ETX    = 0x03
	acr30Long   = 0xFF

	// acr30MaxMessage bounds a message from the reader: the longest card
	// responses have 259 bytes.
	acr30MaxMessage = 1 + 2 + 3 + 512 + 1

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

// errACR30Frame is a message that came damaged. T=1 has the card repeat its block.
var errACR30Frame = fmt.Errorf("%w: message with a mistake: %w", ifd.ErrComm, proto.ErrCorrupted)

// acr30Message puts a command together as it goes on the wire.
func acr30Message(ins byte, data []byte) []byte {
	msg := append(make([]byte, 0, 8+len(data)), acr30Header, ins)
	if n := len(data); n < acr30Long {
		msg = append(msg, byte(n))
	} else {
		msg = append(msg, acr30Long, byte(n>>8), byte(n))
	}
	msg = append(msg, data...)
	msg = append(msg, xor(msg))
	defer clear(msg) // there may be a PIN
	const digits = "0123456789ABCDEF"
	wire := append(make([]byte, 0, 2+2*len(msg)), acr30STX)
	for _, b := range msg {
		wire = append(wire, digits[b>>4], digits[b&0x0F])
	}
	return append(wire, acr30ETX)
}

// xor is the checksum.
func xor(b []byte) (sum byte) {
	for _, c := range b {
		sum ^= c
	}
	return sum
}

// acr30Reply is what a reader says.
type acr30Reply struct {
	sw   uint16
	data []byte
}

// Status words of the reader.
const (
	acr30OK          = 0x9000
	acr30T1          = 0x9001 // after a reset: a card with T=1
	acr30Memory      = 0x9010 // after a reset: a memory card
	acr30NoCard      = 0x6002
	acr30NoPower     = 0x6004
	acr30Unknown     = 0x6005 // instruction
	acr30Failure     = 0x6020 // of the card
	acr30Spontaneous = 0xFF00 // and above: news, no answer
	acr30Inserted    = 0xFF01
	acr30Removed     = 0xFF02
)

// parseACR30 takes a message apart.
func parseACR30(digits []byte) (acr30Reply, error) {
	msg := make([]byte, hex.DecodedLen(len(digits)))
	if _, err := hex.Decode(msg, digits); err != nil || len(msg) < 5 || msg[0] != acr30Header || xor(msg) != 0 {
		return acr30Reply{}, errACR30Frame
	}
	r := acr30Reply{sw: uint16(msg[1])<<8 | uint16(msg[2])}
	n, data := int(msg[3]), msg[4:len(msg)-1]
	if n == acr30Long {
		if len(data) < 2 {
			return acr30Reply{}, errACR30Frame
		}
		n, data = int(data[0])<<8|int(data[1]), data[2:]
	}
	if n != len(data) {
		return acr30Reply{}, errACR30Frame
	}
	r.data = data
	return r, nil
}

// err is the error of a reply.
func (r acr30Reply) err() error {
	switch r.sw {
	case acr30OK, acr30T1, acr30Memory:
		return nil
	case acr30NoCard:
		return ifd.ErrNoCard
	case acr30NoPower:
		return errACSNoPower
	case acr30Unknown:
		return fmt.Errorf("reader does not know the command: %w", ifd.ErrNotSupported)
	case acr30Failure:
		return fmt.Errorf("%w: %w", errACSMute, ifd.ErrComm)
	}
	return fmt.Errorf("reader says %04x: %w", r.sw, ifd.ErrComm)
}

// acr30Parser finds messages in what comes, in pieces of any size.
type acr30Parser struct {
	digits []byte
	inside bool // between STX and ETX
}

// take looks at a byte. done says that a message ends with it. What is neither
// a message nor the zeros that fill up a packet is an error.
func (p *acr30Parser) take(b byte) (r acr30Reply, done bool, err error) {
	switch {
	case b == acr30STX:
		p.digits, p.inside = p.digits[:0], true
		return r, false, nil
	case b == acr30ETX && p.inside:
		p.inside = false
		r, err = parseACR30(p.digits)
		clear(p.digits)
		return r, err == nil, err
	case p.inside && len(p.digits) < 2*acr30MaxMessage:
		p.digits = append(p.digits, b)
		return r, false, nil
	case b == 0:
		return r, false, nil
	}
	p.inside = false
	return r, false, errACR30Frame
}

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
		return nil, 0, fmt.Errorf("%w: it is a memory card, which this driver does not read", ifd.ErrNoATR)
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
			return acr30Reply{}, fmt.Errorf("%w: it has no end: %w", errACR30Frame, err)
		}
		if err != nil {
			return acr30Reply{}, err
		}
		r, done, err := p.take(p.buf[:n])
		if done || err != nil {
			return r, err
		}
		if !time.Now().Before(deadline) {
			return acr30Reply{}, device.Wrap("read", "reader", device.ErrTimeout)
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

// listen looks at what nobody has asked for: news count, the rest is old.
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

// acr30USB is a reader on USB: messages go out in vendor requests and come in
// packets of the interrupt endpoint, which is where news of cards come as well.
// Between commands a read of it is under way.
type acr30USB struct {
	dev  usb.Device
	take func([]byte) // of what comes between commands

	mu      sync.Mutex
	busy    bool        // with a command
	timer   *time.Timer // runs listen; nil until the reader is set up
	stop    context.CancelFunc
	stopped chan struct{} // closed when listen has ended; nil: it does not run
}

// begin takes the endpoint for a command.
func (w *acr30USB) begin() error {
	w.mu.Lock()
	w.busy = true
	stopped := w.stopped
	if stopped != nil {
		w.stop()
	}
	if w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Unlock()
	if stopped != nil {
		<-stopped
	}
	return nil
}

func (w *acr30USB) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = false
	if w.timer != nil {
		w.timer.Reset(acr30Idle)
	}
}

// listen runs until a command begins, on the timer's goroutine.
func (w *acr30USB) listen() {
	w.mu.Lock()
	if w.busy || w.stopped != nil {
		w.mu.Unlock()
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	w.stop, w.stopped = stop, stopped
	w.mu.Unlock()
	listenInterrupt(ctx, w.dev, acr30Endpoint, w.take)
	stop()
	w.mu.Lock()
	w.stopped = nil
	w.mu.Unlock()
	close(stopped)
}

func (w *acr30USB) write(ctx context.Context, b []byte) error {
	return sendAll(ctx, w.dev, usb.Setup{RequestType: usb.VendorDeviceOut}, b, controlTimeout)
}

func (w *acr30USB) read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	n, err := w.dev.Interrupt(ctx, acr30Endpoint, buf[:acsPacket])
	if errors.Is(err, usb.ErrStall) {
		_ = w.dev.ClearHalt(acr30Endpoint)
	}
	return n, err
}

func (w *acr30USB) gone() <-chan struct{} { return w.dev.Gone() }

func (w *acr30USB) close() error {
	_ = w.begin() // for good
	return w.dev.Close()
}

func openPertoSmart1030(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	r, _, err := openACR30(dev, o)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// openACR30U is openPertoSmart1030 for a reader that has the name it gives itself.
func openACR30U(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	r, status, err := openACR30(dev, o)
	if err != nil {
		return nil, err
	}
	model := strings.TrimSpace(strings.Map(printable, string(status[:acsModelLen])))
	if model != "" {
		r.name = model
	}
	return r, nil
}

// printable drops what is no ASCII character.
func printable(c rune) rune {
	if c < ' ' || c > '~' {
		return -1
	}
	return c
}

func openACR30(dev usb.Device, o ifd.Options) (r *acsNotifier, status []byte, err error) {
	if err := dev.Claim(0, 0); err != nil {
		return nil, nil, err
	}
	ctx := context.Background()
	r = newACSNotifier(o.Name)
	w := &acr30USB{dev: dev}
	p := &acr30{acr30Wire: w, card: r.tell}
	r.port = p
	w.take = p.listen
	if err = r.open1030(ctx, acr30NewsOn); err == nil {
		status, err = r.status(ctx)
	}
	if err != nil {
		return nil, nil, err
	}
	r.tell(status[acsCardState] != 0)
	w.timer = time.AfterFunc(acr30Idle, w.listen)
	return r, status, nil
}
