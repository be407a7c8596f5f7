//go:build go1.25

package driver

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
	"openct/internal/usb/record"
)

// hostile is a device whose answers are a fuzzer's bytes. Each transfer takes
// one byte that says how it ends, and one that comes in a length and so many
// more. After the last of them the device repeats its last answer for a
// thousand times, and then it is pulled.
type hostile struct {
	data []byte
	last []byte
	left int // repetitions

	transfers int
	gone      chan struct{}
	pulled    bool
}

const (
	hostileRepeats = 1000

	// A T=1 card may have an hour of waiting granted, second by second; a
	// busy token is looked at every 10 ms for three minutes.
	maxTransfers = 40000
)

var errsOfHostile = []error{usb.ErrStall, usb.ErrTimeout, usb.ErrIO, usb.ErrOverflow, usb.ErrUnplugged}

func (h *hostile) next() (byte, bool) {
	if len(h.data) == 0 {
		return 0, false
	}
	b := h.data[0]
	h.data = h.data[1:]
	return b, true
}

// transfer fills in, if it is one that reads, or counts what it takes of out.
func (h *hostile) transfer(in, out []byte, timeout time.Duration) (int, error) {
	if h.transfers++; h.transfers > maxTransfers {
		panic("transfers without end")
	}
	if h.pulled {
		return 0, usb.Wrap("transfer", "fuzz", usb.ErrUnplugged)
	}
	how, more := h.next()
	if !more {
		if h.left--; h.left < 0 {
			return 0, h.fail(usb.ErrUnplugged, 0)
		}
		if in == nil {
			return len(out), nil
		}
		return copy(in, h.last), nil
	}
	if int(how) < len(errsOfHostile) {
		return 0, h.fail(errsOfHostile[how], timeout)
	}
	if in == nil {
		if how == 0xFE {
			return len(out) / 2, nil
		}
		return len(out), nil
	}
	n, _ := h.next()
	m := min(int(n), len(h.data))
	h.last, h.data = h.data[:m], h.data[m:]
	return copy(in, h.last), nil
}

func (h *hostile) fail(err error, timeout time.Duration) error {
	switch {
	case errors.Is(err, usb.ErrTimeout):
		time.Sleep(timeout)
	case errors.Is(err, usb.ErrUnplugged) && !h.pulled:
		h.pulled = true
		close(h.gone)
	}
	return usb.Wrap("transfer", "fuzz", err)
}

func (h *hostile) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	if s.In() {
		return h.transfer(data, nil, timeout)
	}
	return h.transfer(nil, data, timeout)
}

func (h *hostile) Bulk(ctx context.Context, ep uint8, data []byte, timeout time.Duration) (int, error) {
	return h.Control(ctx, usb.Setup{RequestType: ep & 0x80}, data, timeout)
}

func (h *hostile) Interrupt(ctx context.Context, _ uint8, buf []byte) (int, error) {
	if _, limited := ctx.Deadline(); !limited {
		<-ctx.Done() // who only listens hears nothing
	}
	if ctx.Err() != nil {
		return 0, usb.Wrap("interrupt", "fuzz", usb.ErrTimeout)
	}
	return h.transfer(buf, nil, time.Minute)
}

func (h *hostile) Descriptor() *usb.Descriptor { return &usb.Descriptor{} }
func (h *hostile) Claim(uint8, uint8) error    { return nil }
func (h *hostile) Release(uint8) error         { return nil }
func (h *hostile) ClearHalt(uint8) error       { return nil }
func (h *hostile) Gone() <-chan struct{}       { return h.gone }
func (h *hostile) Close() error                { return nil }

// wellBehaved is the bytes with which a hostile device plays a script.
func wellBehaved(f *testing.F, script string) []byte {
	ops, err := record.ParseScript(script)
	if err != nil {
		f.Fatal(err)
	}
	var b []byte
	for _, op := range ops {
		switch {
		case op.Kind == record.Claim:
		case op.Err != nil:
			b = append(b, 1) // a timeout
		case op.Len > 0:
			b = append(append(b, 0x10, byte(min(len(op.R), 0xFF))), op.R[:min(len(op.R), 0xFF)]...)
		default:
			b = append(b, 0x10)
		}
	}
	return b
}

