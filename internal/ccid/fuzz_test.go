package ccid

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"time"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
	"openct/internal/usb"
)

// FuzzClassDescriptor: whatever an interface shows, it is refused or becomes
// a plan that holds together.
func FuzzClassDescriptor(f *testing.F) {
	f.Add(fromHex(readerP1), byte(0x0B), byte(3))
	f.Add(fromHex("09 21 11 01 00 01 22 3F 00"+readerP1), byte(0xFF), byte(2))
	f.Add(fromHex("01"), byte(0x0B), byte(3))
	for _, r := range records(f)[:40] {
		f.Add(r.descriptor(f).Interfaces[0].Extra, byte(0x0B), byte(3))
	}
	f.Fuzz(func(t *testing.T, extra []byte, class, endpoints byte) {
		eps := []usb.Endpoint{{Address: 0x81, Type: 2, MaxPacket: uint16(endpoints) * 8}, {Address: 0x02, Type: 2, MaxPacket: 64}, {Address: 0x83, Type: 3, MaxPacket: 8}}
		d := &usb.Descriptor{Vendor: 0xFFF0, Interfaces: []usb.Interface{{
			Class: class, Extra: extra, Endpoints: eps[:int(endpoints)%4],
		}}}
		plans, err := decideAll(d)
		if err != nil {
			wantIs(t, err, ifd.ErrIncompatible)
			return
		}
		p := plans[0]
		switch {
		case p.Slots < 1 || p.Slots > maxUsableSlots, p.Busy < 1 || p.Busy > p.Slots:
			t.Errorf("%d slots, %d at a time", p.Slots, p.Busy)
		case p.MaxMessage < minMessage || p.MaxMessage > messageLimit:
			t.Errorf("messages of %d", p.MaxMessage)
		case p.IFSD < 1 || p.IFSD > maxIFSD || p.IFSD+blockOverhead+headerSize > p.MaxMessage:
			t.Errorf("IFSD %d in messages of %d", p.IFSD, p.MaxMessage)
		case !p.T0 && !p.T1, len(p.Voltages) == 0, p.String() == "":
			t.Errorf("%+v", p)
		}
		for _, ta1 := range sampleTA1 {
			a := atrWith(t, ta1)
			sp, err := p.chooseSpeed(a, nil)
			if err != nil {
				t.Error(err)
			}
			if w := p.cardWait(a, 1, sp.fidi); w < minCardWait || w > maxCardWait {
				t.Errorf("waits %v", w)
			}
		}
	})
}

// FuzzInterrupt: whatever comes over the interrupt endpoint, no slot is
// reported that is not there or whose bits did not arrive.
func FuzzInterrupt(f *testing.F) {
	for _, s := range []string{"50 03", "50 02", "50", "51 00 07 01", "40 FF", "", "50 FF FF FF FF FF FF FF"} {
		f.Add(fromHex(s), 1)
		f.Add(fromHex(s), 8)
	}
	f.Fuzz(func(t *testing.T, b []byte, slots int) {
		slots = 1 + (slots&0xFF)%maxUsableSlots
		w := &watcher{log: slog.New(slog.DiscardHandler), removed: func(slot int) {
			if slot < 0 || slot >= slots {
				t.Errorf("slot %d of %d was emptied", slot, slots)
			}
		}}
		for range slots {
			w.slots = append(w.slots, &slot{})
		}
		events := make(chan ifd.Event, maxUsableSlots)
		w.events = events
		seen := make([]int, slots)
		if !w.take(context.Background(), b, seen) {
			t.Error("ended")
		}
		close(events)
		n := 0
		for e := range events {
			n++
			if e.Slot < 0 || e.Slot >= slots || e.Slot >= 4*(len(b)-1) {
				t.Errorf("event %+v of % X with %d slots", e, b, slots)
			}
		}
		if n > 0 && b[0] != msgNotifySlotChange {
			t.Errorf("%d events of % X", n, b)
		}
	})
}

// script is a transport whose reader answers with what the fuzzer made up: a
// length byte and so many bytes each, and nothing when that is used up.
type script struct {
	rest []byte
	end  chan struct{}
}

