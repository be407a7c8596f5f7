//go:build go1.25

package ccid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/atr"
	"openct/internal/hextest"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
	"openct/internal/vusb/ccidreader"
)

// TestFlawedATRs: an ATR that breaks the standard behind the bytes that name
// the protocol does not keep the card from working.
func TestFlawedATRs(t *testing.T) {
	for _, c := range []struct {
		name string
		atr  string
		want proto.ID // at TPDU level
	}{
		{"a status word behind it", "3B 84 80 01 01 11 20 03 36 90 00", proto.T0},
		{"a TCK at T=0", "3B 8B 00 52 75 74 6F 6B 65 6E 6C 74 53 44 E3", proto.T0},
		{"historical bytes missing", "3B 65 00 00 B0 46 41", proto.T0},
		{"wrong TCK, T=1", "3B D2 18 02 C1 0A 31 FE 58 C8 0D 50", proto.T1},
		{"cut short behind IFSC, T=1", "3B F2 18 00 02 C1 0A 31 FE", proto.T1},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				for _, number := range []string{"P1", "P2", "P3", "P5", "P6"} {
					b := plug(t, profile(t, number), &testCard{atr: hextest.Bytes(t, c.atr)}).start()
					e := b.engine(0)
					if number == "P1" && e.ID() != c.want {
						t.Errorf("protocol %v, want %v", e.ID(), c.want)
					}
					b.transmit(e, selectMF, okSW)
					b.clean()
				}
			})
		})
	}
}

// TestUnansweredIFS: a card that falls silent when it is told how long its
// blocks may be works on with 32 bytes.
func TestUnansweredIFS(t *testing.T) {
	for _, f := range []ccidreader.Fault{
		{Fail: true, Code: codeMute}, {Fail: true, Code: codeParity}, {Fail: true, Code: codeHardware}, {Fail: true, Code: 0x81}, {Lose: true},
	} {
		f.On = msgXfrBlock
		bubble(t, func(t *testing.T) {
			chip := &testCard{atr: atrT1, answer: func([]byte) []byte { return counting(100) }}
			b := plug(t, profile(t, "P1"), chip).start()
			b.model.Inject(f)
			b.transmit(b.engine(0), []byte{0x00, 0xB0, 0x00, 0x00, 0x64}, counting(100))
			b.clean()
		})
	}
}

// TestCardRemovedWhileReaderWaits: the reader reports the removal and never
// answers the command. The command ends at once, is aborted, and says that
// there is no card.
func TestCardRemovedWhileReaderWaits(t *testing.T) {
	background := context.Background()
	transmit := func(b *bench, e proto.Engine) error {
		_, err := e.Transmit(background, selectMF, nil)
		return err
	}
	verify := func(b *bench, _ proto.Engine) error {
		_, err := b.slot(0).(ifd.Verifier).Verify(background, pinRequest(t, "01 06", "00 20 00 01 08 FF FF FF FF FF FF FF FF"))
		return err
	}
	reset := func(b *bench, _ proto.Engine) error {
		_, err := b.slot(0).Reset(background)
		return err
	}
	parameters := func(b *bench, _ proto.Engine) error {
		a, err := atr.Parse(atrT0)
		if err == nil {
			_, err = b.slot(0).Protocol(background, proto.Default, a)
		}
		return err
	}
	for _, c := range []struct {
		name    string
		profile string
		on      byte
		run     func(*bench, proto.Engine) error
	}{
		{"TPDU", "P1", 0x6F, transmit},
		{"short APDU", "P3", 0x6F, transmit},
		{"extended APDU", "P4", 0x6F, transmit},
		{"characters", "P6", 0x6F, transmit},
		{"one of five slots", "P10b", 0x6F, transmit},
		{"power on", "P1", 0x62, reset},
		{"power on, automatic voltage", "P2", 0x62, reset},
		{"parameters", "P1", 0x61, parameters},
		{"PIN entry, TPDU", "P11", 0x69, verify},
		{"PIN entry, short APDU", "P11b", 0x69, verify},
	} {
		for _, silent := range []bool{false, true} { // forgets the command, or waits for the card
			t.Run(fmt.Sprintf("%s/forgotten %v", c.name, silent), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					b := plug(t, profile(t, c.profile), &testCard{atr: fixTCK(hextest.Bytes(t, "3B 02 14 50"))}).start()
					e := b.engine(0)
					if c.on == 0x69 {
						b.model.Keys(ccidreader.Keys{PIN: "1234"})
					}
					b.model.Inject(ccidreader.Fault{On: c.on, Lose: silent, Delay: time.Hour, Times: -1})
					began := time.Now()
					removal := time.AfterFunc(time.Second, func() { b.model.Remove(0) })
					defer removal.Stop()
					err := c.run(b, e)
					wantErr(t, c.name, err, ifd.ErrNoCard)
					if d := time.Since(began) - time.Second; d > removalGrace {
						t.Errorf("ended %v after the removal", d)
					}
					commands, aborts := b.sent(c.on), b.sent(0x72)
					if len(aborts) != 1 || aborts[0].Seq != commands[len(commands)-1].Seq {
						t.Errorf("aborts %v of %v", aborts, commands)
					}
					b.model.Heal()
					b.model.Insert(0, &testCard{atr: atrT0})
					b.transmit(b.engine(0), selectMF, okSW)
					b.clean()
				})
			})
		}
	}
}

