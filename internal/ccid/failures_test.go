//go:build go1.25

package ccid

import (
	"context"
	"fmt"
	"testing"
	"time"

	"openct/internal/ifd"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/ccidreader"
)

// TestStalls: a stalled bulk endpoint is cleared, and the transfer tried once
// more.
func TestStalls(t *testing.T) {
	for _, ep := range []uint8{0x81, 0x02} {
		t.Run(fmt.Sprintf("endpoint %02x", ep), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := plug(t, profile(t, "P3"), &testCard{atr: atrT0}).start()
				e := b.engine(0)
				b.port.Inject(vusb.Fault{On: vusb.Transfer{Code: ep}, Stall: true})
				b.transmit(e, selectMF, okSW)
				b.port.Inject(vusb.Fault{On: vusb.Transfer{Code: ep}, Stall: true, Times: 2})
				_, err := e.Transmit(context.Background(), selectMF, nil)
				wantErr(t, "two stalls in a row", err, usb.ErrStall)
			})
		})
	}
}

// TestInterruptFailures: notifications that fail are asked for again, with
// growing pauses and without an end.
func TestInterruptFailures(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := plug(t, profile(t, "P1"))
		b.port.Inject(vusb.Fault{On: vusb.Transfer{Code: 0x83}, Stall: true, Times: 20})
		b.start()
		b.model.Insert(0, &testCard{atr: atrT0})
		if e := <-b.reader.(ifd.Notifier).Events(); !e.Present {
			t.Errorf("event %+v", e)
		}
	})
}

// TestParityError: a damaged T=1 block is asked for again, a damaged T=0
// exchange fails.
func TestParityError(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := plug(t, profile(t, "P1"), &testCard{atr: atrT1}).start()
		e := b.engine(0)
		b.model.Inject(ccidreader.Fault{On: 0x6F, Fail: true, Code: codeParity})
		b.transmit(e, selectMF, okSW)
		b = plug(t, profile(t, "P1"), &testCard{atr: atrT0}).start()
		e = b.engine(0)
		b.model.Inject(ccidreader.Fault{On: 0x6F, Fail: true, Code: codeParity})
		_, err := e.Transmit(context.Background(), selectMF, nil)
		wantErr(t, "T=0", err, ifd.ErrComm)
	})
}

// TestWrongAnswers: lengths and types that do not fit are one clear error
// each, and the reader goes on.
func TestWrongAnswers(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault ccidreader.Fault
		want  error
	}{
		{"dwLength too large", ccidreader.Fault{Longer: 5}, ifd.ErrComm},
		{"dwLength too small", ccidreader.Fault{Longer: -1}, ifd.ErrComm},
		{"dwLength huge", ccidreader.Fault{Longer: 1 << 30}, ifd.ErrComm},
		{"nothing but a header", ccidreader.Fault{Mangle: func(m []byte) []byte { return m[:headerSize] }}, ifd.ErrComm},
		{"another type", ccidreader.Fault{Type: 0x83}, ifd.ErrComm},
		{"a type of the interrupt pipe", ccidreader.Fault{Type: 0x50}, ifd.ErrComm},
		{"another type, failed", ccidreader.Fault{Type: 0x81, Fail: true, Code: codeHardware}, errHardware},
		{"reserved command status", ccidreader.Fault{Mangle: func(m []byte) []byte { m[7] |= 0xC0; m[8] = codeHardware; return m }}, errHardware},
		{"reserved card status", ccidreader.Fault{Mangle: func(m []byte) []byte { m[7] |= 0x43; m[8] = codeMute; return m }}, ifd.ErrNoCard},
		{"no status word", ccidreader.Fault{Mangle: func(m []byte) []byte { m[1] = 1; return m[:11] }}, ifd.ErrComm},
		{"unknown chain parameter", ccidreader.Fault{Mangle: func(m []byte) []byte { m[9] = 0x77; return m }}, ifd.ErrComm},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := plug(t, profile(t, "P3"), &testCard{atr: atrT0}).start()
				e := b.engine(0)
				c.fault.On = 0x6F
				b.model.Inject(c.fault)
				_, err := e.Transmit(context.Background(), selectMF, nil)
				wantErr(t, "Transmit", err, c.want)
				b.transmit(b.engine(0), selectMF, okSW)
			})
		})
	}
}

// TestEndlessResponse: a reader that chains for ever is left.
func TestEndlessResponse(t *testing.T) {
	for _, data := range []int{0, 200} {
		t.Run(fmt.Sprintf("%d bytes a block", data), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := plug(t, profile(t, "P4"), &testCard{atr: atrT0}).start()
				e := b.engine(0)
				b.model.Inject(ccidreader.Fault{On: 0x6F, Times: -1, Mangle: func(m []byte) []byte {
					m = append(m[:headerSize], make([]byte, data)...)
					m[1], m[2], m[9] = byte(data), 0, chainContinues
					return m
				}})
				_, err := e.Transmit(context.Background(), selectMF, nil)
				wantErr(t, "Transmit", err, ifd.ErrComm)
			})
		})
	}
}

// TestCancel: a shutdown need not wait for a card that thinks.
func TestCancel(t *testing.T) {
	for _, number := range []string{"P1", "P3"} {
		t.Run(number, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := plug(t, profile(t, number), &testCard{atr: atrT0}).start()
				e := b.engine(0)
				b.model.Inject(ccidreader.Fault{On: 0x6F, Extensions: 100, Factor: 2, Delay: time.Second})
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				defer cancel()
				began := time.Now()
				_, err := e.Transmit(ctx, selectMF, nil)
				wantErr(t, "Transmit", err, context.DeadlineExceeded)
				if d := time.Since(began); d > 6*time.Second {
					t.Errorf("took %v", d)
				}
				if n := len(b.sent(0x72)); n != 1 {
					t.Errorf("%d aborts", n)
				}
				b.transmit(b.engine(0), selectMF, okSW)
			})
		})
	}
}
