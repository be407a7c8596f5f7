package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"openct/internal/proto"
)

// Commands. All are SELECT and GET DATA (ISO/IEC 7816-4, 7.1.1 and 7.4.2): a card
// that does not know the file or the object says so, and nothing in it changes.
var (
	selectMF = []byte{0x00, 0xA4, 0x00, 0x00, 0x02, 0x3F, 0x00}

	// The PIV application and two of its objects that need no PIN: the CHUID and
	// the certificate of key 9A, the longest (NIST SP 800-73-4, part 1, 2.2 and table 3).
	pivAID      = []byte{0xA0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00}
	chuid       = []byte{0x5C, 0x03, 0x5F, 0xC1, 0x02}
	certificate = []byte{0x5C, 0x03, 0x5F, 0xC1, 0x05}
)

// command is one of the checks that are a command to the card.
type command struct {
	name string
	what string
	apdu []byte
}

func short(header [4]byte, data []byte, le bool) []byte {
	b := append(header[:], byte(len(data)))
	b = append(b, data...)
	if le {
		b = append(b, 0)
	}
	return b
}

func extended(header [4]byte, data []byte, le bool) []byte {
	b := append(header[:], 0, byte(len(data)>>8), byte(len(data)))
	b = append(b, data...)
	if le {
		b = append(b, 0, 0)
	}
	return b
}

var (
	selectName  = [4]byte{0x00, 0xA4, 0x04, 0x00}
	selectChain = [4]byte{0x10, 0xA4, 0x04, 0x00} // not the last command (ISO/IEC 7816-4, 5.1.1)
	getData     = [4]byte{0x00, 0xCB, 0x3F, 0xFF}
)

// commands are the commands in their order.
func commands() []command {
	return []command{
		{"short", "SELECT of the master file", selectMF},
		{"short, again", "SELECT of the master file again", selectMF},
		{"application", "SELECT of the PIV application", short(selectName, pivAID, true)},
		{"data", "GET DATA of a short object", short(getData, chuid, true)},
		{"long answer", "GET DATA of a long object", short(getData, certificate, true)},
		{"long answer, again", "GET DATA of the long object again", short(getData, certificate, true)},
		{"long command", "SELECT of an application name of 255 bytes, which no card has", short(selectName, make([]byte, 255), false)},
		{"extended", "SELECT with extended lengths", extended(selectName, pivAID, true)},
		{"extended answer", "GET DATA with extended lengths", extended(getData, certificate, true)},
		{"extended command", "SELECT of an application name of 512 bytes, which no card has", extended(selectName, make([]byte, 512), false)},
		{"chain, first", "SELECT in a chain of two commands, the first", short(selectChain, pivAID[:5], false)},
		{"chain, second", "SELECT in a chain of two commands, the second", short(selectName, pivAID[5:], true)},
	}
}

func (r *runner) transmit(ctx context.Context, apdu []byte) (Step, []byte, error) {
	var resp []byte
	s, err := r.step(ctx, Step{Do: Transmit, Command: apdu}, func(ctx context.Context) (_ string, err error) {
		resp, err = r.engine.Transmit(ctx, apdu, nil)
		return ResponseText(resp), err
	})
	return s, resp, err
}

// maxMore is how many times more data are fetched for one answer.
const maxMore = 64

// transact is transmit, and GET RESPONSE for as long as the card says that more is
// there (ISO/IEC 7816-4, 5.3.4, SW1 61).
func (r *runner) transact(ctx context.Context, apdu []byte) (resp []byte, took time.Duration, transfers int, err error) {
	for range maxMore {
		s, part, err := r.transmit(ctx, apdu)
		took += s.Took
		transfers += len(s.USB) + len(s.Serial)
		if err != nil {
			return nil, took, transfers, err
		}
		n := len(part)
		if n < 2 {
			return part, took, transfers, nil
		}
		resp = append(resp, part[:n-2]...)
		if part[n-2] != 0x61 {
			return append(resp, part[n-2:]...), took, transfers, nil
		}
		apdu = []byte{0x00, 0xC0, 0x00, 0x00, part[n-1]}
	}
	return nil, took, transfers, proto.ErrTooLong
}

func (r *runner) commands(ctx context.Context) {
	limits := proto.LimitsOf(r.slot).Min(proto.LimitsOf(r.engine))
	last := map[string][]byte{} // by command
	for i, c := range commands() {
		r.progress("command %d of %d: %s", i+1, len(commands()), c.what)
		if len(c.apdu) > limits.Command || strings.HasPrefix(c.name, "extended") && limits.Command <= proto.ShortAPDU.Command {
			r.verdict(OK, c.name, "not sent: the reader accepts commands of at most %d bytes", limits.Command)
			continue
		}
		if r.broken {
			if _, err := r.reset(ctx); err == nil {
				err = r.choose(ctx, proto.Default)
				if err != nil {
					r.verdict(Wrong, c.name, "not sent: after the failure before, the card was reset, but its protocol cannot be chosen: %s", kindOf(err))
					return
				}
			} else {
				r.verdict(Wrong, c.name, "not sent: after the failure before, the card cannot be reset: %s", kindOf(err))
				return
			}
		}
		resp, took, transfers, err := r.transact(ctx, c.apdu)
		times := fmt.Sprintf("%d ms, %d transfers", took.Milliseconds(), transfers)
		key := string(c.apdu)
		before, again := last[key]
		switch {
		case errors.Is(err, proto.ErrInvalidAPDU):
			r.verdict(OK, c.name, "%s: the reader does not support such commands", c.what)
		case err != nil:
			r.broken = true
			r.verdict(Wrong, c.name, "%s: %s; %s", c.what, kindOf(err), times)
			if r.gone(ctx) {
				return
			}
		case len(resp) < 2 || !isStatus(resp[len(resp)-2]):
			r.verdict(Wrong, c.name, "%s: %s; %s", c.what, ResponseText(resp), times)
		case again && !bytes.Equal(before, resp):
			r.verdict(Wrong, c.name, "%s: the answer differs from the first one; %s", c.what, times)
		case took > slowCommand:
			r.verdict(Odd, c.name, "%s: %s; slow: %s", c.what, ResponseText(resp), times)
		default:
			r.verdict(OK, c.name, "%s: %s; %s", c.what, ResponseText(resp), times)
		}
		if err == nil {
			last[key] = resp
		}
	}
}