// TestCardRemovedAndToldInTheAnswer: a reader that answers by itself is not
// sent an abort, and a command without a use for the card is left alone.
func TestCardRemovedAndToldInTheAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := plug(t, profile(t, "P3"), &testCard{atr: atrT0}).start()
		e := b.engine(0)
		b.model.Inject(ccidreader.Fault{On: 0x6F, Pull: true, Delay: removalGrace / 2})
		_, err := e.Transmit(context.Background(), selectMF, nil)
		wantErr(t, "Transmit", err, ifd.ErrNoCard)
		b.model.Insert(0, &testCard{atr: atrT0})
		b.engine(0)
		b.model.Inject(ccidreader.Fault{On: 0x65, Delay: time.Second})
		b.model.Remove(0)
		st, err := b.slot(0).(ifd.Presence).Status(context.Background())
		if err != nil || st.Present {
			t.Errorf("status %+v, %v", st, err)
		}
		if n := len(b.sent(0x72)); n != 0 {
			t.Errorf("%d aborts", n)
		}
		b.clean()
	})
}

// TestStatusDoesNotWaitForACard: while one slot's card thinks, another slot's
// status is not waited for.
func TestStatusDoesNotWaitForACard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := plug(t, profile(t, "P10"), &testCard{atr: atrT0}).start()
		e := b.engine(0)
		b.model.Inject(ccidreader.Fault{On: 0x6F, Delay: time.Minute})
		done := make(chan error, 1)
		go func() {
			_, err := e.Transmit(context.Background(), selectMF, nil)
			done <- err
		}()
		synctest.Wait()
		began := time.Now()
		_, err := b.slot(1).(ifd.Presence).Status(context.Background())
		wantErr(t, "Status", err, ifd.ErrBusy)
		if d := time.Since(began); d > 0 {
			t.Errorf("took %v", d)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		b.clean()
	})
}

// TestTimeExtensionMultiplies: bError of a time extension says by how much the
// wait is to be multiplied (CCID 1.1, 6.2.6).
func TestTimeExtensionMultiplies(t *testing.T) {
	for _, c := range []struct {
		name   string
		factor byte
		think  time.Duration
		want   error
	}{
		{"within three times", 3, 5 * escapeTimeout / 2, nil},
		{"beyond three times", 3, 7 * escapeTimeout / 2, usb.ErrTimeout},
		{"0 is once", 0, escapeTimeout / 2, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := plug(t, profile(t, "P3"), &testCard{atr: atrT0})
				o := b.options()
				o.Escape = true
				b.startWith(o)
				e, err := b.slot(0).Protocol(context.Background(), proto.Escape, nil)
				if err != nil {
					t.Fatal(err)
				}
				b.model.Inject(ccidreader.Fault{On: 0x6B, Extensions: 1, Factor: c.factor, Delay: time.Second, Think: c.think})
				_, err = e.Transmit(context.Background(), []byte{1, 2, 3}, nil)
				if !errors.Is(err, c.want) {
					t.Errorf("error %v, want %v", err, c.want)
				}
			})
		})
	}
}

