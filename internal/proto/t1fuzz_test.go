package proto

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"
)

// hostile is a Link to a device that answers from a list of records, over and
// over. A record is a mode, a length, and as many bytes:
//
//	bit 0  the bytes are PCB and INF; LEN and LRC are put right
//	bit 1  with bit 0: N(S) is put right, too
//	bit 2  the answer is damaged: ErrCorrupted
//	bit 3  the answer is an error
type hostile struct {
	records []byte
	at      int
	seq     byte
	pending []byte
	err     error

	sends, useful int // blocks sent; answers that have data or ask for time
	stop          func()
}

// Answers that bring nothing end an exchange after so many blocks at most: an
// APDU of 40 bytes in blocks of 1, each repeated 3 times and interrupted by 8
// requests, begun anew 3 times; with much to spare.
const hostileLimit = 8000

func (h *hostile) Send(context.Context, []byte) error {
	h.sends++
	if h.sends > 2*hostileLimit {
		h.stop()
	}
	h.pending, h.err = nil, nil
	if len(h.records) < 2 {
		h.err = errLink
		return nil
	}
	if h.at+2 > len(h.records) {
		h.at = 0
	}
	mode, n := h.records[h.at], int(h.records[h.at+1])
	end := min(len(h.records), h.at+2+n)
	b := h.records[h.at+2 : end]
	h.at = end
	switch {
	case mode&8 != 0:
		h.err = errLink
	case mode&4 != 0:
		h.err = ErrCorrupted
	case mode&1 != 0 && len(b) > 0:
		pcb := b[0]
		if mode&2 != 0 && pcb&0x80 == 0 {
			pcb = pcb&^pcbISeq | h.seq*pcbISeq
			h.seq ^= 1
		}
		inf := b[1:min(len(b), 1+t1MaxInf)]
		if pcb == sWTX || pcb&0x80 == 0 && len(inf) > 0 {
			h.useful++
		}
		b = t1Plain.encode(make([]byte, t1MaxBlock), pcb, inf)
	}
	h.pending = b
	return nil
}

// Recv gives a block, or in stream mode pieces of it.
func (h *hostile) Recv(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	if h.err != nil {
		return 0, h.err
	}
	n := copy(buf, h.pending)
	h.pending = h.pending[n:]
	return n, nil
}

// Whatever the device does, the exchange ends and says how.
func FuzzT1(f *testing.F) {
	f.Add(false, []byte{1, 3, 0x00, 0x90, 0x00})
	f.Add(false, []byte{3, 1, 0x20})                                          // empty blocks
	f.Add(false, []byte{3, 3, 0x20, 1, 2})                                    // never ends
	f.Add(false, []byte{1, 2, 0xC3, 5, 3, 3, 0x00, 0x90, 0x00})               // asks for time
	f.Add(false, []byte{1, 2, 0xC1, 1, 1, 1, 0x90, 1, 1, 0x80, 1, 1, 0x81})   // changes IFSC
	f.Add(false, []byte{1, 1, 0xC2, 1, 1, 0x90})                              // aborts
	f.Add(false, []byte{0, 2, 0, 0, 4, 0, 1, 1, 0xE0})                        // short, damaged, resynchronised
	f.Add(false, []byte{0, 4, 0, 0, 0xFF, 0xFF, 0, 0, 1, 1, 0xE0})            // LEN FF
	f.Add(true, []byte{1, 3, 0x00, 0x90, 0x00})                               // a stream
	f.Add(true, []byte{0, 9, 0, 0, 2, 0x90, 0, 0x93, 1, 2, 3, 1, 1, 0xE0})    // framing lost
	f.Add(true, []byte{4, 0, 8, 0})                                           // parity error, then nothing
	f.Add(false, []byte{1, 1, 0xE0, 1, 2, 0xC3, 0, 1, 2, 0xC1, 255, 1, 1, 0}) // reserved values
	apdu := make([]byte, 40)
	f.Fuzz(func(t *testing.T, stream bool, records []byte) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		link := &hostile{records: records, stop: cancel}
		e := NewT1(link, T1Params{IFSD: 254, Stream: stream})
		for range 3 {
			link.sends, link.useful = 0, 0
			resp, err := e.Transmit(ctx, apdu, nil)
			// Two answers that bring nothing may come before each that does.
			if link.sends-3*link.useful > hostileLimit {
				t.Fatalf("%d blocks sent, %d answers of use", link.sends, link.useful)
			}
			if err == nil && (len(resp) < 2 || len(resp) > MaxResponse) || err != nil && resp != nil {
				t.Fatalf("response of %d bytes, error %v", len(resp), err)
			}
			if errors.Is(err, ErrResetRequired) != (e.lost != nil) {
				t.Fatalf("session lost: %v, error %v", e.lost, err)
			}
		}
		_ = e.NegotiateIFSD(ctx, 254)
		if err := e.Resynchronise(ctx); (err == nil) != (e.lost == nil) && ctx.Err() == nil {
			t.Fatalf("session lost: %v, error %v", e.lost, err)
		}
	})
}

// With a card that keeps to the standard and a line that damages no more
// blocks than the budgets allow, every APDU gets its exact response.
func FuzzT1RoundTrip(f *testing.F) {
	f.Add([]byte(""), uint16(0), byte(32), byte(32), byte(0), byte(0))
	f.Add([]byte("\x00"), uint16(1000), byte(32), byte(32), byte(0), byte(3))
	f.Add([]byte("\x00\x00\x00\x00\x00"), uint16(300), byte(1), byte(1), byte(7), byte(1))
	f.Add([]byte("\x01\x01\x01\x01\x01"), uint16(70), byte(10), byte(20), byte(200), byte(2))
	f.Add([]byte("\x00\x02\x00\x02\x00"), uint16(200), byte(254), byte(254), byte(0), byte(0))
	f.Add([]byte("\x03\x00\x00\x05\x00"), uint16(65535), byte(254), byte(254), byte(32), byte(1))
	f.Fuzz(func(t *testing.T, faults []byte, length uint16, ifsc, ifsd, newIFSC, wtx byte) {
		card := &cardT1{
			ifsd: ifs(int(ifsd), 32),
			ifsc: int(newIFSC) % 255,
			wtx:  int(wtx % 8),
			answer: func(apdu []byte) []byte {
				r := bytes.Repeat(append(apdu[:len(apdu):len(apdu)], 0xA5), 3)
				return append(r, 0x90, 0x00)
			},
		}
		e := NewT1(card, T1Params{IFSC: int(ifsc), IFSD: int(ifsd)})
		apdu := make([]byte, 4+int(length)/4)
		for i := range apdu {
			apdu[i] = byte(i * 7)
		}
		var resp []byte
		for i := range 3 {
			// Two damaged blocks can be enough for a resynchronisation: a
			// request of the card and the host's complaint about it. Two more
			// spoil two of the three attempts at that.
			card.faults, card.left = bytes.Clone(faults), 4
			card.command = nil
			got, err := e.Transmit(context.Background(), apdu, resp)
			if err != nil {
				t.Fatalf("APDU %d: %v", i+1, err)
			}
			if want := card.answer(apdu); !bytes.Equal(got, want) {
				t.Fatalf("APDU %d: response of %d bytes differs from the %d sent", i+1, len(got), len(want))
			}
			resp = got
		}
	})
}
