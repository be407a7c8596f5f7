// Package verifytest plays the recording in a report of openct-control verify
// against the driver of today.
package verifytest

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"openct/internal/atr"
	"openct/internal/driver"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/serial"
	"openct/internal/serial/serialtest"
	"openct/internal/usb/record"
	"openct/internal/usb/usbtest"
	"openct/internal/verify"
)

// Replay makes the calls of the report again and fails the test where the driver's
// transfers, or what came of a call, differ. It is to be called in a bubble of
// testing/synctest: the driver's waits take no time there. Timeouts of transfers are
// not compared, and of a failure only that it is one: of what a device sent that
// made no sense, a report keeps nothing.
func Replay(t testing.TB, r *verify.Report) {
	t.Helper()
	entry, ok := driver.ByName(r.Driver)
	if !ok || r.Unplayable() != "" {
		t.Fatalf("the report of driver %q cannot be played", r.Driver)
	}
	o := ifd.Options{Name: entry.Reader, Log: slog.New(slog.DiscardHandler)}
	p := &player{t: t}
	if r.Device != nil {
		var ops []record.IO
		for _, s := range r.Steps {
			for _, op := range s.USB {
				op.Timeout = record.AnyTimeout
				ops = append(ops, op)
			}
		}
		dev := usbtest.Play(t, ops)
		dev.Desc = r.Device
		defer dev.Done(t)
		p.open = func() (ifd.Reader, error) { return entry.Open(dev, o) }
	} else {
		line := serialtest.New(t, "")
		defer line.Done()
		p.next = func(i int, s *verify.Step) {
			var script strings.Builder
			for _, st := range s.Serial {
				fmt.Fprintln(&script, st)
			}
			line.Next(fmt.Sprintf("step %d, %s", i+1, s.Do), script.String())
		}
		o.OpenLine = func(string) (serial.Line, error) { return line, nil }
		p.open = func() (ifd.Reader, error) { return entry.OpenPath["serial"]("replay", o) }
	}
	for i := range r.Steps {
		s := &r.Steps[i]
		if p.next != nil {
			p.next(i, s)
		}
		got, err := p.step(s)
		switch {
		case (err != nil) != s.Failed():
			t.Errorf("step %d, %s % x: %v; in the report: %s", i+1, s.Do, s.Command, err, s.Result)
		case err == nil && got != s.Result:
			t.Errorf("step %d, %s % x: %s; in the report: %s", i+1, s.Do, s.Command, got, s.Result)
		}
		if t.Failed() {
			break // the next one builds upon it
		}
	}
	if p.reader != nil && !p.closed {
		_ = p.reader.Close()
	}
}

// player is what calls the driver.
type player struct {
	t      testing.TB
	open   func() (ifd.Reader, error)
	next   func(i int, s *verify.Step)
	reader ifd.Reader
	closed bool
	atr    *atr.ATR
	engine proto.Engine
}

// patience bounds a call, of the bubble's time.
const patience = 10 * time.Minute

func (p *player) step(s *verify.Step) (result string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if s.Do == verify.Open {
		if p.reader, err = p.open(); err != nil {
			return "", err
		}
		if n, ok := p.reader.(ifd.Notifier); ok {
			go func() {
				for range n.Events() {
				}
			}()
		}
		return verify.Success, nil
	}
	if p.reader == nil {
		return "", ifd.ErrNotSupported
	}
	if s.Do == verify.Close {
		p.closed = true
		return verify.Success, p.reader.Close()
	}
	slot := p.reader.Slots()[0]
	switch s.Do {
	case verify.Status:
		c, ok := slot.(ifd.Presence)
		if !ok {
			return "", ifd.ErrNotSupported
		}
		st, err := c.Status(ctx)
		return verify.StatusText(st), err
	case verify.Reset:
		raw, err := slot.Reset(ctx)
		p.atr, _ = atr.Parse(raw)
		return verify.ResetText(raw), err
	case verify.Protocol:
		p.engine, err = slot.Protocol(ctx, s.Protocol, p.atr)
		if err != nil {
			return "", err
		}
		return p.engine.ID().String(), nil
	default:
		if p.engine == nil {
			return "", ifd.ErrNotSupported
		}
		resp, err := p.engine.Transmit(ctx, s.Command, nil)
		return verify.ResponseText(resp), err
	}
}
