//go:build go1.25

package driver

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/reader"
	"openct/internal/serial"
	"openct/internal/vusb/serialline"
)

// virtualLine is a line with a virtual reader at its other end. Bytes take no
// time.
type virtualLine struct {
	serial.Line // what it lacks is not called
	reader      serialline.Reader
	in          []byte
	gone        chan struct{}
	pullAfter   int // bytes from the host until the adapter is pulled; 0: never
}

func newVirtualLine(r serialline.Reader) *virtualLine {
	return &virtualLine{reader: r, gone: make(chan struct{})}
}

func (l *virtualLine) Name() string              { return "virtual" }
func (l *virtualLine) Gone() <-chan struct{}     { return l.gone }
func (l *virtualLine) Set(p serial.Params) error { l.reader.Set(p); return l.state() }
func (l *virtualLine) Flush(serial.Queue) error  { l.in = nil; return l.state() }
func (l *virtualLine) Close() error              { return nil }

func (l *virtualLine) SetLines(dtr, rts bool) error {
	l.reader.SetLines(dtr, rts)
	return l.state()
}

func (l *virtualLine) state() error {
	select {
	case <-l.gone:
		return device.ErrUnplugged
	default:
		return nil
	}
}

func (l *virtualLine) Write(_ context.Context, b []byte) error {
	for _, c := range b {
		if err := l.state(); err != nil {
			return err
		}
		for _, char := range l.reader.Send(c) {
			l.in = append(l.in, char.Byte)
		}
		if l.pullAfter--; l.pullAfter == 0 {
			close(l.gone)
		}
	}
	return nil
}

func (l *virtualLine) Read(_ context.Context, buf []byte, timeout time.Duration) (int, error) {
	if n := copy(buf, l.in); n > 0 {
		l.in = l.in[n:]
		return n, nil
	}
	if err := l.state(); err != nil {
		return 0, err
	}
	time.Sleep(timeout)
	return 0, device.ErrTimeout
}

// onTowitoko opens the driver at a line and makes the core for it.
func onTowitoko(t *testing.T, l serial.Line) *reader.Reader {
	t.Helper()
	r, err := openTowitoko(l, ifd.Options{Name: "Towitoko", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	// A reader that the core does not ask once a second.
	core := reader.New(quiet{r, make(chan ifd.Event)}, slog.New(slog.DiscardHandler), func(int, ifd.Status) {})
	t.Cleanup(func() {
		if err := core.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return core
}

type quiet struct {
	ifd.Reader
	events chan ifd.Event
}

func (q quiet) Events() <-chan ifd.Event { return q.events }
func (q quiet) Close() error             { close(q.events); return q.Reader.Close() }

func slotOf(t *testing.T, core *reader.Reader, i int) *reader.Slot {
	t.Helper()
	s, err := core.Slot(i)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
