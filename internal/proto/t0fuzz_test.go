package proto

import (
	"context"
	"errors"
	"testing"
	"time"
)

// hostileT0 is a Link to a device that sends what it likes, over and over.
type hostileT0 struct {
	stream bool
	bytes  []byte
	at     int
	recvs  int
}

func (h *hostileT0) Send(context.Context, []byte) error { return nil }

func (h *hostileT0) Recv(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	h.recvs++
	if len(h.bytes) == 0 {
		return 0, errLink
	}
	n := len(buf)
	if !h.stream { // the next byte says how many follow
		n = min(n, int(h.next())*2)
	}
	for i := range buf[:n] {
		buf[i] = h.next()
	}
	return n, nil
}

func (h *hostileT0) next() byte {
	b := h.bytes[h.at%len(h.bytes)]
	h.at++
	return b
}

// Whatever the device sends, the exchange ends: after as many NULLs as are
// allowed, or one reception for each byte of data, in each of the TPDUs. An
// extended response of 64 KiB takes the most.
const hostileT0Limit = 3*(t0MaxNULL+10) + 4*65536

func FuzzT0(f *testing.F) {
	f.Add(true, []byte{0x00, 0xB0, 0, 0, 4}, []byte{0xB0, 1, 2, 3, 4, 0x90, 0})
	f.Add(true, []byte{0x00, 0xA4, 0, 0, 2, 0x3F, 0, 0}, []byte{0xA4, 0x61, 4, 0xC0, 1, 2, 3, 4, 0x90, 0})
	f.Add(true, []byte{0x00, 0xB0, 0, 0, 0, 0, 0}, []byte{0x61, 0, 0xC0})
	f.Add(true, []byte{0x00, 0xB0, 0, 0, 0, 0, 0}, []byte{0x61, 1, 0x3F, 7})
	f.Add(true, []byte{0x00, 0xB0, 0, 0, 4}, []byte{0x60})
	f.Add(true, []byte{0x00, 0xB0, 0, 0, 4}, []byte{0x6C})
	f.Add(true, []byte{0x00, 0x44, 0, 0}, []byte{0x44})
	f.Add(false, []byte{0x00, 0xA4, 0, 0, 2, 0x3F, 0, 0}, []byte{1, 0x61, 4, 3, 1, 2, 3, 4, 0x90, 0})
	f.Add(false, []byte{0x00, 0xB0, 0, 0, 0, 0, 0}, []byte{2, 1, 1, 0x61, 0})
	f.Add(false, []byte{0x00, 0xB0, 0, 0, 4}, []byte{0})
	f.Fuzz(func(t *testing.T, stream bool, apdu, device []byte) {
		link := &hostileT0{stream: stream, bytes: device}
		e := NewT0(link, T0Params{Stream: stream})
		for range 2 {
			resp, err := e.Transmit(context.Background(), apdu, nil)
			if err == nil && (len(resp) < 2 || len(resp) > MaxResponse) || err != nil && resp != nil {
				t.Fatalf("response of %d bytes, error %v", len(resp), err)
			}
			if errors.Is(err, ErrResetRequired) != (e.lost != nil) {
				t.Fatalf("session lost: %v, error %v", e.lost, err)
			}
			if errors.Is(err, ErrInvalidAPDU) && link.recvs > 0 && e.lost == nil {
				t.Fatal("an invalid command reached the device")
			}
		}
		if link.recvs > 2*hostileT0Limit {
			t.Fatalf("%d receptions", link.recvs)
		}
	})
}
