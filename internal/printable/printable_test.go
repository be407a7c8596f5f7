package printable

import (
	"bytes"
	"testing"
	"unicode"
	"unicode/utf8"
)

var tests = []struct{ name, in, line, text string }{
	{"plain", "eToken PRO 64k", "eToken PRO 64k", "eToken PRO 64k"},
	{"other languages", "Kártya 読取", "Kártya 読取", "Kártya 読取"},
	{"escape sequence", "a\x1b[2Jb", "a?[2Jb", "a?[2Jb"},
	{"C1 control character", "a\u009b2Jb", "a?2Jb", "a?2Jb"},
	{"the same as a byte", "a\x9b2Jb", "a?2Jb", "a?2Jb"},
	{"line that is forged", "a\nnext: rm", "a next: rm", "a\nnext: rm"},
	{"carriage return", "a\rb", "a b", "a?b"},
	{"tab", "a\tb", "a b", "a\tb"},
	{"right to left", "a\u202eb", "a?b", "a?b"},
	{"zero width", "a\u200bb", "a?b", "a?b"},
	{"delete, bell, zero", "\x7f\x07\x00", "???", "???"},
	{"empty", "", "", ""},
}

func TestLine(t *testing.T) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Line(tt.in); got != tt.line {
				t.Errorf("got %q, want %q", got, tt.line)
			}
		})
	}
}

func TestWriter(t *testing.T) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			n, err := Writer(&b).Write([]byte(tt.in))
			if n != len(tt.in) || err != nil || b.String() != tt.text {
				t.Errorf("got %q, %d, %v; want %q", b.String(), n, err, tt.text)
			}
		})
	}
}

func FuzzLine(f *testing.F) {
	for _, tt := range tests {
		f.Add(tt.in)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out := Line(in)
		if !utf8.ValidString(out) {
			t.Errorf("%q is not UTF-8", out)
		}
		for _, r := range out {
			if !unicode.IsPrint(r) {
				t.Errorf("%q has %U", out, r)
			}
		}
	})
}