func (s *script) name() string                             { return "script" }
func (s *script) send(context.Context, []byte) error       { return nil }
func (s *script) abort(_ context.Context, _, _ byte) error { return nil }
func (s *script) gone() <-chan struct{}                    { return s.end }
func (s *script) close() error                             { return nil }
func (s *script) recv(context.Context, time.Duration) ([]byte, error) {
	if len(s.rest) == 0 {
		return nil, usb.ErrUnplugged
	}
	n := min(int(s.rest[0]), len(s.rest)-1)
	msg := s.rest[1 : 1+n]
	s.rest = s.rest[1+n:]
	return append([]byte(nil), msg...), nil
}

// FuzzResponse: a hostile reader costs errors, not the process, through reset,
// protocol choice and an exchange, at every level.
func FuzzResponse(f *testing.F) {
	answer := func(s string) []byte {
		b := fromHex(s)
		return append([]byte{byte(len(b))}, b...)
	}
	ok := bytes.Join([][]byte{
		answer("80 04000000 00 01 00 00 00 3B 02 14 50"),
		answer("82 05000000 00 02 00 00 00 11 00 00 0A 00"),
		answer("80 02000000 00 03 00 00 00 90 00"),
	}, nil)
	chained := bytes.Join([][]byte{
		answer("80 04000000 00 01 00 00 00 3B 02 14 50"),
		answer("82 05000000 00 02 00 00 00 11 00 00 0A 00"),
		answer("80 02000000 00 03 00 00 01 01 02"),
		answer("80 02000000 00 04 00 00 02 90 00"),
	}, nil)
	t1 := bytes.Join([][]byte{
		answer("80 08000000 00 01 00 00 00 3B 80 81 31 FE 45 00 8B"),
		answer("82 07000000 00 02 00 00 01 11 10 00 45 00 FE 00"),
		answer("80 05000000 00 03 00 00 00 00 E1 01 FE 1E"),
		answer("80 06000000 00 04 00 00 00 00 00 02 90 00 92"),
	}, nil)
	for level := range byte(4) {
		for _, s := range [][]byte{ok, chained, t1, answer("80 00000000 00 01 42 FE 00"), answer("80 00000000 00 01 80 FF 00"), {}, {0}} {
			f.Add(level, s)
		}
	}
	f.Fuzz(func(t *testing.T, level byte, answers []byte) {
		if len(answers) > 1<<16 {
			return
		}
		tr := &script{rest: answers, end: make(chan struct{})}
		plan := Plan{
			Level: Level(1 + level%4), Slots: 2, Busy: 1, T0: true, T1: true, Clock: 4000, MaxRate: 344086,
			Voltages: []voltage{voltageAuto, voltage5V}, Parameters: true, Negotiate: true, SetRate: level&0x80 != 0,
			IFSD: 254, Announce: true, MaxMessage: 271, Verify: true, Modify: true,
		}
		p := newPart(tr, plan, nil, newRoom(1), true, slog.New(slog.DiscardHandler))
		defer p.c.close()
		s := modifySlot{verifySlot{cardSlot{p.slots[0]}}}
		ctx := context.Background()
		raw, err := s.Reset(ctx)
		if err != nil {
			return
		}
		if len(raw) == 0 || len(raw) > atr.MaxLen {
			t.Fatalf("ATR of %d bytes", len(raw))
		}
		a, _ := atr.Parse(raw)
		e, err := s.Protocol(ctx, proto.Default, a)
		if err != nil {
			return
		}
		for range 2 {
			out, err := e.Transmit(ctx, fromHex("00 A4 00 00 02 3F 00 00"), nil)
			if err == nil && (len(out) < minSW || len(out) > proto.MaxResponse) {
				t.Fatalf("response of %d bytes", len(out))
			}
		}
		if out, err := s.Verify(ctx, ifd.PINRequest{Control: 1, Offset: 6, APDU: fromHex("00 20 00 01 08 FF FF FF FF FF FF FF FF")}); err == nil && len(out) < minSW {
			t.Fatalf("PIN response of %d bytes", len(out))
		}
		_, _ = s.Status(ctx)
	})
}

// noise is a serial line on which only these bytes ever come.
type noise struct {
	serial.Line
	rest    []byte
	written int
	gone    chan struct{}
}

