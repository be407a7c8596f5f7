package usbtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"openct/internal/usb"
	"openct/internal/usb/record"
)

// ikey2k is the start of the iKey 2032's golden transcript.
const ikey2k = `
# description, then power off
IN  C1 00 0000 0000 len 64  T d     0D 63 00 05 2D 2D C0 80 80 60 80 01 19
OUT 41 16 0000 0000 []      T d
IN  C1 01 0000 0000 len 2   T d     00
OUT 41 17 0000 0007 [A4 00 00 02 3F 00 9E]  T 500
IN  C1 01 0000 0000 len 255 T 20000 00 00 02 90 00 92 40 98 C1
`

// capture is a testing.TB that keeps what a fake reports.
type capture struct {
	testing.TB
	errs []string
}

func (c *capture) Helper()                      {}
func (c *capture) Errorf(f string, args ...any) { c.errs = append(c.errs, fmt.Sprintf(f, args...)) }

func TestPlaybackAnswersScript(t *testing.T) {
	p := Parse(t, ikey2k)
	defer p.Done(t)
	buf := make([]byte, 64)
	n, err := p.Control(t.Context(), usb.Setup{RequestType: 0xC1}, buf, 10*time.Second)
	if err != nil || n != 13 || buf[12] != 0x19 {
		t.Fatalf("got % X, %v", buf[:n], err)
	}
	if n, err := p.Control(t.Context(), usb.Setup{RequestType: 0x41, Request: 0x16}, nil, 10*time.Second); n != 0 || err != nil {
		t.Fatalf("got %d, %v", n, err)
	}
	if n, err := p.Control(t.Context(), usb.Setup{RequestType: 0xC1, Request: 1}, buf[:2], 10*time.Second); n != 1 || err != nil {
		t.Fatalf("got %d, %v", n, err)
	}
	block := []byte{0xA4, 0, 0, 2, 0x3F, 0, 0x9E}
	if n, err := p.Control(t.Context(), usb.Setup{RequestType: 0x41, Request: 0x17, Index: 7}, block, 500*time.Millisecond); n != 7 || err != nil {
		t.Fatalf("got %d, %v", n, err)
	}
	if n, err := p.Control(t.Context(), usb.Setup{RequestType: 0xC1, Request: 1}, make([]byte, 255), 20*time.Second); n != 9 || err != nil {
		t.Fatalf("got %d, %v", n, err)
	}
}

func TestPlaybackReportsMisfits(t *testing.T) {
	const script = "OUT 40 06 0000 0000 [01 02] T 1000"
	out := usb.Setup{RequestType: 0x40, Request: 6}
	tests := []struct {
		name string
		do   func(p *Playback) error
		want string
	}{
		{"data", func(p *Playback) error { _, err := p.Control(t.Context(), out, []byte{1, 3}, time.Second); return err },
			"got OUT 40 06 0000 0000 [01 03] T 1000, want OUT 40 06 0000 0000 [01 02] T 1000"},
		{"timeout", func(p *Playback) error { _, err := p.Control(t.Context(), out, []byte{1, 2}, time.Minute); return err }, "T 60000, want"},
		{"request", func(p *Playback) error {
			_, err := p.Control(t.Context(), usb.Setup{RequestType: 0x40}, []byte{1, 2}, time.Second)
			return err
		}, "got OUT 40 00"},
		{"kind", func(p *Playback) error { _, err := p.Bulk(t.Context(), 2, []byte{1, 2}, time.Second); return err }, "got BULK 02 [01 02]"},
		{"after the end", func(p *Playback) error {
			if _, err := p.Control(t.Context(), out, []byte{1, 2}, time.Second); err != nil {
				return fmt.Errorf("too early: %w", err)
			}
			return p.ClearHalt(0x81)
		}, "got HALT 81, the script has ended"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &capture{TB: t}
			p := Parse(c, script)
			if err := tt.do(p); !errors.Is(err, ErrScript) {
				t.Errorf("got %v, want ErrScript", err)
			}
			if len(c.errs) != 1 || !strings.Contains(c.errs[0], tt.want) {
				t.Errorf("reported %q, want one with %q", c.errs, tt.want)
			}
			p.Done(c)
			if len(c.errs) != 1 {
				t.Errorf("Done repeats itself: %q", c.errs)
			}
		})
	}
}

