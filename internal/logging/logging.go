// Package logging makes the log of a command or handler. Where it goes depends on
// who started it:
//
//   - standard error is the journal: entries with fields of their own, so that
//     "journalctl OPENCT_DEVICE=/dev/bus/usb/001/004" finds one token's (journal.go)
//   - asked for syslog: C OpenCT's lines (syslog.go)
//   - otherwise: lines on standard error, "Error: ..." (text.go)
//
// The same warning or error again and again is written once a minute, with the
// number of times it was not (repeat.go).
//
// A record's message and its own attributes make the line; attributes that a logger
// was given by With say which reader it is about. They are fields in the journal,
// and are left out of lines, of which one handler has its own stream anyway.
package logging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/journal"

	"openct/internal/printable"
)

// Options say where to log and how much.
type Options struct {
	Debug  int       // 0: plugs, unplugs and faults; 1: what happens; 2 and more: every APDU's header and lengths
	Syslog bool      // to syslog, where standard error is not the journal
	Stderr io.Writer // lines go here
	Ident  string    // the program, for journal and syslog
}

// New makes a logger. When syslog cannot be reached, it logs to Stderr and says so.
func New(o Options) *slog.Logger {
	var s sink = &textSink{w: o.Stderr}
	var failed error
	if ok, err := journal.StderrIsJournalStream(); ok && err == nil && journal.Enabled() {
		s = &journalSink{ident: o.Ident, send: journal.Send, fallback: s}
	} else if o.Syslog {
		var err error
		if s, err = newSyslog(o.Ident); err != nil {
			s, failed = &textSink{w: o.Stderr}, err
		}
	}
	log := slog.New(newHandler(s, level(o.Debug), time.Now))
	if failed != nil {
		log.Warn("no syslog, logging to standard error", "error", failed)
	}
	return log
}

// level is the lowest level that is logged. Nothing that is logged at any level
// holds a PIN (package apdulog).
func level(debug int) slog.Level {
	switch {
	case debug <= 0:
		return slog.LevelInfo
	case debug == 1:
		return slog.LevelDebug
	}
	return slog.LevelDebug - 4
}

// entry is a record made ready for writing.
type entry struct {
	level  slog.Level
	text   string // one printable line: message and the record's own attributes
	fields []field
}

// field is an attribute; its key holds the groups it is in.
type field struct{ key, value string }

// sink is a place to log to. It is safe for concurrent use.
type sink interface {
	write(e entry) error
}

// handler turns records into entries.
type handler struct {
	sink    sink
	level   slog.Level
	repeats *repeats
	prefix  string  // of keys: open groups
	fields  []field // from With
}

func newHandler(s sink, level slog.Level, now func() time.Time) *handler {
	return &handler{sink: s, level: level, repeats: newRepeats(now)}
}

var _ slog.Handler = (*handler)(nil)

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	with := *h
	with.prefix += name + "."
	return &with
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.fields = append([]field{}, h.fields...)
	for _, a := range attrs {
		with.fields = flatten(with.fields, h.prefix, a)
	}
	return &with
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	var own []field
	r.Attrs(func(a slog.Attr) bool {
		own = flatten(own, h.prefix, a)
		return true
	})
	e := entry{level: r.Level, text: line(r.Message, own), fields: append(append([]field{}, h.fields...), own...)}
	if r.Level >= slog.LevelWarn {
		missed, write := h.repeats.count(e)
		if !write {
			return nil
		}
		if missed > 0 {
			e.text += fmt.Sprintf(" (and %d times more since)", missed)
		}
	}
	return h.sink.write(e)
}

// flatten resolves an attribute into fields.
func flatten(to []field, prefix string, a slog.Attr) []field {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, inner := range v.Group() {
			to = flatten(to, prefix, inner)
		}
		return to
	}
	if a.Key == "" || v.Kind() == slog.KindAny && v.Any() == nil {
		return to // an error that is nil, most often
	}
	return append(to, field{prefix + a.Key, v.String()})
}

// line is the text for people: the message, its attributes, and an error behind a
// colon, as everywhere in Go.
func line(message string, own []field) string {
	var b strings.Builder
	b.WriteString(message)
	sep := ", "
	cause := ""
	for _, f := range own {
		if f.key == "error" {
			cause = f.value
			continue
		}
		fmt.Fprintf(&b, "%s%s %s", sep, f.key, f.value)
	}
	if cause != "" {
		b.WriteString(": " + cause)
	}
	return printable.Line(b.String())
}

// both writes to the fallback as well when the first place cannot be written to.
func both(err error, fallback sink, e entry) error {
	if err == nil {
		return nil
	}
	if ferr := fallback.write(e); ferr != nil {
		return errors.Join(err, ferr)
	}
	return nil
}
