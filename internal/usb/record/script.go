package record

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"openct/internal/usb"
)

// Kind is which method of usb.Device an operation is.
type Kind uint8

// The operations of a script.
const (
	Control Kind = iota
	Bulk
	Interrupt
	Claim
	Release
	ClearHalt
)

// AnyTimeout in IO.Timeout leaves the timeout unchecked.
const AnyTimeout time.Duration = -1

// defaultTimeout is what "T d" stands for.
const defaultTimeout = 10 * time.Second

// maxLen bounds a transfer of a script, so that a typing error is an error
// and not a gigabyte.
const maxLen = 1 << 20

// IO is one operation: what the driver asks for and what it gets.
type IO struct {
	Kind       Kind
	Setup      usb.Setup // control
	Endpoint   uint8     // bulk, interrupt, clear halt
	Iface, Alt uint8     // claim, release

	W       []byte        // data to the device
	Len     int           // IN: bytes asked for
	R       []byte        // IN: bytes that came
	Timeout time.Duration // control, bulk; AnyTimeout: not checked
	Err     error         // one of usb's sentinels, or nil
}

// In reports whether the operation reads.
func (io *IO) In() bool {
	switch io.Kind {
	case Control:
		return io.Setup.In()
	case Bulk, Interrupt:
		return io.Endpoint&0x80 != 0
	}
	return false
}

// failures are the words for errors, in the order they are looked up.
var failures = []struct {
	word string
	err  error
}{
	{"STALL", usb.ErrStall},
	{"TIMEOUT", usb.ErrTimeout},
	{"UNPLUG", usb.ErrUnplugged},
	{"OVERFLOW", usb.ErrOverflow},
	{"BUSY", usb.ErrBusy},
	{"IO", usb.ErrIO},
}

func failureOf(word string) (error, bool) {
	for _, f := range failures {
		if f.word == word {
			return f.err, true
		}
	}
	return nil, false
}

// String returns the operation as a line of a script. An error that has no
// word is written as IO.
func (io IO) String() string {
	var b strings.Builder
	switch io.Kind {
	case Control:
		dir := "OUT"
		if io.In() {
			dir = "IN "
		}
		fmt.Fprintf(&b, "%s %02X %02X %04X %04X", dir,
			io.Setup.RequestType, io.Setup.Request, io.Setup.Value, io.Setup.Index)
	case Bulk:
		fmt.Fprintf(&b, "BULK %02X", io.Endpoint)
	case Interrupt:
		fmt.Fprintf(&b, "INT %02X", io.Endpoint)
	case Claim:
		fmt.Fprintf(&b, "CLAIM %d %d", io.Iface, io.Alt)
	case Release:
		fmt.Fprintf(&b, "RELEASE %d", io.Iface)
	case ClearHalt:
		fmt.Fprintf(&b, "HALT %02X", io.Endpoint)
	}
	if io.Kind <= Interrupt {
		if io.In() {
			fmt.Fprintf(&b, " len %d", io.Len)
		} else {
			fmt.Fprintf(&b, " [% X]", io.W)
		}
		if io.Kind != Interrupt && io.Timeout != AnyTimeout {
			fmt.Fprintf(&b, " T %d", io.Timeout.Milliseconds())
		}
	}
	if len(io.R) > 0 {
		fmt.Fprintf(&b, " % X", io.R)
	}
	if io.Err != nil {
		b.WriteString(" " + failureWord(io.Err))
	}
	return b.String()
}

func failureWord(err error) string {
	for _, f := range failures {
		if errors.Is(err, f.err) {
			return f.word
		}
	}
	return "IO"
}

// ParseScript reads a script; its errors name the line.
func ParseScript(script string) ([]IO, error) {
	var ops []IO
	for i, line := range strings.Split(script, "\n") {
		line, _, _ = strings.Cut(line, "#")
		line = strings.NewReplacer("[", " [ ", "]", " ] ").Replace(line)
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		p := lineParser{words: words}
		op := p.operation()
		if p.err == nil && len(p.words) > 0 {
			p.fail("%q is left over", strings.Join(p.words, " "))
		}
		if p.err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, p.err)
		}
		ops = append(ops, op)
	}
	return ops, nil
}

