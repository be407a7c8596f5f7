package logging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/google/go-cmp/cmp"
)

// newTest logs to w, also where the tests' own standard error is the journal.
func newTest(t *testing.T, debug int, w io.Writer) *slog.Logger {
	t.Helper()
	t.Setenv("JOURNAL_STREAM", "")
	return New(Options{Debug: debug, Stderr: w, Ident: "test"})
}

func TestLines(t *testing.T) {
	tests := []struct {
		name string
		log  func(l *slog.Logger)
		want string
	}{
		{"error", func(l *slog.Logger) { l.Error("cannot open", "error", errors.New("no such device")) },
			"Error: cannot open: no such device\n"},
		{"warning", func(l *slog.Logger) { l.Warn("slow", "after", 2*time.Second) }, "Warning: slow, after 2s\n"},
		{"plain", func(l *slog.Logger) { l.Info("unplugged", "reader", 3) }, "unplugged, reader 3\n"},
		{"debug", func(l *slog.Logger) { l.Debug("x") }, "Debug: x\n"},
		{"nil error", func(l *slog.Logger) { l.Info("done", "error", nil) }, "done\n"},
		{"who it is about is not repeated", func(l *slog.Logger) { l.With("device", "/dev/x").Info("ready") }, "ready\n"},
		{"group", func(l *slog.Logger) { l.WithGroup("a").Info("x", slog.Group("b", "c", 1)) }, "x, a.b.c 1\n"},
		{"hostile text", func(l *slog.Logger) { l.Info("name", "is", "a\nError: fake\x1b[2J\xff") }, "name, is a Error: fake?[2J?\n"},
		{"below the level", func(l *slog.Logger) { l.Log(context.Background(), slog.LevelDebug-4, "APDU") }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			tt.log(newTest(t, 1, &b))
			if got := b.String(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLevels(t *testing.T) {
	tests := []struct {
		debug int
		want  slog.Level // lowest that is on
	}{{-1, slog.LevelInfo}, {0, slog.LevelInfo}, {1, slog.LevelDebug}, {2, slog.LevelDebug - 4}, {6, slog.LevelDebug - 4}}
	for _, tt := range tests {
		l := newTest(t, tt.debug, &bytes.Buffer{})
		if ctx := t.Context(); !l.Enabled(ctx, tt.want) || l.Enabled(ctx, tt.want-1) {
			t.Errorf("debug %d: lowest level is not %v", tt.debug, tt.want)
		}
	}
}

type sent struct {
	Message  string
	Priority journal.Priority
	Vars     map[string]string
}

func TestJournal(t *testing.T) {
	var got []sent
	var stderr bytes.Buffer
	fail := error(nil)
	s := &journalSink{ident: "ifdhandler", fallback: &textSink{w: &stderr},
		send: func(m string, p journal.Priority, vars map[string]string) error {
			got = append(got, sent{m, p, vars})
			return fail
		}}
	l := slog.New(newHandler(s, slog.LevelDebug, time.Now)).With("device", "/dev/bus/usb/001/004", "driver", "etoken64")
	l.Info("reader is ready", "reader", 0, "serial-no", "a\nb")
	l.Error("gone", "error", errors.New("pulled"))
	l.Warn("odd")
	l.Debug("detail")
	id := func(more ...string) map[string]string {
		m := map[string]string{"SYSLOG_IDENTIFIER": "ifdhandler", "OPENCT_DEVICE": "/dev/bus/usb/001/004", "OPENCT_DRIVER": "etoken64"}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	want := []sent{
		{"reader is ready, reader 0, serial-no a b", journal.PriInfo, id("OPENCT_READER", "0", "OPENCT_SERIAL_NO", "a\nb")},
		{"gone: pulled", journal.PriErr, id("OPENCT_ERROR", "pulled")},
		{"odd", journal.PriWarning, id()},
		{"detail", journal.PriDebug, id()},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
	if stderr.Len() > 0 {
		t.Errorf("standard error: %q", stderr.String())
	}
	fail = errors.New("journald is restarting")
	l.Error("lost?")
	if stderr.String() != "Error: lost?\n" {
		t.Errorf("standard error when the journal fails: %q", stderr.String())
	}
}

func TestFieldNames(t *testing.T) {
	for key, want := range map[string]string{
		"device": "OPENCT_DEVICE", "a.b-c": "OPENCT_A_B_C", "ä": "OPENCT__", "_x=\n": "OPENCT__X__",
		strings.Repeat("k", 100): "OPENCT_" + strings.Repeat("K", 57),
	} {
		if got := fieldName(key); got != want {
			t.Errorf("%q: got %s, want %s", key, got, want)
		}
	}
}

type fakeSyslog struct{ lines []string }

func (f *fakeSyslog) Warning(m string) error { f.lines = append(f.lines, "warning "+m); return nil }
func (f *fakeSyslog) Info(m string) error    { f.lines = append(f.lines, "info "+m); return nil }
func (f *fakeSyslog) Debug(m string) error   { f.lines = append(f.lines, "debug "+m); return nil }

func TestSyslog(t *testing.T) {
	f := &fakeSyslog{}
	l := slog.New(newHandler(&syslogSink{f}, slog.LevelDebug, time.Now))
	l.Error("a", "error", errors.New("b"))
	l.Warn("c")
	l.Info("d")
	l.Debug("e")
	if diff := cmp.Diff([]string{"warning a: b", "warning c", "info d", "debug e"}, f.lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestRepeatedErrors(t *testing.T) {
	var b bytes.Buffer
	now := time.Unix(1000, 0)
	l := slog.New(newHandler(&textSink{w: &b}, slog.LevelInfo, func() time.Time { return now }))
	expect := func(want string) {
		t.Helper()
		if got := b.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		b.Reset()
	}
	for range 5 {
		l.Error("stuck")
	}
	expect("Error: stuck\n")
	l.With("device", "b").Error("stuck")
	expect("Error: stuck\n") // another reader's
	l.Error("stuck", "error", errors.New("for another reason"))
	expect("Error: stuck: for another reason\n")
	now = now.Add(quiet)
	l.Error("stuck")
	expect("Error: stuck (and 4 times more since)\n")
	now = now.Add(quiet)
	l.Error("stuck")
	expect("Error: stuck\n")
	for range 3 {
		l.Info("unplugged") // never held back
	}
	expect("unplugged\nunplugged\nunplugged\n")
}

func TestRepeatsAreBounded(t *testing.T) {
	r := newRepeats(time.Now)
	for i := range 10 * maxTexts {
		if _, write := r.count(entry{text: fmt.Sprint(i)}); !write {
			t.Fatalf("entry %d is new", i)
		}
		if len(r.seen) > maxTexts {
			t.Fatalf("%d texts remembered", len(r.seen))
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	var b bytes.Buffer
	l := newTest(t, 0, &b)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for j := range 50 {
				l.With("slot", i).Warn("line", "n", j)
			}
		}()
	}
	wg.Wait()
	if n := strings.Count(b.String(), "\n"); n != 400 {
		t.Errorf("%d lines, want 400", n)
	}
}