// TestResetHistory: a card that works at one voltage and stays mute at a warm
// reset is deactivated and gets a cold one at that voltage; another voltage
// comes only then, and only after a deactivation (ISO/IEC 7816-3, 6.2.3, 6.2.4).
func TestResetHistory(t *testing.T) {
	for _, c := range []struct {
		name    string
		profile string
		odd     ccidreader.Card
		mute    int // resets, the second and what follows
		between func(b *bench)
		want    string // of the second reset
	}{
		{"warm", "P1", ccidreader.Card{}, 0, nil, "[on 1]"},
		{"mute when warm", "P1", ccidreader.Card{}, 1, nil, "[on 1 off on 1]"},
		{"a card of 3 V", "P1", ccidreader.Card{Voltages: 2}, 1, nil, "[on 2 off on 2]"},
		{"mute when cold, too", "P1", ccidreader.Card{}, 2, nil, "[on 1 off on 1 off on 2]"},
		{"mute for good", "P1", ccidreader.Card{}, 99, nil, "[on 1 off on 1 off on 2 off on 3 off]"},
		{"automatic, found by hand", "P2", ccidreader.Card{AutoFails: true, Voltages: 2}, 1, nil, "[on 2 off on 2]"},
		{"another card", "P1", ccidreader.Card{Voltages: 2}, 0, func(b *bench) {
			b.model.Remove(0)
			b.model.Insert(0, &testCard{atr: atrT0})
		}, "[on 1]"},
		{"power was cut", "P1", ccidreader.Card{Voltages: 2}, 0, func(b *bench) {
			if err := b.slot(0).(ifd.Ejector).Eject(context.Background(), 0, ""); err != nil {
				b.t.Fatal(err)
			}
		}, "[off on 2]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := plug(t, profile(t, c.profile))
				b.model.InsertOdd(0, &testCard{atr: atrT0}, c.odd)
				b.start()
				b.engine(0)
				done := len(b.model.Commands())
				if c.between != nil {
					c.between(b)
					synctest.Wait()
				}
				if c.mute > 0 {
					b.model.Inject(ccidreader.Fault{On: 0x62, Fail: true, Code: codeMute, Times: c.mute})
				}
				_, err := b.slot(0).Reset(context.Background())
				if (err == nil) != (c.mute < 99) {
					t.Error(err)
				}
				var order []string
				for _, x := range b.model.Commands()[done:] {
					switch x.Type {
					case 0x62:
						order = append(order, fmt.Sprint("on ", x.Param[0]))
					case 0x63:
						order = append(order, "off")
					}
				}
				if fmt.Sprint(order) != c.want {
					t.Errorf("%v, want %s", order, c.want)
				}
				b.clean()
			})
		})
	}
}

// TestFullPackets: answers whose length is a multiple of the packet, with and
// without an empty packet behind them, at once or late, after a time extension
// each. None is waited for.
func TestFullPackets(t *testing.T) {
	for _, packet := range []int{64, 512} {
		for _, length := range []int{64, 128, 192, 256, 512} {
			for _, end := range []string{"none", "at once", "late", "none of the short ones"} {
				t.Run(fmt.Sprintf("packets of %d/%d bytes/%s", packet, length, end), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						want := counting(length - headerSize - 2)
						chip := &testCard{atr: atrT0, answer: func([]byte) []byte { return want }}
						p := profile(t, "P3")
						p.Packet, p.Message = packet, 1034
						b := plug(t, p, chip).start()
						e := b.engine(0)
						f := ccidreader.Fault{On: 0x6F, Extensions: 1, Times: -1, NoEnd: end == "none" || end == "late"}
						if end == "late" {
							f.Empty = 1 // ahead of the next answer
						}
						if end == "none of the short ones" {
							f.NoEnd = length == packet
						}
						b.model.Inject(f)
						began := time.Now()
						for range 3 {
							b.transmit(e, []byte{0x00, 0xB0, 0x00, 0x00, 0x00}, want)
						}
						if d := time.Since(began); d > 0 {
							t.Errorf("waited %v", d)
						}
					})
				})
			}
		}
	}
}

// TestPadding: bytes behind dwLength are ignored, and told once.
func TestPadding(t *testing.T) {
	for _, pad := range []int{1, 7, 52, 54, 116, 500} {
		for _, noEnd := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes, end packet missing %v", pad, noEnd), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					b := plug(t, profile(t, "P3"), &testCard{atr: atrT0})
					b.model.Inject(ccidreader.Fault{Times: -1, NoEnd: noEnd, Mangle: func(m []byte) []byte {
						return append(m, make([]byte, pad)...)
					}})
					b.start()
					e := b.engine(0)
					began := time.Now()
					for range 3 {
						b.transmit(e, selectMF, okSW)
					}
					if d := time.Since(began); d > 0 {
						t.Errorf("waited %v", d)
					}
					if n := bytes.Count(b.log.Bytes(), []byte("more bytes than")); n != 1 {
						t.Errorf("told %d times", n)
					}
				})
			})
		}
	}
}

