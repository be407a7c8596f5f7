// Package prototest lets the exchange of a protocol engine with a card be a
// text: a Link that plays the card's part and fails the test when the engine
// does not keep to its own.
//
// # Script
//
// One step a line; "#" starts a comment; bytes are hex, and 00*12 is twelve
// zeros.
//
//	H 00 00 05 00 B0 00 00 02 B7    the engine sends these bytes
//	C 00 00 02 90 00 92             the card answers with these
//	C                               the card answers with nothing
//	H!                              the engine sends, whatever it is, and fails
//	C!                              the engine receives, and fails
//	C R 37 W 20000 00 90 00 90      ... and the engine must offer room for 37
//	                                bytes and wait 20000 ms
//
// A failing step takes the next of the errors given to Blocks or Stream.
package prototest

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrScript is what an engine gets that left the script. The test has been
// failed already.
var ErrScript = errors.New("exchange is not the one of the script")

// TB is the part of testing.TB that a Link needs.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// step is one line of a script.
type step struct {
	line  int
	host  bool // the engine sends
	bytes []byte
	fail  error
	wait  time.Duration // 0: any
	room  int           // 0: any
}

func (s step) String() string {
	who := "C"
	if s.host {
		who = "H"
	}
	if s.fail != nil {
		return fmt.Sprintf("line %d: %s! (%v)", s.line, who, s.fail)
	}
	return fmt.Sprintf("line %d: %s % X", s.line, who, s.bytes)
}

// Link plays a script. It is a proto.Link.
type Link struct {
	t      TB
	stream bool
	steps  []step
	broken bool
}

// Blocks makes a Link in block mode: each line is one Send or one Recv. When
// the test ends, the script must have been played to its end.
func Blocks(t TB, script string, errs ...error) *Link {
	t.Helper()
	return play(t, false, script, errs)
}

// Stream makes a Link in stream mode: the bytes of neighbouring C lines are
// one stream, which the engine may read in any pieces; all of it must be read
// before it sends.
func Stream(t TB, script string, errs ...error) *Link {
	t.Helper()
	return play(t, true, script, errs)
}

func play(t TB, stream bool, script string, errs []error) *Link {
	t.Helper()
	steps, err := parse(script, errs)
	if err != nil {
		t.Fatalf("prototest: %v", err)
	}
	l := &Link{t: t, stream: stream, steps: steps}
	t.Cleanup(l.done)
	return l
}

func (l *Link) done() {
	l.t.Helper()
	if !l.broken && len(l.steps) > 0 {
		l.t.Errorf("prototest: %d steps were not played, next is %v", len(l.steps), l.steps[0])
	}
}

// leave fails the test, once.
func (l *Link) leave(format string, args ...any) error {
	l.t.Helper()
	if !l.broken {
		next := "the end"
		if len(l.steps) > 0 {
			next = l.steps[0].String()
		}
		l.t.Errorf("prototest: %s; the script has %s", fmt.Sprintf(format, args...), next)
	}
	l.broken = true
	return ErrScript
}

// Send plays an H line.
func (l *Link) Send(_ context.Context, block []byte) error {
	l.t.Helper()
	if l.broken || len(l.steps) == 0 || !l.steps[0].host {
		return l.leave("engine sends % X", block)
	}
	s := l.steps[0]
	if s.fail == nil && !bytes.Equal(block, s.bytes) {
		return l.leave("engine sends % X", block)
	}
	l.steps = l.steps[1:]
	return s.fail
}

// Recv plays a C line, or in stream mode a part of one, or several.
func (l *Link) Recv(_ context.Context, buf []byte, timeout time.Duration) (int, error) {
	l.t.Helper()
	n := 0
	for {
		if l.broken || len(l.steps) == 0 || l.steps[0].host {
			return 0, l.leave("engine receives into %d bytes", len(buf))
		}
		s := &l.steps[0]
		if s.wait != 0 && s.wait != timeout {
			return 0, l.leave("engine waits %d ms, not %d", timeout.Milliseconds(), s.wait.Milliseconds())
		}
		if s.room != 0 && s.room != len(buf) {
			return 0, l.leave("engine receives into %d bytes, not %d", len(buf), s.room)
		}
		if s.fail != nil {
			l.steps = l.steps[1:]
			return n, s.fail
		}
		if !l.stream && len(s.bytes) > len(buf) {
			return 0, l.leave("engine has room for %d bytes", len(buf))
		}
		k := copy(buf[n:], s.bytes)
		n, s.bytes, s.room = n+k, s.bytes[k:], 0
		if len(s.bytes) == 0 {
			l.steps = l.steps[1:]
		}
		if !l.stream || n == len(buf) {
			return n, nil
		}
	}
}

// parse reads a script.
func parse(script string, errs []error) ([]step, error) {
	var steps []step
	for i, line := range strings.Split(script, "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		s := step{line: i + 1, bytes: []byte{}}
		who, fails := strings.CutSuffix(words[0], "!")
		if who != "H" && who != "C" {
			return nil, fmt.Errorf("line %d: %q is neither H nor C", i+1, words[0])
		}
		s.host = who == "H"
		if fails {
			if len(errs) == 0 {
				return nil, fmt.Errorf("line %d: no error given for it", i+1)
			}
			s.fail, errs = errs[0], errs[1:]
		}
		if err := s.words(words[1:]); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		steps = append(steps, s)
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("%d errors more than failing steps", len(errs))
	}
	return steps, nil
}

// words reads what follows H or C.
func (s *step) words(words []string) error {
	for len(words) > 0 {
		w := words[0]
		if (w == "W" || w == "R") && !s.host && len(words) > 1 {
			n, err := strconv.Atoi(words[1])
			if err != nil {
				return err
			}
			if w == "W" {
				s.wait = time.Duration(n) * time.Millisecond
			} else {
				s.room = n
			}
			words = words[2:]
			continue
		}
		value, times, repeated := strings.Cut(w, "*")
		b, err := hex.DecodeString(value)
		if err != nil {
			return err
		}
		n := 1
		if repeated {
			if n, err = strconv.Atoi(times); err != nil {
				return err
			}
		}
		s.bytes = append(s.bytes, bytes.Repeat(b, max(0, n))...)
		words = words[1:]
	}
	return nil
}
