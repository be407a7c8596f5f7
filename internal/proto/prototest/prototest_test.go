package prototest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// tester catches what a Link has to say.
type tester struct {
	failed  []string
	cleanup []func()
}

func (t *tester) Helper()                      {}
func (t *tester) Errorf(f string, args ...any) { t.failed = append(t.failed, fmt.Sprintf(f, args...)) }
func (t *tester) Fatalf(f string, args ...any) { t.Errorf(f, args...) }
func (t *tester) Cleanup(f func())             { t.cleanup = append(t.cleanup, f) }

func (t *tester) end() string {
	for _, f := range t.cleanup {
		f()
	}
	return strings.Join(t.failed, "\n")
}

var errLine = errors.New("line is dead")

func TestLink(t *testing.T) {
	recv := func(l *Link, n int) (string, error) {
		buf := make([]byte, n)
		n, err := l.Recv(t.Context(), buf, time.Second)
		return fmt.Sprintf("%X", buf[:n]), err
	}
	tests := []struct {
		name   string
		stream bool
		script string
		errs   []error
		use    func(l *Link) error
		fails  string // part of the complaint, or empty
	}{
		{"kept", false, "H 01 02 # a comment\n\nC 00*3", nil, func(l *Link) error {
			if err := l.Send(t.Context(), []byte{1, 2}); err != nil {
				return err
			}
			got, err := recv(l, 5)
			if got != "000000" {
				return fmt.Errorf("got %s", got)
			}
			return err
		}, ""},
		{"nothing received", false, "C", nil, func(l *Link) error {
			_, err := recv(l, 5)
			return err
		}, ""},
		{"not used up", false, "H 01", nil, func(l *Link) error { return nil }, "1 steps were not played"},
		{"other bytes", false, "H 01", nil, func(l *Link) error { return l.Send(t.Context(), []byte{2}) }, "engine sends 02"},
		{"sends instead of receiving", false, "C 01", nil, func(l *Link) error { return l.Send(t.Context(), []byte{1}) }, "engine sends 01"},
		{"receives instead of sending", false, "H 01", nil, func(l *Link) error { _, err := recv(l, 5); return err }, "engine receives"},
		{"beyond the end", false, "", nil, func(l *Link) error { return l.Send(t.Context(), nil) }, "the end"},
		{"too little room", false, "C 00*9", nil, func(l *Link) error { _, err := recv(l, 8); return err }, "room for 8"},
		{"wrong room", false, "C R 9 00", nil, func(l *Link) error { _, err := recv(l, 8); return err }, "not 9"},
		{"right room", false, "C R 8 00", nil, func(l *Link) error { _, err := recv(l, 8); return err }, ""},
		{"wrong wait", false, "C W 999 00", nil, func(l *Link) error { _, err := recv(l, 8); return err }, "waits 1000 ms"},
		{"right wait", false, "C W 1000 00", nil, func(l *Link) error { _, err := recv(l, 8); return err }, ""},
		{"failing steps", false, "H!\nC!", []error{errLine, errLine}, func(l *Link) error {
			if err := l.Send(t.Context(), []byte{7}); err != errLine {
				return err
			}
			if _, err := recv(l, 1); err != errLine {
				return err
			}
			return nil
		}, ""},
		{"stream in pieces", true, "C 01 02\nC 03 04 05", nil, func(l *Link) error {
			a, _ := recv(l, 1)
			b, _ := recv(l, 3)
			c, err := recv(l, 1)
			if a+b+c != "0102030405" {
				return fmt.Errorf("got %s %s %s", a, b, c)
			}
			return err
		}, ""},
		{"stream not read to its end", true, "C 01 02\nH 03", nil, func(l *Link) error {
			_, _ = recv(l, 1)
			return l.Send(t.Context(), []byte{3})
		}, "engine sends 03"},
		{"stream too short", true, "C 01 02", nil, func(l *Link) error { _, err := recv(l, 3); return err }, "receives into 3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var caught tester
			l := play(&caught, tt.stream, tt.script, tt.errs)
			err := tt.use(l)
			said := caught.end()
			if tt.fails == "" && (err != nil || said != "") {
				t.Errorf("error %v, said %q", err, said)
			}
			if tt.fails != "" && !strings.Contains(said, tt.fails) {
				t.Errorf("error %v, said %q, want %q", err, said, tt.fails)
			}
		})
	}
}

func TestBadScripts(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		errs         []error
	}{
		{"neither host nor card", "X 00", nil},
		{"not hex", "H 0g", nil},
		{"bad repetition", "H 00*x", nil},
		{"bad number", "C W x 00", nil},
		{"no error for a failing step", "C!", nil},
		{"error without a failing step", "C 00", []error{errLine}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parse(tt.script, tt.errs); err == nil {
				t.Error("accepted")
			}
		})
	}
}