// TestStatusBitsLeftOver: bError counts only in an answer that has failed, and
// a SetParameters that the reader does not know may come back with the status
// of the command before.
func TestStatusBitsLeftOver(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault ccidreader.Fault
	}{
		{"bError 81 on success", ccidreader.Fault{Times: -1, Mangle: func(m []byte) []byte { m[8] = 0x81; return m }}},
		{"bError FE on success", ccidreader.Fault{Times: -1, Mangle: func(m []byte) []byte { m[8] = codeMute; return m }}},
		{"SetParameters, success left over", ccidreader.Fault{On: 0x61, Times: -1, Mangle: func(m []byte) []byte {
			m[1], m[7], m[8] = 0, 0x00, 0x00
			return m[:headerSize]
		}}},
		{"SetParameters, unsupported, bError left over", ccidreader.Fault{On: 0x61, Times: -1, Mangle: func(m []byte) []byte {
			m[1], m[7], m[8] = 0, 0x40, 0x81
			return m[:headerSize]
		}}},
		{"SetParameters, answered as a SlotStatus", ccidreader.Fault{On: 0x61, Times: -1, Type: 0x81, Fail: true}},
	} {
		for _, number := range []string{"P1", "P2", "P3", "P4"} {
			t.Run(c.name+"/"+number, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					b := plug(t, profile(t, number), &testCard{atr: atrT0})
					b.model.Inject(c.fault)
					b.start()
					b.transmit(b.engine(0), selectMF, okSW)
					b.clean()
				})
			})
		}
	}
}

// loose is a transport that answers each message by a function.
type loose struct {
	answer func(msg []byte) [][]byte
	queue  [][]byte
}

func (l *loose) name() string                            { return "loose" }
func (l *loose) abort(context.Context, byte, byte) error { return nil }
func (l *loose) gone() <-chan struct{}                   { return nil }
func (l *loose) close() error                            { return nil }
func (l *loose) send(_ context.Context, msg []byte) error {
	l.queue = append(l.queue, l.answer(msg)...)
	return nil
}
func (l *loose) recv(ctx context.Context, _ time.Duration) ([]byte, error) {
	if len(l.queue) == 0 {
		return nil, usb.ErrTimeout
	}
	msg := l.queue[0]
	l.queue = l.queue[1:]
	return msg, nil
}

// TestAbortDropsQueuedAnswers: an answer that came while the command was given
// up is not taken for the abort's.
func TestAbortDropsQueuedAnswers(t *testing.T) {
	l := &loose{answer: func(msg []byte) [][]byte {
		return [][]byte{{msgSlotStatus, 0, 0, 0, 0, msg[5], msg[6], 0, 0, 0}}
	}}
	c := newConn(l, 1, newRoom(1), slog.New(slog.DiscardHandler))
	defer c.close()
	cl := c.slots[0]
	if _, err := c.begin(context.Background(), cl, xfrBlock(0, 0, nil)); err != nil {
		t.Fatal(err)
	}
	c.dispatch([]byte{msgDataBlock, 2, 0, 0, 0, 0, cl.seq, 0, 0, 0, 0x90, 0x00})
	if err := c.tryAbort(cl); err != nil {
		t.Error(err)
	}
	if len(l.queue) != 0 {
		t.Errorf("the abort's own answer was not read: % X", l.queue)
	}
}

// TestNoPINStays: after an APDU and its response, no buffer of the conn holds a
// byte of either.
func TestNoPINStays(t *testing.T) {
	secret := []byte("31415926")
	for _, number := range []string{"P1", "P3", "P4", "P6"} {
		for _, a := range [][]byte{atrT0, atrT1} {
			chip := &testCard{atr: a, answer: func([]byte) []byte { return append(bytes.Clone(secret), okSW...) }}
			b := plug(t, profile(t, number), chip).start()
			e := b.engine(0)
			apdu := append(append([]byte{0x00, 0x2A, 0x80, 0x86, 0x08}, secret...), 0x00)
			if got, err := e.Transmit(context.Background(), apdu, nil); err != nil || !bytes.HasPrefix(got, secret) {
				t.Fatalf("%s: % X, %v", number, got, err)
			}
			p := b.reader.(notifyingReader).parts[0]
			for what, buf := range map[string][]byte{
				"message to the reader": p.c.out, "answer": p.c.slots[0].data, "transfer": p.t.(*usbTransport).buf,
			} {
				if bytes.Contains(buf[:cap(buf)], secret) {
					t.Errorf("%s: the %s is still there", number, what)
				}
			}
			if l := p.slots[0].card.link; l != nil && bytes.Contains(l.block[:cap(l.block)], secret) {
				t.Errorf("%s: the block is still there", number)
			}
		}
	}
}

// echoing is a transport that answers each message with 9000.
type echoing struct{ msg [headerSize + 2]byte }