// FuzzDriver gives every small driver a hostile device: a reset, two commands,
// and all that again. It may fail as it likes, if it comes to an end.
func FuzzDriver(f *testing.F) {
	var small []Entry
	for _, e := range Table() {
		if e.Class == nil && e.Open != nil {
			small = append(small, e)
		}
	}
	seed := func(name, script string) {
		for i, e := range small {
			if e.Name == name {
				f.Add(uint8(i), wellBehaved(f, script))
			}
		}
	}
	block := "\nOUT 40 06 0000 0000 []\nIN C0 86 0000 0000 len 37 00 00 02 90 00 92\nOUT 40 06 0000 0000 []\nIN C0 86 0000 0000 len 37 00 40 02 90 00 D2"
	interfaceBlock := strings.NewReplacer("OUT 40 06", "OUT 41 17", "IN C0 86", "IN C1 01").Replace(block)
	seed("etoken64", recordedEToken64Reset+block)
	seed("etoken", recordedETokenReset+block)
	seed("ikey2k", iKey2kResetScript+interfaceBlock)
	seed("ikey3k", iKey3kResetScript+interfaceBlock)
	seed("ePass3000", ePassResetScript+"\nBULK 02 []\nBULK 81 len 64 52 36 00 00 00 02 61 1C\nBULK 02 []\nBULK 81 len 64 52 36 00 00 00 02 90 00")
	seed("egate", eGateResetScript+strings.Repeat("\nIN C0 A0 0000 0000 len 1 00\nOUT 40 80 0000 0000 []\nIN C0 A0 0000 0000 len 1 10\nOUT 40 82 0000 0000 []\nIN C0 A0 0000 0000 len 1 20\nIN C0 81 0000 0000 len 2 90 00", 2))
	seed("eutron", eutronResetScript+"\nIN C2 02 0000 0000 len 7 FF 01 FE"+eutronReadyScript)
	seed("starkey", starKeyResetScript+block)
	seed("rutoken", rutokenResetScript+"\n"+native("00 D6 00 00 02", ">01 02", ok)+native("00 B0 00 00 04", "<4 01 02 03 04", ok))
	seed("cardman", cardManResetScript+"\nOUT 42 02 0000 0000 []\nINT 81 len 8 90 00\nOUT 42 02 0000 0000 []"+strings.Repeat("\nINT 81 len 8 00*8", 32)+"\nINT 81 len 8 90 00")
	for _, name := range []string{"pertosmart1030", "acr30u"} {
		seed(name, acr30Script("9000", "9000", acr30Status, "", "9000", "9000", "90013bd218008131fe58c90114", "9000000002900092", "9000004002900092"))
		seed(name, acr30Script("9000", "9000", acr30Status, "", "9000", "9000", "90003b021450", "90009000", "600200"))
	}
	seed("pertosmart1038", acr38Script("", acr38Status, "-", "", "", "3bd218008131fe58c90114", "000002900092", "004002900092"))
	seed("cyberjack", cyberSeed(cyberUp+cyberIsIn+cyberATR+cyberAPDUTo("00d60000020102")+cyberFrom("9000")+cyberAPDUTo("00b0000000")+cyberFrom("9000")))
	for i := range small {
		f.Add(uint8(i), []byte{0x10, 1, 0x40}) // busy for ever
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		e := small[int(which)%len(small)]
		synctest.Test(t, func(t *testing.T) {
			h := &hostile{data: data, left: hostileRepeats, gone: make(chan struct{})}
			r, err := e.Open(h, ifd.Options{})
			if err != nil {
				return // a reader is asked when it is opened
			}
			defer r.Close()
			slot := r.Slots()[0]
			for range 2 {
				h.transfers = 0
				raw, err := slot.Reset(context.Background())
				if err != nil {
					continue
				}
				if len(raw) == 0 || len(raw) > 64 {
					t.Fatalf("ATR of %d bytes", len(raw))
				}
				a, _ := atr.Parse(raw)
				engine, err := slot.Protocol(context.Background(), proto.Default, a)
				if err != nil {
					continue
				}
				for _, apdu := range [][]byte{{0, 0xD6, 0, 0, 2, 1, 2}, {0, 0xB0, 0, 0, 0}} {
					h.transfers = 0
					resp, err := engine.Transmit(context.Background(), apdu, nil)
					if err == nil && (len(resp) < 2 || len(resp) > proto.MaxResponse) {
						t.Fatalf("response of %d bytes", len(resp))
					}
				}
			}
		})
	})
}
