package control

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"

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

// Control sequences (ECMA-48; the cursor's are DEC's private modes, which every
// terminal emulator and the kernel's console know, console_codes(4)).
const (
	home       = "\x1b[H"
	clearRest  = "\x1b[J"
	clearLine  = "\x1b[K"
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
)

// screen shows a text again and again.
type screen struct {
	terminal io.Writer // nil: out is none, and gets one text after the other
	out      io.Writer
	last     string
	begun    bool
}

// show shows a text that is another one than the last. apart: an empty line stands
// between two where they do not take each other's place.
func (s *screen) show(text string, apart bool) error {
	if s.begun && text == s.last {
		return nil
	}
	first := !s.begun
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
		begin = hideCursor + home + clearRest
	}
	_, err := io.WriteString(s.terminal, begin+strings.ReplaceAll(text, "\n", clearLine+"\n")+clearRest)
	return err
}

// restore leaves the terminal below the text as it was found.
func (s *screen) restore() {
	if s.terminal != nil && s.begun {
		_, _ = io.WriteString(s.terminal, showCursor)
	}
}

// statusText is what "status" prints now. That OpenCT is stopped, or no reader is
// there, is to be seen, too.
func (c *Control) statusText(asJSON bool) (string, error) {
	var out, complaints bytes.Buffer
	view := *c
	view.Out, view.Err = printable.Writer(&out), printable.Writer(&complaints)
	f, err := status.OpenReadOnly(c.Dir)
	switch {
	case err == nil:
		f.Close()
	case !errors.Is(err, status.ErrNotInitialised):
		return "", err
	case asJSON:
		return "[]\n", nil
	default:
		return "OpenCT is not started here; waiting for \"openct-control init\".\n", nil
	}
	print := view.Status
	if asJSON {
		print = view.StatusJSON
	}
	var exit cli.ErrExit
	if err := print(); err != nil && !errors.As(err, &exit) {
		return "", err
	}
	switch {
	case asJSON:
		c.Err.Write(complaints.Bytes())
	case out.Len() == 0 && complaints.Len() == 0:
		return "No readers.\n", nil
	default:
		out.Write(complaints.Bytes())
	}
	return out.String(), nil
}
