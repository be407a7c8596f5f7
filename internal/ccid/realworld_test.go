//go:build go1.25

package ccid

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/hextest"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/ccidreader"
)

// TestRealWorld has the fifteen failures that readers in the field taught
// libccid, each under its number.
func TestRealWorld(t *testing.T) {
	background := context.Background()
	for _, c := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"01 out of step after a restart", func(t *testing.T) {
			b := plug(t, profile(t, "P1"), &testCard{atr: atrT0})
			b.model.Inject(ccidreader.Fault{On: 0x65, Lose: true, Times: 2})
			b.model.Inject(ccidreader.Fault{On: 0x72, Lose: true, Times: 2})
			b.start()
			b.transmit(b.engine(0), selectMF, okSW)
		}},
		{"01b does not answer at all", func(t *testing.T) {
			b := plug(t, profile(t, "P1"))
			b.model.Inject(ccidreader.Fault{Lose: true, Times: -1})
			_, err := Open(b.dev, b.options())
			wantErr(t, "Open", err, usb.ErrTimeout)
		}},
		{"01c slow starter", func(t *testing.T) {
			p := profile(t, "P1")
			p.Vendor, p.Product = 0x0B81, 0x0200
			b := plug(t, p, &testCard{atr: atrT0})
			b.model.Inject(ccidreader.Fault{On: 0x65, Delay: 50 * time.Second})
			b.start()
			if n := len(b.sent(0x72)); n > 0 {
				t.Errorf("%d commands were aborted", n)
			}
		}},
		{"02 stale and duplicate answers", func(t *testing.T) {
			b := plug(t, profile(t, "P1"), &testCard{atr: atrT0}).start()
			e := b.engine(0)
			b.model.Inject(ccidreader.Fault{On: 0x6F, Stale: 10})
			b.transmit(e, selectMF, okSW)
		}},
		{"02b nothing but stale answers", func(t *testing.T) {
			b := plug(t, profile(t, "P3"), &testCard{atr: atrT0}).start()
			e := b.engine(0)
			b.model.Inject(ccidreader.Fault{On: 0x6F, Stale: 11})
			_, err := e.Transmit(background, selectMF, nil)
			wantErr(t, "Transmit", err, ifd.ErrComm)
			// The right one came after all; it must not answer the next.
			b.transmit(e, selectMF, okSW)
		}},
		{"02c another slot's answer", func(t *testing.T) {
			b := plug(t, profile(t, "P3"), &testCard{atr: atrT0}).start()
			e := b.engine(0)
			b.model.Inject(ccidreader.Fault{On: 0x6F, Slot: 1})
			_, err := e.Transmit(background, selectMF, nil)
			wantErr(t, "Transmit", err, usb.ErrTimeout)
		}},
		{"03 long computations", func(t *testing.T) {
			for _, typ := range []byte{0x62, 0x6F, 0x6B} {
				b := plug(t, profile(t, "P3"), &testCard{atr: atrT0})
				o := b.options()
				o.Escape = true
				b.startWith(o)
				b.model.Inject(ccidreader.Fault{On: typ, Extensions: 30, Factor: 3, Delay: 7 * time.Second})
				e := b.engine(0)
				b.transmit(e, selectMF, okSW)
				x, err := b.slot(0).Protocol(background, proto.Escape, nil)
				if err != nil {
					t.Fatal(err)
				}
				b.transmit(x, []byte{1, 2, 3}, []byte{1, 2, 3})
			}
		}},
		{"03b T=1 asks for time, the reader hears of it", func(t *testing.T) {
			b := plug(t, profile(t, "P1"))
			b.model.InsertOdd(0, &testCard{atr: atrT1}, ccidreader.Card{WTX: 2, Multiplier: 5})
			b.start()
			b.transmit(b.engine(0), selectMF, okSW)
			told := 0
			for _, c := range b.sent(0x6F) {
				if c.Param[0] == 5 {
					told++
				}
			}
			if told != 2 {
				t.Errorf("bBWI was set %d times, want 2", told)
			}
			b.clean()
		}},
		{"03c asks for time without end", func(t *testing.T) {
			b := plug(t, profile(t, "P3"), &testCard{atr: atrT0}).start()
			e := b.engine(0)
			began := time.Now()
			b.model.Inject(ccidreader.Fault{On: 0x6F, Extensions: -1, Factor: 255, Delay: time.Second})
			_, err := e.Transmit(background, selectMF, nil)
			wantErr(t, "Transmit", err, usb.ErrTimeout)
			if d := time.Since(began); d > extensionLimit+time.Minute {
				t.Errorf("gave up after %v", d)
			}
			b.transmit(b.engine(0), selectMF, okSW)
		}},
		{"04 slow ATR", func(t *testing.T) {
			b := plug(t, profile(t, "P1"), &testCard{atr: atrT0}).start()
			b.model.Inject(ccidreader.Fault{On: 0x62, Delay: 29 * time.Second})
			b.transmit(b.engine(0), selectMF, okSW)
		}},
		{"05 card needs another voltage", func(t *testing.T) {
			for _, c := range []struct {
				profile string
				odd     ccidreader.Card
				tried   []byte
			}{
				{"P1", ccidreader.Card{Voltages: 4}, []byte{1, 2, 3}},
				{"P1", ccidreader.Card{Voltages: 2}, []byte{1, 2}},
				{"P2", ccidreader.Card{}, []byte{0}},
				{"P2", ccidreader.Card{Voltages: 2, AutoFails: true}, []byte{0, 1, 2}},
			} {
				b := plug(t, profile(t, c.profile))
				b.model.InsertOdd(0, &testCard{atr: atrT0}, c.odd)
				b.start()
				b.transmit(b.engine(0), selectMF, okSW)
				var tried []byte
				for _, on := range b.sent(0x62) {
					tried = append(tried, on.Param[0])
				}
				if !bytes.Equal(tried, c.tried) {
					t.Errorf("%s: tried % X, want % X", c.profile, tried, c.tried)
				}
				if n := len(b.sent(0x63)); n != len(c.tried)-1 {
					t.Errorf("%s: power was cut %d times between %d attempts", c.profile, n, len(c.tried))
				}
			}
		}},
		{"05b mute at every voltage", func(t *testing.T) {
			b := plug(t, profile(t, "P1"), &testCard{atr: atrT0}).start()
			b.model.Inject(ccidreader.Fault{On: 0x62, Fail: true, Code: codeMute, Times: 3})
			_, err := b.slot(0).Reset(background)
			wantErr(t, "Reset", err, ifd.ErrNoATR)
			if n := len(b.sent(0x63)); n != 3 {
				t.Errorf("power was cut %d times, want after each of 3 attempts", n)
			}
			b.transmit(b.engine(0), selectMF, okSW) // and the slot is fit for another try
		}},
		{"06 empty packets", func(t *testing.T) {
			b := plug(t, profile(t, "P1"), &testCard{atr: atrT0})
			b.model.Inject(ccidreader.Fault{Empty: 1, Times: -1})
			b.start()
			b.transmit(b.engine(0), selectMF, okSW)
		}},
		{"06b nothing but empty packets", func(t *testing.T) {
			b := plug(t, profile(t, "P3"), &testCard{atr: atrT0}).start()
			e := b.engine(0)
			b.model.Inject(ccidreader.Fault{On: 0x6F, Empty: 50})
			_, err := e.Transmit(background, selectMF, nil)
			wantErr(t, "Transmit", err, ifd.ErrComm)
			for range 4 { // the rest of them
				if _, err = e.Transmit(background, selectMF, nil); err == nil {
					return
				}
			}
			t.Errorf("reader was not brought back into step: %v", err)
		}},
		{"06c answers that end on a full packet", func(t *testing.T) {
			for _, n := range []int{64, 128, 192} {
				for _, noEnd := range []bool{false, true} {
					for _, slots := range []int{1, 2} {
						chip := &testCard{atr: atrT0, answer: func([]byte) []byte { return counting(n - headerSize - 2) }}
						p := profile(t, "P3")
						p.Slots = slots
						b := plug(t, p, chip).start()
						b.model.Inject(ccidreader.Fault{On: 0x6F, NoEnd: noEnd, Times: -1})
						e := b.engine(0)
						for i := range 3 {
							began := time.Now()
							b.transmit(e, []byte{0x00, 0xB0, 0x00, 0x00, 0x00}, counting(n-headerSize-2))
							if d := time.Since(began); d != 0 {
								t.Errorf("%d bytes, end packet missing: %v, %d slots, exchange %d: waited %v", n, noEnd, slots, i+1, d)
							}
						}
					}
				}
			}
		}},
		{"07 wrong dwMaxCCIDMessageLength", func(t *testing.T) {
			p := profile(t, "P3")
			p.Message = 263
			chip := &testCard{atr: atrT0}
			b := plug(t, p, chip).start()
			apdu := append([]byte{0x00, 0xD6, 0x00, 0x00, 0xFF}, make([]byte, 256)...)
			b.transmit(b.engine(0), apdu, okSW)
			if n := len(b.sent(0x6F)[0].Data); n != 261 {
				t.Errorf("sent %d bytes, want 261 in one message", n)
			}
		}},
		{"08 short APDU reader that chains", func(t *testing.T) {
			chip := &testCard{atr: atrT0, answer: func([]byte) []byte { return counting(600) }}
			b := plug(t, profile(t, "P3"), chip).start()
			b.transmit(b.engine(0), []byte{0x00, 0xB0, 0x00, 0x00, 0x00}, counting(600))

			p := profile(t, "P3")
			p.Vendor, p.Product = 0x076B, 0x3A21
			chip = &testCard{atr: atrT0}
			b = plug(t, p, chip).start()
			long := append([]byte{0x00, 0xD6, 0x00, 0x00, 0x00, 0x01, 0xF4}, make([]byte, 500)...)
			b.transmit(b.engine(0), long, okSW)
			if !bytes.Equal(chip.seen[0], long) {
				t.Error("the command did not arrive whole")
			}
		}},
		{"08b extended APDU reader that cannot", func(t *testing.T) {
			b := plug(t, profile(t, "P4"), &testCard{atr: atrT0}).start()
			e := b.engine(0)
			b.model.Inject(ccidreader.Fault{On: 0x6F, Mangle: func(m []byte) []byte { m[9] = 0; return m }})
			_, err := e.Transmit(background, append([]byte{0x00, 0xD6, 0x00, 0x00, 0x00, 0x01, 0xF4}, make([]byte, 500)...), nil)
			wantErr(t, "Transmit", err, ifd.ErrComm)

			p := profile(t, "P4")
			p.Vendor, p.Product = 0x0D46, 0x3010
			b = plug(t, p, &testCard{atr: atrT0}).start()
			_, err = b.engine(0).Transmit(background, append([]byte{0x00, 0xD6, 0x00, 0x00, 0x00, 0x01, 0xF4}, make([]byte, 500)...), nil)
			wantErr(t, "Transmit", err, proto.ErrInvalidAPDU)
		}},
		{"09 card faster than the reader", func(t *testing.T) {
			for _, c := range []struct {
				name    string
				max     uint32
				rates   []uint32
				want    byte
				profile string
			}{
				{"reader does Di 64", 600000, nil, 0x97, "P1"},
				{"reader does Di 32", 344086, nil, 0x96, "P1"},
				{"reader does Di 8", 100000, nil, 0x94, "P1"},
				{"reader does the default only", 10752, nil, 0x11, "P1"},
				{"table without the card's rate", 600000, []uint32{10752, 62500}, 0x94, "P1"},
				{"table with nothing that fits", 600000, []uint32{10752, 38400}, 0x11, "P1"},
				{"table off by one", 600000, []uint32{10752, 500001}, 0x97, "P1"},
				{"reader makes the PPS", 344086, nil, 0x96, "P2"},
				{"rate set by hand", 344086, nil, 0x96, "P14"},
			} {
				p := profile(t, c.profile)
				p.MaxRate, p.Rates = c.max, c.rates
				b := plug(t, p, &testCard{atr: atrT1Fast}).start()
				b.transmit(b.engine(0), selectMF, okSW)
				if got := b.sent(0x61)[0].Data[0]; got != c.want {
					t.Errorf("%s: parameters say %02X, want %02X", c.name, got, c.want)
				}
				b.clean()
			}
		}},
		{"10 PPS refused", func(t *testing.T) {
			for _, how := range []string{"slow", "mute", "wrong"} {
				b := plug(t, profile(t, "P1"), &testCard{atr: atrT1Fast}).start()
				b.model.Inject(ccidreader.Fault{On: 0x6F, PPS: how})
				b.transmit(b.engine(0), selectMF, okSW)
				if got := b.sent(0x61)[0].Data[0]; got != 0x11 {
					t.Errorf("%s: parameters say %02X, want the default", how, got)
				}
				b.clean()
			}
		}},
		{"10b protocol change refused", func(t *testing.T) {
			b := plug(t, profile(t, "P1"), &testCard{atr: atrBoth}).start()
			b.model.Inject(ccidreader.Fault{On: 0x6F, PPS: "wrong", Times: 2})
			_, err := b.reset(0, proto.T1)
			wantErr(t, "Protocol(T=1)", err, ifd.ErrNotSupported)
			b.transmit(b.engine(0), selectMF, okSW)
		}},
		{"10c SetParameters refused", func(t *testing.T) {
			for _, c := range []struct {
				name    string
				profile string
				atr     []byte
				p       proto.ID
				needed  bool
			}{
				{"TPDU", "P1", atrT0, proto.Default, false},
				{"TPDU, the reader makes the PPS", "P2", atrT1, proto.Default, false},
				{"TPDU, after a PPS for the speed", "P1", atrT1Fast, proto.Default, false},
				{"TPDU, after a PPS for the protocol", "P1", atrBoth, proto.T1, true},
				{"characters", "P6", atrT0, proto.Default, false},
				{"short APDU", "P3", atrT0, proto.Default, false},
				{"short APDU, faster", "P3", atrT1Fast, proto.Default, false},
				{"extended APDU", "P4", fixTCK(hextest.Bytes(t, "3B 04 17 04 FF FF")), proto.Default, false},
			} {
				// Mute, protocol not supported, protocol deactivated, hardware,
				// a vendor's, command not supported, the offset of a byte.
				for _, code := range []byte{0xFE, 0xF6, 0xF3, 0xFB, 0x81, 0x00, 0x0A} {
					b := plug(t, profile(t, c.profile), &testCard{atr: c.atr}).start()
					b.model.Inject(ccidreader.Fault{On: 0x61, Fail: true, Code: code, Times: -1})
					e, err := b.reset(0, c.p)
					if !c.needed {
						if err != nil {
							t.Fatalf("%s, code %02X: %v", c.name, code, err)
						}
						b.transmit(e, selectMF, okSW)
						b.clean()
					} else if err == nil {
						t.Errorf("%s, code %02X: no error", c.name, code)
					}
				}
			}
		}},
		{"11 IFSD announcement upsets the card", func(t *testing.T) {
			b := plug(t, profile(t, "P1"))
			chip := &testCard{atr: atrT1, answer: func([]byte) []byte { return counting(100) }}
			b.model.InsertOdd(0, chip, ccidreader.Card{RefuseIFS: true})
			b.start()
			b.transmit(b.engine(0), []byte{0x00, 0xB0, 0x00, 0x00, 0x64}, counting(100))
			b.clean()
		}},
		{"11b announced by the reader, or not at all", func(t *testing.T) {
			for _, c := range []struct {
				name string
				edit func(*ccidreader.Profile)
				want int
			}{
				{"by the host", func(*ccidreader.Profile) {}, 1},
				{"by the reader", func(p *ccidreader.Profile) { p.Features |= uint32(AutoIFSD) }, 0},
				{"dwMaxIFSD 0", func(p *ccidreader.Profile) { p.IFSD = 0 }, 0},
				{"eToken 5100", func(p *ccidreader.Profile) { p.Vendor, p.Product, p.Release = 0x0529, 0x0620, 0x0013 }, 0},
				{"eToken 5100 of another release", func(p *ccidreader.Profile) { p.Vendor, p.Product, p.Release = 0x0529, 0x0620, 0x0014 }, 1},
			} {
				p := profile(t, "P1")
				c.edit(&p)
				b := plug(t, p, &testCard{atr: atrT1}).start()
				b.transmit(b.engine(0), selectMF, okSW)
				n := 0
				for _, x := range b.sent(0x6F) {
					if len(x.Data) > 1 && x.Data[1] == 0xC1 {
						n++
					}
				}
				if n != c.want {
					t.Errorf("%s: %d announcements, want %d", c.name, n, c.want)
				}
				b.clean()
			}
		}},
		{"12 misplaced, vendor and strange descriptors", func(t *testing.T) {
			for _, number := range []string{"P8", "P8b", "P9", "P12"} {
				b := plug(t, profile(t, number), &testCard{atr: atrT0}).start()
				b.transmit(b.engine(0), selectMF, okSW)
			}
		}},
		{"13 unplugged during a transfer and while idle", func(t *testing.T) {
			b := plug(t, profile(t, "P1"), &testCard{atr: atrT0}).start()
			e := b.engine(0)
			b.port.Inject(vusb.Fault{On: vusb.Transfer{Code: 0x81}, Unplug: true})
			before := len(b.model.Commands())
			_, err := e.Transmit(background, selectMF, nil)
			wantErr(t, "Transmit", err, usb.ErrUnplugged)
			for ev := range b.reader.(ifd.Notifier).Events() {
				t.Logf("event %+v", ev) // the channel ends with the device
			}
			b.open = false
			if err := b.reader.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if n := len(b.model.Commands()) - before; n > 1 {
				t.Errorf("%d commands were sent to a reader that had left", n-1)
			}
			_, err = b.slot(0).Reset(background)
			wantErr(t, "Reset", err, usb.ErrUnplugged)
		}},
		{"13b card pulled during an exchange", func(t *testing.T) {
			for _, number := range []string{"P1", "P3", "P4"} {
				for _, a := range [][]byte{atrT0, atrT1} {
					b := plug(t, profile(t, number), &testCard{atr: a}).start()
					e := b.engine(0)
					b.model.Inject(ccidreader.Fault{On: 0x6F, Pull: true})
					_, err := e.Transmit(background, selectMF, nil)
					wantErr(t, number, err, ifd.ErrNoCard)
					wantErr(t, number, err, proto.ErrResetRequired)
					_, err = e.Transmit(background, selectMF, nil)
					wantErr(t, number, err, proto.ErrResetRequired)
					if ev := <-b.reader.(ifd.Notifier).Events(); ev.Present {
						t.Errorf("event %+v", ev)
					}
				}
			}
		}},
		{"14 PIN pads that lie, leak or reject", func(t *testing.T) {
			p := profile(t, "P11")
			p.Vendor, p.Product = 0x25DD, 0x3111 // no pad at all
			b := plug(t, p, &testCard{atr: atrT0}).start()
			if _, ok := b.slot(0).(ifd.Verifier); ok {
				t.Error("a pad that is none is offered")
			}
			if b.reader.(ifd.Keypad).HasKeypad() {
				t.Error("HasKeypad")
			}
			b = plug(t, profile(t, "P11"), &testCard{atr: atrT0}).start()
			e := b.engine(0)
			b.model.Inject(ccidreader.Fault{On: 0x69, Fail: true, Code: 0x13})
			_, err := b.slot(0).(ifd.Verifier).Verify(background, pinRequest(t, "01 06", "00 20 00 01 08 FF FF FF FF FF FF FF FF"))
			wantErr(t, "Verify", err, errRejected)
			b.transmit(e, selectMF, okSW)
		}},
		{"15 slots answer for themselves", func(t *testing.T) {
			var cards []*testCard
			for i := range 5 {
				cards = append(cards, &testCard{atr: atrT1, answer: func([]byte) []byte { return []byte{byte(i), 0x90, 0x00} }})
			}
			b := plug(t, profile(t, "P10b"), cards[0], cards[1], cards[2], cards[3], cards[4]).start()
			var engines []proto.Engine
			for i := range cards {
				engines = append(engines, b.engine(i))
			}
			b.model.Inject(ccidreader.Fault{On: 0x6F, Delay: 2 * time.Second})
			began := time.Now()
			done := make(chan string, 1)
			go func() {
				out, err := engines[0].Transmit(background, selectMF, nil)
				done <- fmt.Sprint(out, err)
			}()
			synctest.Wait()
			for i := 1; i < 5; i++ {
				b.transmit(engines[i], selectMF, []byte{byte(i), 0x90, 0x00})
			}
			if d := time.Since(began); d > 0 {
				t.Errorf("the other slots waited %v for the slow one", d)
			}
			if got := <-done; got != fmt.Sprint([]byte{0, 0x90, 0}, nil) {
				t.Errorf("slow slot: %s", got)
			}
			b.clean()
		}},
		{"15b one command at a time where the reader takes no more", func(t *testing.T) {
			b := plug(t, profile(t, "P10"), &testCard{atr: atrT0}, &testCard{atr: atrT0}).start()
			e0, e1 := b.engine(0), b.engine(1)
			b.model.Inject(ccidreader.Fault{On: 0x6F, Delay: 2 * time.Second, Times: 2})
			done := make(chan error, 1)
			go func() {
				_, err := e0.Transmit(background, selectMF, nil)
				done <- err
			}()
			b.transmit(e1, selectMF, okSW)
			if err := <-done; err != nil {
				t.Error(err)
			}
			b.clean() // the reader complains of two commands at a time
		}},
		{"15c slot busy", func(t *testing.T) {
			for _, code := range []byte{codeSlotBusy, codeBusyAutoSequence} {
				b := plug(t, profile(t, "P3"), &testCard{atr: atrT0}).start()
				e := b.engine(0)
				b.model.Inject(ccidreader.Fault{On: 0x6F, Fail: true, Code: code, Times: 2})
				b.transmit(e, selectMF, okSW)
				b.model.Inject(ccidreader.Fault{On: 0x6F, Fail: true, Code: code, Times: -1})
				_, err := e.Transmit(background, selectMF, nil)
				wantErr(t, "Transmit", err, usb.ErrTimeout)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) { bubble(t, c.run) })
	}
}

// pinRequest builds PIN_DATA from its control and position bytes and the rest.
func pinRequest(t testing.TB, head, apdu string) ifd.PINRequest {
	h := hextest.Bytes(t, head)
	return ifd.PINRequest{Control: h[0], Offset: h[1], APDU: hextest.Bytes(t, apdu), Timeout: 30 * time.Second}
}
