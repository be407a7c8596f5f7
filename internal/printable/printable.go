// Package printable keeps what devices, clients and files say from talking to a
// terminal: an escape sequence in a product string could clear the screen, a line
// break forge a line of ours.
package printable

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line is s on one line: white space becomes a space, and what does not show (control
// and format characters, bytes that are not UTF-8) a question mark.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r == '\r' {
			return ' '
		}
		return shown(r)
	}, s)
}

func shown(r rune) rune {
	if r == utf8.RuneError || !unicode.IsPrint(r) {
		return '?'
	}
	return r
}

// Writer passes text on to w, with line breaks and tabs, and everything else as Line
// does. Whoever writes foreign text into a line of its own uses Line first.
func Writer(w io.Writer) io.Writer { return writer{w} }

type writer struct{ to io.Writer }

func (w writer) Write(b []byte) (int, error) {
	text := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		return shown(r)
	}, string(b))
	if _, err := io.WriteString(w.to, text); err != nil {
		return 0, err
	}
	return len(b), nil
}
