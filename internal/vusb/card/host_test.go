package card_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"openct/internal/proto"
	"openct/internal/vusb/card"
)

// These tests let the host's side of the protocols meet the card's. The two
// were written apart from each other.

// errSilence is a card that does not answer in time.
var errSilence = errors.New("nothing came")

// blocks is a proto.Link to a card that takes and gives whole blocks.
type blocks struct {
	exchange func([]byte) []byte
	out      []byte
}

func (l *blocks) Send(_ context.Context, b []byte) error {
	l.out = l.exchange(b)
	return nil
}

func (l *blocks) Recv(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	if l.out == nil {
		return 0, errSilence
	}
	n := copy(buf, l.out)
	l.out = nil
	return n, nil
}

// stream is a proto.Link to a card that takes and gives bytes.
type stream struct {
	exchange func([]byte) []byte
	out      []byte
}

func (l *stream) Send(_ context.Context, b []byte) error {
	l.out = append(l.out, l.exchange(b)...)
	return nil
}

func (l *stream) Recv(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	if len(l.out) < len(buf) {
		return 0, errSilence
	}
	n := copy(buf, l.out)
	l.out = l.out[n:]
	return n, nil
}

// noisy makes a T=1 card whose line spoils about one block in n either way.
func noisy(c *card.T1, n int) *card.T1 {
	r := rand.New(rand.NewPCG(1, 2))
	spoil := func(_ int, b []byte) []byte {
		if len(b) > 0 && r.IntN(n) == 0 {
			b[r.IntN(len(b))] ^= byte(1 + r.IntN(255))
		}
		return b
	}
	c.Mangle, c.MangleIn = spoil, spoil
	return c
}

func TestHostMeetsCard(t *testing.T) {
	t1 := func(c *card.T1, p proto.T1Params) proto.Engine {
		c.Reset()
		return proto.NewT1(&blocks{exchange: c.Block}, p)
	}
	t0 := func(inner card.Card, change func(*card.T0)) *card.T0 {
		c := card.NewT0(inner)
		if change != nil {
			change(c)
		}
		c.Reset()
		return c
	}
	tests := []struct {
		name string
		link func(card.Card) proto.Engine
	}{
		{"T=1", func(c card.Card) proto.Engine {
			return t1(card.NewT1(c, card.T1Options{MaxINF: 32}), proto.T1Params{})
		}},
		{"T=1, long blocks", func(c card.Card) proto.Engine {
			return t1(card.NewT1(c, card.T1Options{}), proto.T1Params{IFSC: 254})
		}},
		{"T=1, CRC", func(c card.Card) proto.Engine {
			return t1(card.NewT1(c, card.T1Options{CRC: true}), proto.T1Params{CRC: true})
		}},
		{"T=1, slow card", func(c card.Card) proto.Engine {
			return t1(card.NewT1(c, card.T1Options{WTX: 3}), proto.T1Params{})
		}},
		{"T=1, bad line", func(c card.Card) proto.Engine {
			return t1(noisy(card.NewT1(c, card.T1Options{MaxINF: 32}), 40), proto.T1Params{})
		}},
		{"T=0, blocks", func(c card.Card) proto.Engine {
			return proto.NewT0(&blocks{exchange: t0(c, nil).TPDU}, proto.T0Params{})
		}},
		{"T=0, stream", func(c card.Card) proto.Engine {
			return proto.NewT0(&stream{exchange: t0(c, nil).Stream}, proto.T0Params{Stream: true})
		}},
		{"T=0, stream, one byte at a time and NULLs", func(c card.Card) proto.Engine {
			slow := t0(c, func(c *card.T0) { c.NULLs, c.SingleByte = 3, true })
			return proto.NewT0(&stream{exchange: slow.Stream}, proto.T0Params{Stream: true})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := tt.link(card.NewEcho())
			for _, n := range []int{0, 1, 30, 31, 32, 33, 253, 254, 255, 256} {
				for _, lc := range []int{0, 1, 27, 28, 255} {
					apdu := []byte{0x00, 0xEE, byte(n >> 8), byte(n)}
					if lc > 0 {
						apdu[1] = 0xD6 // in T=0 the card must know that there is data
						apdu = append(append(apdu, byte(lc)), make([]byte, lc)...)
					}
					if n > 0 {
						apdu = append(apdu, byte(n))
					}
					want := make([]byte, n, n+2)
					for i := range want {
						want[i] = byte(i)
					}
					want = append(want, 0x90, 0x00)
					got, err := e.Transmit(t.Context(), apdu, nil)
					if err != nil || !bytes.Equal(got, want) {
						t.Fatalf("%d bytes to the card, %d wanted: got %d, %v", lc, n, len(got), err)
					}
				}
			}
			readPIV(t, tt.link)
		})
	}
}

// readPIV reads a PIV card's smallest certificate.
func readPIV(t *testing.T, link func(card.Card) proto.Engine) {
	t.Helper()
	p, err := card.NewPIV(card.PIVOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e := link(p)
	apdu := slices.Concat([]byte{0x00, 0xA4, 0x04, 0x00, 0x05}, []byte{0xA0, 0x00, 0x00, 0x03, 0x08}, []byte{0x00})
	resp, err := e.Transmit(t.Context(), apdu, nil)
	if err != nil || !bytes.HasSuffix(resp, []byte{0x90, 0x00}) {
		t.Fatalf("SELECT: % X, %v", resp, err)
	}
	var object []byte
	apdu = []byte{0x00, 0xCB, 0x3F, 0xFF, 0x05, 0x5C, 0x03, 0x5F, 0xC1, 0x01, 0x00}
	for {
		resp, err = e.Transmit(t.Context(), apdu, resp)
		if err != nil || len(resp) < 2 {
			t.Fatalf("GET DATA: % X, %v", resp, err)
		}
		n := len(resp) - 2
		object = append(object, resp[:n]...)
		if resp[n] != 0x61 {
			break
		}
		apdu = []byte{0x00, 0xC0, 0x00, 0x00, resp[n+1]}
	}
	if end := resp[len(resp)-2:]; !bytes.Equal(end, []byte{0x90, 0x00}) {
		t.Fatalf("the last part ends with % X", end)
	}
	if len(object) < 4 || object[0] != 0x53 || object[1] != 0x82 || len(object) != 4+int(object[2])<<8+int(object[3]) {
		t.Errorf("object of %d bytes: % X...", len(object), object[:min(8, len(object))])
	}
}
