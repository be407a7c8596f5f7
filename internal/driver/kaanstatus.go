package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openct/internal/ctbcs"
	"openct/internal/ifd"
	"openct/internal/serial"
)

// kaanFreeze saves status commands: the terminal is told to send nothing until a card
// is inserted or removed, which it reports with DSR (ifd-kaan.c).
type kaanFreeze struct {
	off    bool // the line has no DSR, or the terminal does not do it
	frozen bool
	since  time.Time // frozen
	late   bool      // it is asked after kaanRecheck, and not since DSR told
	active time.Time // when something else than a status was last asked
}

const (
	// kaanIdle is how long nothing may happen before the terminal is told
	// (ifd-kaan.c), kaanSettle how long it takes for it (ifd-kaan.c).
	kaanIdle   = 5 * time.Second
	kaanSettle = 10 * time.Millisecond

	// kaanRecheck is how often a terminal that says nothing is asked all the
	// same. A cable without DSR would hide cards for ever.
	kaanRecheck = time.Minute
)

// Data objects of the terminal's files and of its own commands (ifd-kaan.c).
const (
	kaanTagCard     = 0x21 // 00: no card, 01: not powered, 02: powered
	kaanTagProtocol = 0x22
	kaanTagEvents   = 0x30
)

// Status implements ifd.Presence.
func (s *kaanSlot) Status(ctx context.Context) (ifd.Status, error) {
	k := s.k
	if !k.tryEnter() {
		return ifd.Status{}, ifd.ErrBusy
	}
	defer func() { <-k.turn }() // this is not what keeps the line from being quiet
	quiet, err := k.quiet(ctx)
	if err != nil {
		return ifd.Status{}, err
	}
	if quiet {
		return ifd.Status{Present: s.last}, nil
	}
	present, _, err := s.present(ctx)
	if err != nil {
		return ifd.Status{}, err
	}
	if !present {
		s.powered = false
	}
	if k.freeze.late && present != s.last {
		k.log.Warn("the card terminal does not report card events on DSR; polling it once a second")
		k.freeze.off = true
	}
	s.last, s.asked = present, true
	return ifd.Status{Present: present}, nil
}

// present asks the terminal for the card. off says that it is known to have no power.
// A B1 tells it in a file.
func (s *kaanSlot) present(ctx context.Context) (present, off bool, err error) {
	if s.k.b1 {
		objects, err := s.file(ctx)
		if err != nil {
			return false, false, err
		}
		v, ok := objects[kaanTagCard]
		if !ok || len(v) != 1 {
			return false, false, fmt.Errorf("the terminal's status file has no card status: %w", ifd.ErrComm)
		}
		return v[0] != 0, v[0] == 1, nil
	}
	resp, err := s.k.command(ctx, ctbcs.GetICCStatus(s.unit), kaanStatus)
	if err != nil {
		return false, false, err
	}
	present, err = ctbcs.Present(resp)
	return present, ctbcs.Off(resp), err
}

// quiet says whether the terminal would have told of a card by now, so that it
// need not be asked.
func (k *kaan) quiet(ctx context.Context) (bool, error) {
	f := &k.freeze
	now := time.Now()
	if f.frozen {
		in, err := k.line.Lines()
		if err != nil {
			return false, err
		}
		if !in.DSR && now.Sub(f.since) < kaanRecheck {
			return true, nil
		}
		*f = kaanFreeze{active: now, late: !in.DSR}
		return false, nil
	}
	if f.off || now.Sub(f.active) <= kaanIdle || k.t1.Lost() != nil {
		return false, nil
	}
	if _, err := k.line.Lines(); errors.Is(err, serial.ErrNoLines) {
		f.off = true
		return false, nil
	}
	// The codes of events are C OpenCT's: the number of the slot, or-ed with 2
	// when a card is in.
	var events []byte
	for _, s := range k.cards {
		if !s.asked {
			return false, nil
		}
		e := s.unit
		if s.last {
			e |= 2
		}
		events = append(events, e)
	}
	cmd := append([]byte{0x80, 0x70, 0x00, 0x00, byte(2 + len(events)), kaanTagEvents, byte(len(events))}, events...)
	resp, err := k.command(ctx, cmd, kaanStatus)
	if err != nil {
		return false, err
	}
	if err := ctbcs.Done("telling the terminal to be quiet", resp); err != nil {
		k.log.Debug("polling the card terminal once a second", "error", err)
		f.off = true
		return false, nil
	}
	if err := serial.Wait(ctx, k.line, kaanSettle); err != nil {
		return false, err
	}
	f.frozen, f.since, f.late = true, now, false
	return k.quiet(ctx)
}

// file reads the terminal's file about a slot: its data objects.
func (s *kaanSlot) file(ctx context.Context) (map[byte][]byte, error) {
	const what = "the terminal's file about the card"
	slot := byte(s.index)
	for _, id := range [][2]byte{{0x3F, 0x00}, {0x7F, 0x70 | slot}, {0x70 | slot, 0x21}} {
		resp, err := s.k.command(ctx, []byte{0x00, 0xA4, 0x00, 0x00, 0x02, id[0], id[1]}, kaanStatus)
		if err != nil {
			return nil, err
		}
		if err := ctbcs.Done(what, resp); err != nil {
			return nil, err
		}
	}
	resp, err := s.k.command(ctx, []byte{0x00, 0xB0, 0x00, 0x00, 0x00}, kaanStatus)
	if err != nil {
		return nil, err
	}
	data, sw, err := ctbcs.Split(resp)
	if err == nil && sw != 0x9000 && sw != swEndOfFile {
		err = fmt.Errorf("terminal answers %04x: %w", sw, ifd.ErrComm)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return kaanObjects(data)
}

// swEndOfFile says that a file ended before Le bytes (ISO/IEC 7816-4, 5.1.3).
const swEndOfFile = 0x6282

// kaanObjects reads data objects: a byte of tag, a byte of length, where FF says
// that two bytes of length follow, and the value. The first object of a tag counts.
func kaanObjects(b []byte) (map[byte][]byte, error) {
	objects := make(map[byte][]byte)
	for len(b) > 0 {
		tag, head, n := b[0], 2, 0
		if len(b) > 1 {
			n = int(b[1])
		}
		if n == 0xFF && len(b) >= 4 {
			head, n = 4, int(b[2])<<8|int(b[3])
		}
		if len(b) < head+n {
			return nil, fmt.Errorf("data object %02x of a terminal's file does not end: %w", tag, ifd.ErrComm)
		}
		if _, ok := objects[tag]; !ok {
			objects[tag] = b[head : head+n]
		}
		b = b[head+n:]
	}
	return objects, nil
}