func (*echoing) name() string                            { return "echoing" }
func (*echoing) abort(context.Context, byte, byte) error { return nil }
func (*echoing) gone() <-chan struct{}                   { return nil }
func (*echoing) close() error                            { return nil }
func (e *echoing) send(_ context.Context, msg []byte) error {
	e.msg = [headerSize + 2]byte{msgDataBlock, 2, 0, 0, 0, msg[5], msg[6], 0, 0, 0, 0x90, 0x00}
	return nil
}
func (e *echoing) recv(context.Context, time.Duration) ([]byte, error) { return e.msg[:], nil }

// TestExchangeCosts: the only command in flight costs no memory and no other
// goroutine, as long as one client sends its APDUs.
func TestExchangeCosts(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	before := runtime.NumGoroutine()
	c := newConn(&echoing{}, 1, newRoom(1), slog.New(slog.DiscardHandler))
	defer c.close()
	apdu := []byte{0x00, 0xA4, 0x00, 0x00}
	n := testing.AllocsPerRun(100, func() {
		if r, err := c.run(ctx, 0, xfrBlock(0, 0, apdu), time.Second); err != nil || len(r.data) != 2 {
			t.Fatal(r, err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations an exchange", n)
	}
	if now := runtime.NumGoroutine(); now > before {
		t.Errorf("%d goroutines more", now-before)
	}
}

// TestPINTimeoutHasACap: a client's number does not make a silent reader keep
// the card for longer than the reader could be told to wait.
func TestPINTimeoutHasACap(t *testing.T) {
	for _, number := range []string{"P11", "P11b"} {
		bubble(t, func(t *testing.T) {
			b := plug(t, profile(t, number), &testCard{atr: atrT0}).start()
			b.engine(0)
			b.model.Inject(ccidreader.Fault{On: 0x69, Lose: true})
			v := pinRequest(t, "01 06", "00 20 00 01 08 FF FF FF FF FF FF FF FF")
			v.Timeout = time.Duration(1<<32-1) * time.Second
			began := time.Now()
			_, err := b.slot(0).(ifd.Verifier).Verify(context.Background(), v)
			wantErr(t, "Verify", err, usb.ErrTimeout)
			if d := time.Since(began); d > maxPINTimeout+extraPINWait {
				t.Errorf("waited %v", d)
			}
			if got := b.sent(0x69)[0].Data[1]; got != 255 {
				t.Errorf("bTimeOut %d", got)
			}
		})
	}
}

// halting is a USB device that sends the packets of one message, and does not
// go on after the first until it is told to.
type halting struct {
	usb.Device
	packets [][]byte
	halt    context.CancelFunc // nil: it goes on
}

func (h *halting) Descriptor() *usb.Descriptor { return &usb.Descriptor{} }

func (h *halting) Bulk(ctx context.Context, _ uint8, data []byte, _ time.Duration) (int, error) {
	if len(h.packets) == 0 {
		return 0, usb.ErrTimeout
	}
	if halt := h.halt; halt != nil && len(h.packets) == 1 {
		h.halt = nil
		halt()
		return 0, ctx.Err()
	}
	n := copy(data, h.packets[0])
	h.packets = h.packets[1:]
	return n, nil
}

// TestMessageOutlivesItsReader: the command whose goroutine reads is given up in
// the middle of a message, which may be another slot's. The next one to read
// gets all of it.
func TestMessageOutlivesItsReader(t *testing.T) {
	want := append([]byte{msgDataBlock, 90, 0, 0, 0, 1, 7, 0, 0, 0}, counting(88)...)
	ctx, cancel := context.WithCancel(context.Background())
	d := &halting{packets: [][]byte{want[:64], want[64:]}, halt: cancel}
	u := newUSBTransport(d, function{packet: 64})
	if msg, err := u.recv(ctx, time.Second); !errors.Is(err, context.Canceled) {
		t.Fatalf("% X, %v", msg, err)
	}
	msg, err := u.recv(context.Background(), time.Second)
	if err != nil || !bytes.Equal(msg, want) {
		t.Errorf("% X, %v, want % X", msg, err, want)
	}
}

// TestInsertionBeforeTheReset: a card that was inserted and then reset has not
// changed since; its session must not end with the next STATUS.
func TestInsertionBeforeTheReset(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := plug(t, profile(t, "P3")).start()
		b.model.Insert(0, &testCard{atr: atrT0})
		synctest.Wait()
		b.engine(0)
		st, err := b.slot(0).(ifd.Presence).Status(context.Background())
		if want := (ifd.Status{Present: true}); err != nil || st != want {
			t.Errorf("%+v, %v, want %+v", st, err, want)
		}
	})
}