// lineParser takes the words of one line from the left; after the first error
// it returns zeros.
type lineParser struct {
	words []string
	err   error
}

func (p *lineParser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

func (p *lineParser) next() string {
	if len(p.words) == 0 {
		p.fail("line ends too early")
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *lineParser) skip(word string) bool {
	if len(p.words) == 0 || p.words[0] != word {
		return false
	}
	p.words = p.words[1:]
	return true
}

func (p *lineParser) number(base, bits int) uint64 {
	w := p.next()
	n, err := strconv.ParseUint(w, base, bits)
	if err != nil {
		p.fail("%q is not a number of %d bits", w, bits)
	}
	return n
}

func (p *lineParser) operation() IO {
	op := IO{Timeout: AnyTimeout}
	switch word := p.next(); word {
	case "IN", "OUT":
		op.Setup = usb.Setup{
			RequestType: uint8(p.number(16, 8)),
			Request:     uint8(p.number(16, 8)),
			Value:       uint16(p.number(16, 16)),
			Index:       uint16(p.number(16, 16)),
		}
		if op.Setup.In() != (word == "IN") {
			p.fail("request type %02X is not %s", op.Setup.RequestType, word)
		}
	case "BULK", "INT":
		op.Kind = Bulk
		if word == "INT" {
			op.Kind = Interrupt
		}
		op.Endpoint = uint8(p.number(16, 8))
		if op.Kind == Interrupt && !op.In() {
			p.fail("endpoint %02X does not read", op.Endpoint)
		}
	case "CLAIM":
		op.Kind = Claim
		op.Iface, op.Alt = uint8(p.number(10, 8)), uint8(p.number(10, 8))
	case "RELEASE":
		op.Kind = Release
		op.Iface = uint8(p.number(10, 8))
	case "HALT":
		op.Kind = ClearHalt
		op.Endpoint = uint8(p.number(16, 8))
	default:
		p.fail("unknown operation %q", word)
	}
	if op.Kind <= Interrupt {
		p.transfer(&op)
	}
	if len(p.words) > 0 {
		if err, ok := failureOf(p.words[0]); ok {
			op.Err = err
			p.words = p.words[1:]
		}
	}
	return op
}

// transfer reads "len 25" or "[data]", then the timeout, then what comes in.
func (p *lineParser) transfer(op *IO) {
	if !op.In() {
		if !p.skip("[") {
			p.fail("the data of an OUT stands in [ ]")
		}
		op.W = p.bytes()
		if !p.skip("]") {
			p.fail("] is missing")
		}
	} else {
		if !p.skip("len") {
			p.fail("an IN needs its len")
		}
		op.Len = int(p.number(10, 31))
		if op.Len > maxLen {
			p.fail("len %d is more than %d", op.Len, maxLen)
		}
	}
	if op.Kind != Interrupt && p.skip("T") {
		if p.skip("d") {
			op.Timeout = defaultTimeout
		} else {
			op.Timeout = time.Duration(p.number(10, 31)) * time.Millisecond
		}
	}
	if op.In() {
		op.R = p.bytes()
		if len(op.R) > op.Len {
			p.fail("%d bytes come in, but len is %d", len(op.R), op.Len)
		}
	}
}

// bytes reads hex bytes up to the first word that is none. "00*12" repeats.
func (p *lineParser) bytes() []byte {
	var data []byte
	for len(p.words) > 0 {
		hex, times, repeated := strings.Cut(p.words[0], "*")
		b, err := strconv.ParseUint(hex, 16, 8)
		if err != nil || len(hex) != 2 {
			break
		}
		n := 1
		if repeated {
			if n, err = strconv.Atoi(times); err != nil || n < 1 || n > maxLen {
				break
			}
		}
		if len(data)+n > maxLen {
			p.fail("more than %d bytes", maxLen)
			return nil
		}
		for range n {
			data = append(data, byte(b))
		}
		p.words = p.words[1:]
	}
	return data
}