// A transfer whose context has ended takes no line of the script.
func TestPlaybackContext(t *testing.T) {
	p := Parse(t, "OUT 40 06 0000 0000 [01] T 1000")
	defer p.Done(t)
	do := func(ctx context.Context) error {
		_, err := p.Control(ctx, usb.Setup{RequestType: 0x40, Request: 6}, []byte{1}, time.Second)
		return err
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := do(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	late, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	if err := do(late); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, usb.ErrTimeout) {
		t.Errorf("got %v, want %v", err, usb.ErrTimeout)
	}
	if err := do(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDoneReportsLeftOver(t *testing.T) {
	c := &capture{TB: t}
	Parse(c, "CLAIM 0 0\nINT 81 len 8 50 03").Done(c)
	want := []string{"usbtest: never happened: CLAIM 0 0", "usbtest: never happened: INT 81 len 8 50 03"}
	if diff := cmp.Diff(want, c.errs); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}
}

func TestPlaybackErrors(t *testing.T) {
	tests := []struct {
		word string
		want error
	}{
		{"STALL", usb.ErrStall}, {"TIMEOUT", usb.ErrTimeout}, {"UNPLUG", usb.ErrUnplugged},
		{"OVERFLOW", usb.ErrOverflow}, {"IO", usb.ErrIO}, {"BUSY", usb.ErrBusy},
	}
	for _, tt := range tests {
		t.Run(tt.word, func(t *testing.T) {
			p := Parse(t, "IN C0 86 0000 0000 len 4 3B 00 "+tt.word)
			defer p.Done(t)
			n, err := p.Control(t.Context(), usb.Setup{RequestType: 0xC0, Request: 0x86}, make([]byte, 4), time.Second)
			if n != 2 || !errors.Is(err, tt.want) {
				t.Errorf("got %d, %v; want 2 bytes and %v", n, err, tt.want)
			}
			gone := false
			select {
			case <-p.Gone():
				gone = true
			default:
			}
			if gone != (tt.want == usb.ErrUnplugged) {
				t.Errorf("gone is %v", gone)
			}
		})
	}
}

func TestClaims(t *testing.T) {
	t.Run("not in the script", func(t *testing.T) {
		p := Parse(t, "HALT 81")
		defer p.Done(t)
		if err := errors.Join(p.Claim(0, 0), p.ClearHalt(0x81), p.Release(0)); err != nil {
			t.Error(err)
		}
	})
	t.Run("in the script", func(t *testing.T) {
		p := Parse(t, "CLAIM 1 2\nRELEASE 1\nCLAIM 0 0 BUSY")
		defer p.Done(t)
		if err := errors.Join(p.Claim(1, 2), p.Release(1)); err != nil {
			t.Error(err)
		}
		if err := p.Claim(0, 0); !errors.Is(err, usb.ErrBusy) {
			t.Errorf("got %v, want ErrBusy", err)
		}
	})
}

func TestInterruptOrder(t *testing.T) {
	p := Parse(t, "HALT 82\nINT 81 len 8 50 03\nHALT 83")
	defer p.Done(t)
	type result struct {
		n   int
		err error
	}
	got := make(chan result)
	go func() {
		n, err := p.Interrupt(t.Context(), 0x81, make([]byte, 8))
		got <- result{n, err}
	}()
	if err := p.ClearHalt(0x82); err != nil {
		t.Fatal(err)
	}
	if r := <-got; r.n != 2 || r.err != nil {
		t.Fatalf("got %+v", r)
	}
	if err := p.ClearHalt(0x83); err != nil {
		t.Fatal(err)
	}
}

func TestInterruptWaits(t *testing.T) {
	expired, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	tests := []struct {
		name string
		ctx  context.Context
		end  func(p *Playback)
		want error
	}{
		{"deadline", expired, func(*Playback) {}, usb.ErrTimeout},
		{"unplug", t.Context(), (*Playback).Unplug, usb.ErrUnplugged},
		{"close", t.Context(), func(p *Playback) { p.Close() }, usb.ErrClosed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := Parse(t, "")
			got := make(chan error)
			go func() {
				_, err := p.Interrupt(tt.ctx, 0x81, make([]byte, 8))
				got <- err
			}()
			tt.end(p)
			if err := <-got; !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestRecordPlaysBack(t *testing.T) {
	const script = `CLAIM 0 0
OUT 40 01 0000 0000 [] T 1000
IN  C0 81 0000 0000 len 35 T 1000 02 3B 00
BULK 02 [01 02] T 20
BULK 81 len 64 T 20 05
INT 81 len 8 50 02
HALT 81
IN  C0 86 0000 0000 len 4 T 7 STALL
RELEASE 0
`
	p := Parse(t, script)
	r := record.New(p)
	buf := make([]byte, 64)
	r.Claim(0, 0)
	r.Control(t.Context(), usb.Setup{RequestType: 0x40, Request: 1}, nil, time.Second)
	r.Control(t.Context(), usb.Setup{RequestType: 0xC0, Request: 0x81}, buf[:35], time.Second)
	r.Bulk(t.Context(), 2, []byte{1, 2}, 20*time.Millisecond)
	r.Bulk(t.Context(), 0x81, buf, 20*time.Millisecond)
	r.Interrupt(t.Context(), 0x81, buf[:8])
	r.ClearHalt(0x81)
	r.Control(t.Context(), usb.Setup{RequestType: 0xC0, Request: 0x86}, buf[:4], 7*time.Millisecond)
	r.Release(0)
	p.Done(t)
	if diff := cmp.Diff(script, r.String()); diff != "" {
		t.Errorf("recorded script (-want +got):\n%s", diff)
	}
}
