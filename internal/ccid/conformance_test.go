//go:build go1.25

package ccid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/hextest"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/ccidreader"
)

// TestConformance has what the specification wants where C OpenCT's driver
// (ifd-ccid.c) does something else. The serial line has tests of its own.
func TestConformance(t *testing.T) {
	background := context.Background()
	simple := func(t *testing.T, number string) (*bench, proto.Engine) {
		b := plug(t, profile(t, number), &testCard{atr: atrT0}).start()
		return b, b.engine(0)
	}
	for _, c := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"interface, release and missing feature bits", func(t *testing.T) {
			for _, bcd := range []uint16{0x0100, 0x0101, 0x0110, 0x0200, 0x0210, 0x1000, 0x1001, 0xFFFF} {
				p := profile(t, "P14") // neither 10 nor 20
				p.BCD = bcd
				b := plug(t, p, &testCard{atr: atrT0}).start()
				b.transmit(b.engine(0), selectMF, okSW)
			}
			p := profile(t, "P1")
			p.Class = 3 // subclass and protocol 0 do not make it a reader
			b := plug(t, p)
			_, err := Open(b.dev, b.options())
			wantErr(t, "Open", err, ifd.ErrIncompatible)
		}},
		{"the slot's own number", func(t *testing.T) {
			b := plug(t, profile(t, "P10"), nil, nil, nil, &testCard{atr: atrT1}).start()
			if _, err := b.slot(3).(ifd.Presence).Status(background); err != nil {
				t.Fatal(err)
			}
			b.transmit(b.engine(3), selectMF, okSW)
			for _, c := range b.model.Commands()[1:] { // the first is the probe
				if c.Slot != 3 {
					t.Errorf("message %02X to slot %d", c.Type, c.Slot)
				}
			}
		}},
		{"time extensions extend", func(t *testing.T) {
			b, e := simple(t, "P3")
			b.model.Inject(ccidreader.Fault{On: 0x6F, Extensions: 5, Factor: 20, Delay: 15 * time.Second})
			b.transmit(e, selectMF, okSW)
			if n := len(b.sent(0x6F)); n != 1 {
				t.Errorf("the command was sent %d times", n)
			}
		}},
		{"an empty transfer is no error", func(t *testing.T) {
			b, e := simple(t, "P3")
			b.model.Inject(ccidreader.Fault{On: 0x6F, Empty: maxEmpty})
			b.transmit(e, selectMF, okSW)
		}},
		{"discards have an end, messages a minimum", func(t *testing.T) {
			b, e := simple(t, "P3")
			b.model.Inject(ccidreader.Fault{On: 0x6F, Stale: maxStale + 1})
			_, err := e.Transmit(background, selectMF, nil)
			wantErr(t, "stale", err, ifd.ErrComm)
			b, e = simple(t, "P3")
			b.model.Inject(ccidreader.Fault{On: 0x6F, Mangle: func(m []byte) []byte { return m[:9] }})
			_, err = e.Transmit(background, selectMF, nil)
			wantErr(t, "nine bytes", err, ifd.ErrComm)
		}},
		{"a long message where a short one is due", func(t *testing.T) {
			b := plug(t, profile(t, "P1"), &testCard{atr: atrT0}).start()
			b.model.Inject(ccidreader.Fault{On: 0x65, Mangle: func(m []byte) []byte {
				m[1] = 250
				return append(m, make([]byte, 250)...)
			}})
			if _, err := b.slot(0).(ifd.Presence).Status(background); err != nil {
				t.Fatal(err)
			}
		}},
		{"mute is not absent", func(t *testing.T) {
			b, e := simple(t, "P3")
			b.model.Inject(ccidreader.Fault{On: 0x6F, Fail: true, Code: codeMute})
			_, err := e.Transmit(background, selectMF, nil)
			wantErr(t, "exchange with a mute card", err, ifd.ErrComm)
			if errors.Is(err, ifd.ErrNoCard) {
				t.Error("a mute card is called absent")
			}
			b.model.Inject(ccidreader.Fault{On: 0x62, Fail: true, Code: codeMute, Times: 5})
			_, err = b.slot(0).Reset(background)
			wantErr(t, "reset of a mute card", err, ifd.ErrNoATR)
			b.model.Remove(0)
			_, err = b.slot(0).Reset(background)
			wantErr(t, "reset without a card", err, ifd.ErrNoCard)
		}},
		{"voltages by hand after automatic failed, power off between", func(t *testing.T) {
			b := plug(t, profile(t, "P2"))
			b.model.InsertOdd(0, &testCard{atr: atrT0}, ccidreader.Card{AutoFails: true, Voltages: 4})
			b.start()
			b.transmit(b.engine(0), selectMF, okSW)
			var order []string
			for _, c := range b.model.Commands() {
				switch c.Type {
				case 0x62:
					order = append(order, fmt.Sprint("on ", c.Param[0]))
				case 0x63:
					order = append(order, "off")
				}
			}
			if want := "[on 0 off on 1 off on 2 off on 3]"; fmt.Sprint(order) != want {
				t.Errorf("%v, want %s", order, want)
			}
		}},
		{"PPS only where it is due", func(t *testing.T) {
			specific := card.BuildATR(0x90, []byte{0x94, 0x91, 0x01, 0x31, 0xFE, 0x45}, "TA2")
			for _, c := range []struct {
				name    string
				profile string
				atr     []byte
				p       proto.ID
				want    string
			}{
				{"nothing to change", "P1", atrT1, proto.Default, ""},
				{"a faster rate", "P1", atrT1Fast, proto.Default, "FF 11 96 78"},
				{"another protocol", "P1", atrBoth, proto.T1, "FF 11 96 78"},
				{"specific mode", "P1", specific, proto.Default, ""},
				{"the reader makes it", "P2", atrT1Fast, proto.Default, ""},
				{"the reader negotiates", "P5", atrT1Fast, proto.Default, ""},
				{"a token", "P7", atrT1Fast, proto.Default, ""},
			} {
				b := plug(t, profile(t, c.profile), &testCard{atr: c.atr}).start()
				e, err := b.reset(0, c.p)
				if err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				b.transmit(e, selectMF, okSW)
				got := ""
				for _, x := range b.sent(0x6F) {
					if len(x.Data) > 0 && x.Data[0] == 0xFF {
						got += fmt.Sprintf("% X", x.Data)
					}
				}
				if got != c.want {
					t.Errorf("%s: PPS %q, want %q", c.name, got, c.want)
				}
				b.clean()
			}
			implicit := card.BuildATR(0x90, []byte{0x94, 0x91, 0x11, 0x31, 0xFE, 0x45}, "TA2")
			b := plug(t, profile(t, "P1"), &testCard{atr: implicit}).start()
			_, err := b.reset(0, proto.Default)
			wantErr(t, "implicit parameters", err, ifd.ErrNotSupported)
			b = plug(t, profile(t, "P1"), &testCard{atr: specific}).start()
			_, err = b.reset(0, proto.T0)
			wantErr(t, "another protocol than the specific one", err, ifd.ErrNotSupported)
		}},
		{"parameters from the ATR", func(t *testing.T) {
			for _, c := range []struct {
				name string
				atr  string
				t    byte
				want string
			}{
				{"T=0, defaults", "3B 02 14 50", 0, "11 00 00 0A 00"},
				{"T=0, TC1 and TC2", "3B D5 11 02 40 14 01 02 03 04 05", 0, "11 00 02 14 00"},
				{"T=0, inverse", "3F 65 25 00 2C 09 69 90 00", 0, "11 02 00 0A 00"},
				{"T=1, CardOS", "3B F2 18 00 02 C1 0A 31 FE 58 C8 09 75", 1, "18 10 02 58 00 FE 00"},
				{"T=1, CRC", "3B 80 81 71 40 45 01 F4", 1, "11 11 00 45 00 40 00"},
				{"T=1, bare contactless", "3B 80 81 01 00", 1, "11 10 00 4D 00 20 00"},
			} {
				b := plug(t, profile(t, "P1"), &testCard{atr: fixTCK(hextest.Bytes(t, c.atr))}).start()
				b.engine(0)
				p := b.sent(0x61)[0]
				if got := fmt.Sprintf("% X", p.Data); got != c.want || p.Param[0] != c.t {
					t.Errorf("%s: T=%d %s, want T=%d %s", c.name, p.Param[0], got, c.t, c.want)
				}
			}
		}},
		{"IFSD is negotiated and within 1 to 254", func(t *testing.T) {
			for _, c := range []struct {
				declared, message uint32
				want              byte // 0: not announced
			}{
				{254, 271, 254}, {2048, 2344, 254}, {252, 271, 252}, {49, 271, 49}, {0, 271, 0}, {32, 271, 0}, {254, 64, 50},
			} {
				p := profile(t, "P1")
				p.IFSD, p.Message = c.declared, c.message
				chip := &testCard{atr: atrT1, answer: func([]byte) []byte { return counting(200) }}
				b := plug(t, p, chip).start()
				b.transmit(b.engine(0), []byte{0, 0xB0, 0, 0, 200}, counting(200))
				var got byte
				for _, x := range b.sent(0x6F) {
					if x.Data[1] == 0xC1 {
						got = x.Data[3]
					}
				}
				if got != c.want {
					t.Errorf("dwMaxIFSD %d, messages of %d: announced %d, want %d", c.declared, c.message, got, c.want)
				}
				b.clean()
			}
		}},
		{"T=0: case 4, 61xx and 6Cxx", func(t *testing.T) {
			chip := &testCard{atr: atrT0, answer: func(a []byte) []byte { return counting(20) }}
			b := plug(t, profile(t, "P1"), chip).start()
			e := b.engine(0)
			b.transmit(e, append(bytes.Clone(selectMF), 0x00), counting(20))
			b.transmit(e, []byte{0x00, 0xB0, 0x00, 0x00, 0x00}, counting(20))
		}},
		{"extended APDUs, chained and whole", func(t *testing.T) {
			command := append([]byte{0x00, 0xD6, 0x00, 0x00, 0x00, 0x02, 0x51}, make([]byte, 593)...)
			chip := &testCard{atr: atrT0, answer: func([]byte) []byte { return counting(600) }}
			b := plug(t, profile(t, "P4"), chip).start()
			b.transmit(b.engine(0), command, counting(600))
			var got []string
			for _, x := range b.sent(0x6F) {
				got = append(got, fmt.Sprintf("%02X%02X:%d", x.Param[2], x.Param[1], len(x.Data)))
			}
			if want := "[0001:261 0003:261 0002:78 0010:0 0010:0]"; fmt.Sprint(got) != want {
				t.Errorf("blocks %v, want %s", got, want)
			}
			if !bytes.Equal(chip.seen[0], command) {
				t.Error("the command did not arrive whole")
			}
			b.clean()

			whole := append([]byte{0x00, 0xD6, 0x00, 0x00, 0x00, 0xFF, 0xFF}, make([]byte, 65535)...)
			chip = &testCard{atr: atrT0, answer: func([]byte) []byte { return counting(65536) }}
			b = plug(t, profile(t, "P4b"), chip).start()
			b.transmit(b.engine(0), append(whole, 0, 0), counting(65536))
			b.clean()
		}},
		{"PIN pad and flags", func(t *testing.T) {
			b := plug(t, profile(t, "P11"), &testCard{atr: atrT0}).start()
			k := b.reader.(ifd.Keypad)
			if !k.HasKeypad() || !k.HasDisplay() {
				t.Error("keypad or display not seen")
			}
			if _, ok := b.slot(0).(ifd.Modifier); !ok {
				t.Error("no PIN change")
			}
			b = plug(t, profile(t, "P1"), &testCard{atr: atrT0}).start()
			k = b.reader.(ifd.Keypad)
			if k.HasKeypad() || k.HasDisplay() {
				t.Error("keypad or display where none is")
			}
			if _, ok := b.slot(0).(ifd.Verifier); ok {
				t.Error("PIN entry where no keypad is")
			}
		}},
		{"notifications of all slots, and of nothing", func(t *testing.T) {
			b := plug(t, profile(t, "P10")).start()
			events := b.reader.(ifd.Notifier).Events()
			b.model.Notify([]byte{0x40, 0xFF, 0xFF})       // unknown
			b.model.Notify([]byte{0x51, 0x00, 0x07, 0x01}) // overcurrent
			b.model.Notify([]byte{0x50})                   // cut short
			b.model.Notify(nil)                            // empty
			synctest.Wait()
			select {
			case e := <-events:
				t.Fatalf("event %+v of notifications that say nothing", e)
			default:
			}
			b.model.Notify([]byte{0x50, 0b11_00_11_00, 0b11}) // slots 1, 3 and 4 at once
			var got []ifd.Event
			for range 5 {
				got = append(got, <-events)
			}
			want := []ifd.Event{{Slot: 0}, {Slot: 1, Present: true}, {Slot: 2}, {Slot: 3, Present: true}, {Slot: 4, Present: true}}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("events %v, want %v", got, want)
			}
			b.model.Notify([]byte{0x50, 0b10_00_11_00, 0b01}) // slot 3 left
			if e := <-events; e.Slot != 1 {
				t.Errorf("event %+v", e) // slot 1 changed once more: out and in again
			}
			if e := <-events; e != (ifd.Event{Slot: 3}) {
				t.Errorf("event %+v", e)
			}
		}},
		{"the mode command at open may fail", func(t *testing.T) {
			for _, refuse := range []bool{false, true} {
				p := profile(t, "P1")
				p.Vendor, p.Product = 0x08E6, 0x3437
				b := plug(t, p, &testCard{atr: atrT0})
				if refuse {
					b.model.Inject(ccidreader.Fault{On: 0x6B, Fail: true})
				}
				b.start()
				b.transmit(b.engine(0), selectMF, okSW)
				if x := b.sent(0x6B); len(x) != 1 || !bytes.Equal(x[0].Data, []byte{0x1F, 0x01}) {
					t.Errorf("escape commands %v", x)
				}
			}
		}},
		{"abort after a timeout", func(t *testing.T) {
			for _, number := range []string{"P1", "P3"} {
				b, e := simple(t, number)
				b.model.Inject(ccidreader.Fault{On: 0x6F, Delay: time.Hour})
				_, err := e.Transmit(background, selectMF, nil)
				wantErr(t, "Transmit", err, usb.ErrTimeout)
				wantErr(t, "Transmit", err, proto.ErrResetRequired)
				xfr, aborts := b.sent(0x6F), b.sent(0x72)
				if len(aborts) != 1 || aborts[0].Seq != xfr[len(xfr)-1].Seq {
					t.Errorf("%s: aborts %v of %v", number, aborts, xfr)
				}
				b.transmit(b.engine(0), selectMF, okSW)
				b.clean()
			}
		}},
		{"abort refused by the control pipe", func(t *testing.T) {
			b, e := simple(t, "P3")
			b.port.Inject(vusb.Fault{On: vusb.Transfer{Control: true, Code: reqAbort}, Stall: true})
			b.model.Inject(ccidreader.Fault{On: 0x6F, Lose: true})
			_, err := e.Transmit(background, selectMF, nil)
			wantErr(t, "Transmit", err, usb.ErrTimeout)
			if n := len(b.sent(0x72)); n != 1 {
				t.Errorf("%d abort messages, want 1", n)
			}
			b.transmit(b.engine(0), selectMF, okSW)
		}},
		{"17b2 message to the reader is cancelled half way", func(t *testing.T) {
			b, e := simple(t, "P3")
			b.port.Inject(vusb.Fault{On: vusb.Transfer{Code: 0x02}, Hang: true})
			ctx, cancel := context.WithCancel(background)
			ended := make(chan error)
			go func() {
				_, err := e.Transmit(ctx, selectMF, nil)
				ended <- err
			}()
			synctest.Wait()
			cancel()
			wantErr(t, "Transmit", <-ended, context.Canceled)
			if n := len(b.sent(0x72)); n != 1 {
				t.Errorf("%d abort messages, want 1", n)
			}
			b.transmit(b.engine(0), selectMF, okSW)
		}},
		{"an error tells reader, slot, message and the reader's code", func(t *testing.T) {
			b := plug(t, profile(t, "P3"), &testCard{atr: atrT0}).start()
			b.model.Inject(ccidreader.Fault{On: 0x62, Fail: true, Code: 0xF6, Times: -1})
			_, err := b.slot(0).Reset(background)
			want := b.dev.Descriptor().ID() + ": slot 0: IccPowerOn: device does not behave like this kind of reader (reader's code F6)"
			if err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		}},
		{"reader takes no abort, and wakes up later", func(t *testing.T) {
			b, e := simple(t, "P3")
			b.model.Inject(ccidreader.Fault{On: 0x6F, Lose: true})
			b.model.Inject(ccidreader.Fault{On: 0x72, Lose: true})
			_, err := e.Transmit(background, selectMF, nil)
			wantErr(t, "Transmit", err, usb.ErrTimeout)
			if !bytes.Contains(b.log.Bytes(), []byte("unplug it")) {
				t.Error("the log does not tell what to do")
			}
			b.transmit(b.engine(0), selectMF, okSW)
		}},
		{"power off at close", func(t *testing.T) {
			b, _ := simple(t, "P1")
			b.open = false
			if err := b.reader.Close(); err != nil {
				t.Fatal(err)
			}
			if b.model.Powered(0) {
				t.Error("card still has power")
			}
		}},
		{"contactless ATRs", func(t *testing.T) {
			for _, a := range []string{
				"3B 8F 80 01 80 4F 0C A0 00 00 03 06 03 00 01 00 00 00 00 6A", "3B 80 80 01 01", "3B 88 80 01 00 00 00 00 33 81 81 00 3A",
			} {
				for _, number := range []string{"P1", "P3", "P5"} {
					b := plug(t, profile(t, number), &testCard{atr: fixTCK(hextest.Bytes(t, a))}).start()
					b.transmit(b.engine(0), selectMF, okSW)
				}
			}
			// The ATR names T=0 first, which is for the host alone to speak.
			for _, c := range []struct {
				profile string
				want    proto.ID
			}{{"P1", proto.T0}, {"P3", proto.T1}, {"P4", proto.T1}, {"P5", proto.T1}} {
				b := plug(t, profile(t, c.profile), &testCard{atr: fixTCK(hextest.Bytes(t, "3B 8F 80 01 80 4F 0C A0 00 00 03 06 03 00 03 00 00 00 00 68"))}).start()
				if e := b.engine(0); e.ID() != c.want {
					t.Errorf("%s: protocol %v, want %v", c.profile, e.ID(), c.want)
				}
			}
			// A contactless reader speaks T=1 only.
			p := profile(t, "P5")
			p.Protocols = 2
			b := plug(t, p, &testCard{atr: hextest.Bytes(t, "3B 80 80 01 01")}).start()
			if e := b.engine(0); e.ID() != proto.T1 {
				t.Errorf("protocol %v, want T=1", e.ID())
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) { bubble(t, c.run) })
	}
}

// fixTCK corrects the last byte of an ATR that needs a TCK.
func fixTCK(a []byte) []byte {
	if len(a) > 2 && a[1]&0x80 != 0 {
		at := 2
		for bit := byte(0x10); bit < 0x80; bit <<= 1 {
			if a[1]&bit != 0 {
				at++
			}
		}
		if a[at]&0x0F == 0 && a[at]&0x80 == 0 {
			return a // T=0 alone
		}
		var sum byte
		for _, b := range a[1 : len(a)-1] {
			sum ^= b
		}
		a[len(a)-1] = sum
	}
	return a
}
