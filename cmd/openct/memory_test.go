package main

import (
	"io"
	"os"
	"strings"
	"testing"
)

// What a user is told of a PSC that was not right.
func TestPSCError(t *testing.T) {
	for _, tt := range []struct {
		sw   uint16
		want string // a part of the text; empty: no error
	}{
		{0x9000, ""},
		{0x63C7, "7 tries are left"},
		{0x63C1, "one try is left"},
		{0x63C0, "the card is permanently blocked"},
		{0x6983, "the card is permanently blocked"},
		{0x6700, "not tried"},
		{0x6D00, "status word 6d00"},
	} {
		err := pscError(tt.sw)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%04x: %v, want %q", tt.sw, err, tt.want)
		}
	}
}

// A PSC is a line of hexadecimal, and no error repeats it.
func TestReadPSC(t *testing.T) {
	for _, tt := range []struct {
		name, in, want string
		err            string // a part of its text
	}{
		{"a line", "11:22 33\nmore", "\x11\x22\x33", ""},
		{"no end of line", "ffff", "\xff\xff", ""},
		{"nothing", "", "", "0 bytes"},
		{"an empty line", "\nffff\n", "", "0 bytes"},
		{"not hexadecimal", "hunter2\n", "", "not a string of hexadecimal bytes"},
		{"an odd digit", "fff\n", "", "not a string of hexadecimal bytes"},
		{"too long", strings.Repeat("ff", 256) + "\n", "", "256 bytes"},
		{"without end", strings.Repeat("ff", 10000), "", "510 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			go func() { _, _ = io.WriteString(w, tt.in); w.Close() }()
			psc, err := readPSC(r, io.Discard)
			if string(psc) != tt.want || (tt.err == "") != (err == nil) {
				t.Errorf("%x, %v", psc, err)
			}
			if err != nil && (!strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "hunter")) {
				t.Errorf("%v, want %q", err, tt.err)
			}
		})
	}
}