func (n *noise) Name() string                            { return "noise" }
func (n *noise) Gone() <-chan struct{}                   { return n.gone }
func (n *noise) Write(_ context.Context, b []byte) error { n.written += len(b); return nil }
func (n *noise) Read(_ context.Context, buf []byte, _ time.Duration) (int, error) {
	if len(n.rest) == 0 {
		close(n.gone)
		return 0, usb.ErrUnplugged
	}
	c := copy(buf, n.rest)
	n.rest = n.rest[c:]
	return c, nil
}

// FuzzSerial: whatever comes over a serial line, recv returns whole messages
// or errors, and does not repeat a command without end.
func FuzzSerial(f *testing.F) {
	for _, s := range []string{
		"03 06 81 00000000 00 01 01 00 00 84", "03 15 16", "50 03", "80", "03 06 65 00000000 00 01 00 00 00 61",
		"50 02 03 06 65 00000000 00 01 00 00 00 61 03 06 81 00000000 00 01 02 00 00 87", "03 06 80 FFFFFF7F 00 00 00 00 00 00", "03 07",
	} {
		f.Add(fromHex(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n := &noise{rest: b, gone: make(chan struct{})}
		tr := newSerialTransport(n)
		if err := tr.send(t.Context(), getSlotStatus().append(nil, 0, 1)); err != nil {
			t.Fatal(err)
		}
		for {
			msg, err := tr.recv(t.Context(), time.Second)
			if err == nil {
				if _, err := parseResponse(msg); err != nil {
					t.Fatalf("% X: %v", msg, err)
				}
				continue
			}
			if isGone(tr) {
				wantIs(t, err, usb.ErrUnplugged)
				break
			}
			wantIs(t, err, errMalformed)
		}
		if limit := (1 + serialRepeats) * 13; n.written > limit {
			t.Errorf("%d bytes written, at most %d are due", n.written, limit)
		}
	})
}

// packets is a USB device whose bulk endpoint sends what the fuzzer made up:
// packets of a length byte and so many bytes each, and nothing after them.
type packets struct {
	usb.Device
	rest []byte
	size int
}

func (p *packets) Descriptor() *usb.Descriptor { return &usb.Descriptor{} }

func (p *packets) Bulk(_ context.Context, _ uint8, data []byte, _ time.Duration) (int, error) {
	for n := 0; ; {
		if len(p.rest) == 0 {
			return n, usb.ErrTimeout
		}
		one := min(int(p.rest[0])%(p.size+1), len(p.rest)-1)
		if n+one > len(data) {
			return n, usb.ErrOverflow
		}
		n += copy(data[n:], p.rest[1:1+one])
		p.rest = p.rest[1+one:]
		if one < p.size || n == len(data) {
			return n, nil
		}
	}
}

// FuzzReceive: whatever packets a reader sends, recv returns whole messages or
// errors, ends, and keeps to its limits.
func FuzzReceive(f *testing.F) {
	full := func(first string, n int) []byte { // a packet of 64 bytes
		b := append([]byte{64}, fromHex(first)...)
		return append(b, make([]byte, n-len(b)+1)...)
	}
	f.Add([]byte{12, 0x80, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0x90, 0x00})
	f.Add(append([]byte{0, 0}, 12, 0x80, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0x90, 0x00))
	f.Add(full("80 36000000 00 01 00 00 00", 64))
	f.Add(append(full("80 40000000 00 01 00 00 00", 64), 10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
	f.Add(append(full("80 02000000 00 01 00 00 00 90 00", 64), full("00", 64)...))
	f.Add(full("80 FFFFFFFF 00 01 00 00 00", 64))
	f.Add([]byte{9, 0x80, 0, 0, 0, 0, 0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<17 {
			return
		}
		d := &packets{rest: b, size: minPacket}
		u := newUSBTransport(d, function{packet: minPacket})
		for {
			left := len(d.rest)
			msg, err := u.recv(t.Context(), time.Second)
			switch {
			case err == nil && int64(len(msg)) < messageLength(msg):
				t.Fatalf("%d bytes of a message of %d", len(msg), messageLength(msg))
			case len(u.buf) > wholePackets(messageLimit, minPacket):
				t.Fatalf("a buffer of %d bytes", len(u.buf))
			case err != nil && left == 0:
				return
			case len(d.rest) == left && left > 0:
				t.Fatalf("nothing was read: %v", err)
			}
		}
	})
}
