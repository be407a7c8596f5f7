//go:build go1.25

package serialtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/atr"
	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
	"openct/internal/serial/record"
	"openct/internal/usb"
)

// echoReader is a driver for the made-up reader of testdata/echo.jsonl.
type echoReader struct {
	serial.Line
}

func openEcho(l serial.Line, _ ifd.Options) (ifd.Reader, error) {
	if err := l.Set(serial.Params{Speed: 38400, Parity: serial.Even, StopBits: 2, CheckParity: true}); err != nil {
		return nil, err
	}
	return &echoReader{l}, l.Break(context.Background(), time.Second)
}

func (e *echoReader) Slots() []ifd.Slot { return []ifd.Slot{e} }

func (e *echoReader) Close() error {
	if err := e.SetLines(false, false); err != nil {
		return err
	}
	return e.Line.Close()
}

func (e *echoReader) ask(cmd []byte, n int) ([]byte, error) {
	ctx := context.Background()
	if err := e.Write(ctx, cmd); err != nil {
		return nil, err
	}
	buf := make([]byte, len(cmd)+n)
	got, err := serial.ReadFull(ctx, e, buf, 10*time.Second)
	return buf[min(got, len(cmd)):got], err
}

func (e *echoReader) Reset(context.Context) ([]byte, error) { return e.ask([]byte{1}, 4) }

func (e *echoReader) Status(context.Context) (ifd.Status, error) {
	b, err := e.ask([]byte{3}, 1)
	return ifd.Status{Present: err == nil && b[0] == 1}, err
}

func (e *echoReader) Protocol(context.Context, proto.ID, *atr.ATR) (proto.Engine, error) {
	return proto.NewTransparent(func(_ context.Context, apdu, resp []byte) ([]byte, error) {
		return e.ask(append([]byte{2}, apdu...), 2)
	}), nil
}

func TestPlay(t *testing.T) {
	Play(t, Driver{
		Files: []string{"testdata/echo.jsonl"},
		Open:  openEcho,
		Differences: []Difference{
			At("echo.jsonl:10", "the card says what it likes", Script(">> 01\n< 3b020000", "03043b020000")),
		},
		LeftOut: map[string]string{"mute": "this driver does not look"},
	})
}

// recorder is a testing.TB that keeps what it is told.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func TestReplay(t *testing.T) {
	ctx := context.Background()
	for _, tt := range []struct {
		name   string
		script string
		drive  func(r *Replay)
		errors []string
	}{
		{"in one write", "> 0102\n> 03", func(r *Replay) { _ = r.Write(ctx, []byte{1, 2, 3}) }, nil},
		{"in three", "> 010203", func(r *Replay) {
			for i := range 3 {
				_ = r.Write(ctx, []byte{byte(i + 1)})
			}
		}, nil},
		{"settings that are so already", "", func(r *Replay) {
			_ = r.Set(serial.Params{Speed: 9600, Bits: 8, StopBits: 1})
			_ = r.SetLines(true, true)
			_ = r.Flush(serial.Both)
		}, nil},
		{"wrong byte", "> 0102", func(r *Replay) { _ = r.Write(ctx, []byte{1, 3}) },
			[]string{"serialtest: script: got > 0103, want > 0102"}},
		{"too much", "> 01", func(r *Replay) { _ = r.Write(ctx, []byte{1, 3}) },
			[]string{"serialtest: script: got > 0103, want nothing more"}},
		{"too little", "> 0102", func(r *Replay) { _ = r.Write(ctx, []byte{1}) },
			[]string{"serialtest: script: never happened: > 0102", "serialtest: script: only 1 bytes of the first"}},
		{"out of turn", "set 9600 8E2 check\n> 01", func(r *Replay) { _ = r.Write(ctx, []byte{1}) },
			[]string{"serialtest: script: got > 01, want set 9600 8E2 check"}},
		{"parity not checked", "set 9600 8E2 check", func(r *Replay) {
			_ = r.Set(serial.Params{Speed: 9600, Parity: serial.Even, StopBits: 2})
		}, []string{"serialtest: script: got set 9600 8E2, want set 9600 8E2 check"}},
		{"other lines", "lines 10", func(r *Replay) { _ = r.SetLines(false, true) },
			[]string{"serialtest: script: got lines 01, want lines 10"}},
		{"no break", "break 1\nbreak 0", func(*Replay) {},
			[]string{"serialtest: script: never happened: break 1", "serialtest: script: never happened: break 0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rec := &recorder{TB: t}
			r := New(rec, tt.script)
			tt.drive(r)
			r.Done()
			if !slices.Equal(rec.errors, tt.errors) {
				t.Errorf("got  %q\nwant %q", rec.errors, tt.errors)
			}
		})
	}
}

func TestReplayAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		r := New(t, "set 9600 8E2 check\n>> 01\n< 90\n<! 00\n< 05\ninputs 10\nunplug")
		if err := r.Set(serial.Params{Speed: 9600, Parity: serial.Even, StopBits: 2, CheckParity: true}); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 8)
		if _, err := r.Read(ctx, buf, time.Second); !errors.Is(err, device.ErrTimeout) {
			t.Errorf("before its turn: %v", err)
		}
		if err := r.Write(ctx, []byte{1}); err != nil {
			t.Fatal(err)
		}
		if n, err := r.Read(ctx, buf, time.Second); fmt.Sprintf("%x", buf[:n]) != "019000" || !errors.Is(err, serial.ErrParity) {
			t.Errorf("% x, %v", buf[:n], err)
		}
		if n, err := r.Read(ctx, buf, time.Second); n != 1 || buf[0] != 5 || err != nil {
			t.Errorf("% x, %v", buf[:n], err)
		}
		if _, err := r.Read(ctx, buf, time.Second); !errors.Is(err, device.ErrUnplugged) {
			t.Error(err)
		}
		<-r.Gone()
		r.Done()
	})
}

// On USB a transfer is one write, each endpoint has a queue of packets of its
// own, and what does not fit is an overflow.
func TestReplayUSB(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		rec := &recorder{TB: t}
		r := New(rec, ">40/07/0001/0002\n>40/06 0102\n<81 5003\n<82 9000\n<82 01020304\n>02 05")
		dev := usbReplay{r}
		buf := make([]byte, 3)
		if _, err := dev.Bulk(ctx, 0x82, buf, time.Second); !errors.Is(err, usb.ErrTimeout) {
			t.Errorf("before its turn: %v", err)
		}
		late, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := dev.Interrupt(late, 0x81, buf); !errors.Is(err, usb.ErrTimeout) {
			t.Errorf("before its turn: %v", err)
		}
		if n, err := dev.Control(ctx, usb.Setup{RequestType: 0x40, Request: 7, Value: 1, Index: 2}, nil, time.Second); n != 0 || err != nil {
			t.Errorf("control without data: %d, %v", n, err)
		}
		if n, err := dev.Control(ctx, usb.Setup{RequestType: 0x40, Request: 6}, []byte{1, 2}, time.Second); n != 2 || err != nil {
			t.Errorf("control: %d, %v", n, err)
		}
		if n, err := dev.Bulk(ctx, 0x82, buf, time.Second); fmt.Sprintf("%x", buf[:n]) != "9000" || err != nil {
			t.Errorf("% x, %v", buf[:n], err)
		}
		if n, err := dev.Interrupt(ctx, 0x81, buf); fmt.Sprintf("%x", buf[:n]) != "5003" || err != nil {
			t.Errorf("% x, %v", buf[:n], err)
		}
		if _, err := dev.Bulk(ctx, 0x82, buf, time.Second); !errors.Is(err, usb.ErrOverflow) {
			t.Errorf("overflow: %v", err)
		}
		if _, err := dev.Bulk(ctx, 0x02, []byte{5, 6}, time.Second); !errors.Is(err, ErrScript) {
			t.Errorf("another transfer: %v", err)
		}
		if want := []string{"serialtest: script: got >02 0506, want >02 05"}; !slices.Equal(rec.errors, want) {
			t.Errorf("got %q, want %q", rec.errors, want)
		}
	})
}

func TestLines(t *testing.T) {
	r := New(t, "inputs 10")
	if in, err := r.Lines(); err != nil || !in.CTS || in.DSR {
		t.Errorf("%+v, %v", in, err)
	}
	r.NoLines()
	if _, err := r.Lines(); !errors.Is(err, serial.ErrNoLines) {
		t.Error(err)
	}
}

func TestSteps(t *testing.T) {
	const all = "> 0102\n>> 03\n< 9000\n<! 90\n< @5ms 9000\nset 9600 8E2 check\nset 115200 7O1\nlines 10\nbreak 1\ninputs 01\nunplug\n>02 0102\n>40/00 03\n<82 9000"
	steps, err := record.Steps(all)
	if err != nil {
		t.Fatal(err)
	}
	var back []string
	for _, s := range steps {
		back = append(back, s.String())
	}
	if got := strings.Join(back, "\n"); got != all {
		t.Errorf("got\n%s\nwant\n%s", got, all)
	}
	for _, bad := range []string{"> 0", "< @x 90", "jump", "set 9600", "set x 8N1", "set 9600 8X1", "lines", "lines 12", "break"} {
		if _, err := record.Steps(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
