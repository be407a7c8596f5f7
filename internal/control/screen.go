package control

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/printable"
	"openct/internal/status"
)

// TerminalOf is w, if it is a terminal; otherwise nil.
func TerminalOf(w io.Writer) io.Writer {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return f
}

// Control sequences (ECMA-48: CUP, ED, EL).
const (
	home      = "\x1b[H"
	clearRest = "\x1b[J"
	clearLine = "\x1b[K"
)

// screen shows a text again and again.
type screen struct {
	terminal io.Writer // nil: out is none, and gets one text after the other
	out      io.Writer
	size     func() (rows, columns int) // of the terminal; 0 where that is not known
	last     string
	rows     int
	columns  int
	begun    bool
}

// show shows a text that is another one than the last. apart: an empty line stands
// between two where they do not take each other's place.
func (s *screen) show(text string, apart bool) error {
	first := !s.begun
	if s.terminal != nil {
		rows, columns := s.size()
		first = first || rows != s.rows || columns != s.columns // what is there has moved
		s.rows, s.columns = rows, columns
	}
	if !first && text == s.last {
		return nil
	}
	s.last, s.begun = text, true
	if s.terminal == nil {
		if !first && apart {
			text = "\n" + text
		}
		_, err := io.WriteString(s.out, text)
		return err
	}
	begin := home
	if first {
		begin = home + clearRest
	}
	text = fit(text, s.rows, s.columns)
	_, err := io.WriteString(s.terminal, begin+strings.ReplaceAll(text, "\n", clearLine+"\n")+clearRest)
	return err
}

// restore clears the line below the text, where the terminal has shown ^C.
func (s *screen) restore() {
	if s.terminal != nil && s.begun {
		_, _ = io.WriteString(s.terminal, "\r"+clearLine)
	}
}

// sizeOf is the size of a terminal (ioctl_tty(2), TIOCGWINSZ).
func sizeOf(terminal io.Writer) (rows, columns int) {
	f, ok := terminal.(*os.File)
	if !ok {
		return 0, 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0
	}
	return int(size.Row), int(size.Col)
}

// fit cuts a text that would scroll the terminal. The last row is the cursor's.
func fit(text string, rows, columns int) string {
	if rows <= 0 || columns <= 0 {
		return text
	}
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	free, fits := rows-1, 0 // fits: lines for which, and for the last one that says what is missing, there is room
	for n, line := range lines {
		if free -= rowsOf(line, columns); free < 0 {
			missing := fmt.Sprintf("%d more lines do not fit", len(lines)-fits)
			return strings.Join(lines[:fits], "") + missing[:min(len(missing), columns)] + "\n"
		}
		if free > 0 {
			fits = n + 1
		}
	}
	return text
}

// rowsOf is how many rows a line takes. A character that is not of ASCII may take
// two columns.
func rowsOf(line string, columns int) int {
	width := 0
	for _, r := range strings.TrimSuffix(line, "\n") {
		width++
		if r >= utf8.RuneSelf {
			width++
		}
	}
	return max(1, (width+columns-1)/columns)
}

// statusText is what "status" prints now. That OpenCT is stopped, or no reader is
// there, is to be seen, too. complaints are what does not belong into JSON.
func (c *Control) statusText(asJSON bool) (text, complaints string, err error) {
	var out, errs bytes.Buffer
	view := *c
	view.Out, view.Err = printable.Writer(&out), printable.Writer(&errs)
	f, err := status.OpenReadOnly(c.Dir)
	switch {
	case err == nil:
		f.Close()
	case !errors.Is(err, status.ErrNotInitialised):
		return "", "", err
	case asJSON:
		return "[]\n", "", nil
	default:
		return "OpenCT is not started here; waiting for \"openct-control init\".\n", "", nil
	}
	print := func() error { _, err := view.list(""); return err }
	if asJSON {
		print = func() error { return view.StatusJSON("") }
	}
	var exit cli.ErrExit
	if err := print(); err != nil && !errors.As(err, &exit) {
		return "", "", err
	}
	switch {
	case asJSON:
		return out.String(), errs.String(), nil
	case out.Len() == 0 && errs.Len() == 0:
		return "No readers.\n", "", nil
	}
	return out.String() + errs.String(), "", nil
}
