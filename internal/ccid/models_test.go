//go:build go1.25

package ccid

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/ccidreader"
)

// TestModels: what is done differently for one model.
func TestModels(t *testing.T) {
	background := context.Background()
	as := func(t *testing.T, number string, vendor, product, release uint16) ccidreader.Profile {
		p := profile(t, number)
		p.Vendor, p.Product, p.Release = vendor, product, release
		return p
	}
	for _, c := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"GemPC433 leaves EMV mode", func(t *testing.T) {
			b := plug(t, as(t, "P2", 0x08E6, 0x4433, 0x0200), &testCard{atr: atrT0}).start()
			b.model.Inject(ccidreader.Fault{On: 0x62, Fail: true, Code: codeEMVProtocol})
			b.transmit(b.engine(0), selectMF, okSW)
			if x := b.sent(0x6B); len(x) != 1 || !bytes.Equal(x[0].Data, []byte{0x1F, 0x01}) {
				t.Errorf("escape commands %v", x)
			}
		}},
		{"another reader does not", func(t *testing.T) {
			b := plug(t, profile(t, "P2"), &testCard{atr: atrT0}).start()
			b.model.Inject(ccidreader.Fault{On: 0x62, Fail: true, Code: codeEMVProtocol})
			b.transmit(b.engine(0), selectMF, okSW) // at another voltage
			if n := len(b.sent(0x6B)); n != 0 {
				t.Errorf("%d escape commands", n)
			}
		}},
		{"Kobil IDToken is powered off first", func(t *testing.T) {
			b := plug(t, as(t, "P2", 0x0D46, 0x301D, 0x0200), &testCard{atr: atrT0}).start()
			b.transmit(b.engine(0), selectMF, okSW)
			if n := len(b.sent(0x63)); n != 1 {
				t.Errorf("powered off %d times", n)
			}
		}},
		{"GemPC Twin serial: mute means none", func(t *testing.T) {
			b := plug(t, as(t, "P1", 0x08E6, 0x3480, 0x0100), &testCard{atr: atrT0}).start()
			b.model.Inject(ccidreader.Fault{On: 0x62, Fail: true, Code: codeMute, Times: 3})
			_, err := b.slot(0).Reset(background)
			wantErr(t, "Reset", err, ifd.ErrNoCard)
			st, err := b.slot(0).(ifd.Presence).Status(background)
			if err != nil || st.Present {
				t.Errorf("status %+v, %v", st, err)
			}
			b.transmit(b.engine(0), selectMF, okSW)
			if st, _ = b.slot(0).(ifd.Presence).Status(background); !st.Present {
				t.Error("the card that answers is not there")
			}
		}},
		{"SCR331-DI: one slot only", func(t *testing.T) {
			p := as(t, "P10", 0x04E6, 0x5120, 0x0700)
			b := plug(t, p, &testCard{atr: atrT0}).start()
			if n := len(b.reader.Slots()); n != 1 {
				t.Errorf("%d slots", n)
			}
		}},
		{"old firmware is named", func(t *testing.T) {
			b := plug(t, as(t, "P1", 0x04E6, 0xE001, 0x0515), &testCard{atr: atrT0}).start()
			if !bytes.Contains(b.log.Bytes(), []byte("firmware is known to be faulty")) {
				t.Error("no warning")
			}
			b = plug(t, as(t, "P1", 0x04E6, 0xE001, 0x0516), &testCard{atr: atrT0}).start()
			if bytes.Contains(b.log.Bytes(), []byte("faulty")) {
				t.Error("a warning of good firmware")
			}
		}},
		{"AU9540 does without parameters", func(t *testing.T) {
			b := plug(t, as(t, "P3", 0x058F, 0x9540, 0x0200), &testCard{atr: atrT0}).start()
			b.model.Inject(ccidreader.Fault{On: 0x61, Fail: true, Code: codeHardware})
			b.transmit(b.engine(0), selectMF, okSW)
			if n := len(b.sent(0x62)); n != 3 {
				t.Errorf("powered on %d times, want once and two cycles", n)
			}
		}},
		{"Oz776: characters, no PPS, full packets avoided", func(t *testing.T) {
			p := as(t, "P6", 0x0B97, 0x7772, 0x0200)
			chip := &testCard{atr: atrT1Fast, answer: func([]byte) []byte { return counting(100) }}
			b := plug(t, p, chip).start()
			b.transmit(b.engine(0), []byte{0x00, 0xB0, 0x00, 0x00, 0x64}, counting(100))
			// T=1 answers in blocks of 32 and less; ask T=0 for 54 in one go.
			chip = &testCard{atr: atrT0, answer: func([]byte) []byte { return counting(54) }}
			b = plug(t, p, chip).start()
			b.transmit(b.engine(0), []byte{0x00, 0xB0, 0x00, 0x00, 0x36}, counting(54))
			for _, x := range b.sent(0x6F) {
				if len(x.Data) > 0 && x.Data[0] == 0xFF {
					t.Errorf("PPS % X", x.Data)
				}
				if n := int(x.Param[1]) + headerSize; n%64 == 0 {
					t.Errorf("an answer of %d bytes was asked for", n)
				}
			}
			b = plug(t, p, &testCard{atr: atrBoth}).start()
			_, err := b.reset(0, proto.T1)
			wantErr(t, "second protocol", err, ifd.ErrNotSupported)
			b.transmit(b.engine(0), selectMF, okSW)
		}},
		{"characters: parity errors and more time", func(t *testing.T) {
			b := plug(t, profile(t, "P6"))
			b.model.InsertOdd(0, &testCard{atr: atrT1}, ccidreader.Card{WTX: 2, Multiplier: 3})
			b.start()
			e := b.engine(0)
			b.transmit(e, selectMF, okSW)
			b.model.Inject(ccidreader.Fault{On: 0x6F, Fail: true, Code: codeParity})
			b.transmit(e, selectMF, okSW)
			b.model.Inject(ccidreader.Fault{On: 0x6F, Mangle: func(m []byte) []byte { m[1]--; return m[:len(m)-1] }})
			_, err := e.Transmit(background, selectMF, nil)
			wantErr(t, "a character is missing", err, ifd.ErrComm)
		}},
		{"eject: power off, and the motor where there is one", func(t *testing.T) {
			b := plug(t, profile(t, "P1"), &testCard{atr: atrT0}).start()
			b.engine(0)
			if err := b.slot(0).(ifd.Ejector).Eject(background, 0, ""); err != nil {
				t.Fatal(err)
			}
			if b.model.Powered(0) {
				t.Error("card has power")
			}
			b.model.Remove(0)
			if err := b.slot(0).(ifd.Ejector).Eject(background, 0, ""); err != nil {
				t.Errorf("without a card: %v", err)
			}
		}},
		{"empty and overlong ATRs", func(t *testing.T) {
			b := plug(t, profile(t, "P5"), &testCard{atr: atrT0}).start()
			b.model.Inject(ccidreader.Fault{On: 0x62, Times: 4, Mangle: func(m []byte) []byte { m[1] = 0; return m[:headerSize] }})
			_, err := b.slot(0).Reset(background)
			wantErr(t, "Reset", err, ifd.ErrNoATR)
			b.model.Inject(ccidreader.Fault{On: 0x62, Mangle: func(m []byte) []byte { m[1] = 60; return append(m[:headerSize], make([]byte, 60)...) }})
			raw, err := b.slot(0).Reset(background)
			if err != nil || len(raw) != 33 {
				t.Errorf("ATR of %d bytes, %v", len(raw), err)
			}
		}},
		{"a card without a readable ATR", func(t *testing.T) {
			for _, c := range []struct {
				profile string
				want    error
			}{{"P3", nil}, {"P4", nil}, {"P1", ifd.ErrInvalidATR}, {"P6", ifd.ErrInvalidATR}} {
				b := plug(t, profile(t, c.profile), &testCard{atr: []byte{0x3B, 0x00}}).start()
				if _, err := b.slot(0).Reset(background); err != nil {
					t.Fatal(err)
				}
				e, err := b.slot(0).Protocol(background, proto.Default, nil)
				if c.want != nil {
					wantErr(t, c.profile, err, c.want)
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				b.transmit(e, selectMF, okSW)
			}
		}},
		{"protocols that are not there", func(t *testing.T) {
			p := profile(t, "P3")
			p.Protocols = 1
			b := plug(t, p, &testCard{atr: atrBoth}).start()
			for _, id := range []proto.ID{proto.T1, proto.Transparent, proto.I2CShort, proto.Escape} {
				_, err := b.reset(0, id)
				wantErr(t, id.String(), err, ifd.ErrNotSupported)
			}
			b = plug(t, p, &testCard{atr: atrT1}).start()
			_, err := b.reset(0, proto.Default)
			wantErr(t, "T=1 card in a T=0 reader", err, ifd.ErrNotSupported)
			_, err = b.reset(0, proto.T0)
			wantErr(t, "T=0 of a T=1 card", err, ifd.ErrNotSupported)
		}},
		{"a rate by hand that the reader misses", func(t *testing.T) {
			b := plug(t, profile(t, "P14"), &testCard{atr: atrT1Fast}).start()
			b.model.Inject(ccidreader.Fault{On: 0x73, Mangle: func(m []byte) []byte { m[14], m[15] = 0, 0; return m }})
			b.transmit(b.engine(0), selectMF, okSW)
			if got := b.sent(0x61)[0].Data[0]; got != defaultFiDi {
				t.Errorf("parameters say %02X", got)
			}
			b.clean()
		}},
		{"specific mode and a table that has not its rate", func(t *testing.T) {
			p := profile(t, "P13")
			b := plug(t, p, &testCard{atr: card.BuildATR(0x90, []byte{0x97, 0x91, 0x01, 0x31, 0xFE, 0x45}, "")}).start()
			_, err := b.reset(0, proto.Default)
			wantErr(t, "Protocol", err, ifd.ErrNotSupported)
		}},
		{"PIN pad that reports the user in a status word", func(t *testing.T) {
			for sw, want := range map[uint16]error{0x6400: ifd.ErrUserTimeout, 0x6401: ifd.ErrUserAbort, 0x6402: ifd.ErrPINMismatch} {
				chip := &testCard{atr: atrT1, answer: func([]byte) []byte { return []byte{byte(sw >> 8), byte(sw)} }}
				b := plug(t, profile(t, "P11b"), chip).start()
				b.engine(0)
				b.model.Keys(ccidreader.Keys{PIN: "1234"})
				_, err := b.slot(0).(ifd.Verifier).Verify(background, pinRequest(t, "01 06", paddedVerify))
				wantErr(t, fmt.Sprintf("%04X", sw), err, want)
			}
		}},
		{"PIN pad that answers a T=1 entry without a block", func(t *testing.T) {
			b := plug(t, profile(t, "P11"), &testCard{atr: atrT1}).start()
			e := b.engine(0)
			for sw, want := range map[uint16]error{0x6401: ifd.ErrUserAbort, 0x9000: ifd.ErrComm} {
				b.model.Keys(ccidreader.Keys{Mismatch: true})
				b.model.Inject(ccidreader.Fault{On: 0x69, Mangle: func(m []byte) []byte {
					m[1] = 2
					return append(m[:headerSize], byte(sw>>8), byte(sw))
				}})
				_, err := b.slot(0).(ifd.Verifier).Verify(background, pinRequest(t, "01 06", paddedVerify))
				wantErr(t, fmt.Sprintf("%04X", sw), err, want)
				if want == ifd.ErrUserAbort {
					b.transmit(e, selectMF, okSW)
				} else {
					e = b.engine(0)
				}
			}
		}},
		{"unplugged at once", func(t *testing.T) {
			b := plug(t, profile(t, "P13"))
			b.port.Inject(vusb.Fault{On: vusb.Transfer{Control: true, Code: reqGetDataRates}, Unplug: true})
			_, err := Open(b.dev, b.options())
			wantErr(t, "Open", err, usb.ErrUnplugged)
		}},
		{"waiting for a turn can be given up", func(t *testing.T) {
			b := plug(t, profile(t, "P10"), &testCard{atr: atrT0}, &testCard{atr: atrT0}).start()
			e0, e1 := b.engine(0), b.engine(1)
			b.model.Inject(ccidreader.Fault{On: 0x6F, Delay: 2 * time.Second})
			done := make(chan error, 1)
			go func() {
				_, err := e0.Transmit(background, selectMF, nil)
				done <- err
			}()
			time.Sleep(time.Second) // on the test's own clock
			ctx, cancel := context.WithTimeout(background, 500*time.Millisecond)
			defer cancel()
			_, err := e1.Transmit(ctx, selectMF, nil)
			wantErr(t, "Transmit", err, context.DeadlineExceeded)
			if err := <-done; err != nil {
				t.Error(err)
			}
			b.clean()
		}},
	} {
		t.Run(c.name, func(t *testing.T) { bubble(t, c.run) })
	}
}
