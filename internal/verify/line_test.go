//go:build go1.25

package verify_test

import (
	"context"
	"time"

	"openct/internal/device"
	"openct/internal/serial"
	"openct/internal/vusb/serialline"
)

// line is a serial line with a virtual reader at its end, at once.
type line struct {
	reader serialline.Reader
	in     []serialline.Char
	gone   chan struct{}

	noLines bool // it has no modem lines
}

// newLine makes a line as serial.Open leaves one.
func newLine(r serialline.Reader) *line {
	r.Set(serial.Default)
	return &line{reader: r, in: r.SetLines(true, true), gone: make(chan struct{})}
}

func (l *line) Name() string          { return "virtual" }
func (l *line) Gone() <-chan struct{} { return l.gone }
func (l *line) Close() error          { return nil }
func (l *line) Set(p serial.Params) error {
	p.StopBits = max(p.StopBits, 1)
	l.reader.Set(p)
	return nil
}
func (l *line) SetLines(dtr, rts bool) error {
	if l.noLines {
		return nil
	}
	l.in = append(l.in, l.reader.SetLines(dtr, rts)...)
	return nil
}
func (l *line) Lines() (serial.Inputs, error) {
	if l.noLines {
		return serial.Inputs{}, serial.ErrNoLines
	}
	return l.reader.Inputs(), nil
}
func (l *line) Break(context.Context, time.Duration) error { return nil }
func (l *line) Flush(q serial.Queue) error {
	if q&serial.In != 0 {
		l.in = nil
	}
	return nil
}
func (l *line) Write(_ context.Context, b []byte) error {
	for _, c := range b {
		l.in = append(l.in, l.reader.Send(c)...)
	}
	return nil
}
func (l *line) Read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	n := 0
	for n < len(buf) && len(l.in) > 0 {
		c := l.in[0]
		l.in = l.in[1:]
		buf[n] = c.Byte
		n++
		if c.Bad {
			return n, serial.ErrParity
		}
	}
	if n == 0 {
		if err := serial.Wait(ctx, l, timeout); err != nil {
			return 0, err
		}
		return 0, device.Wrap("read", "virtual", device.ErrTimeout)
	}
	return n, nil
}
