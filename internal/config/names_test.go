package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const named = `
reader office { id = usb:0529/0600; serial = "00 A:17"; };
reader left { port = 1-2.3; };
reader spare { id = usb:0529/0600; };
reader sim { driver = phoenix; device = serial:/dev/ttyS0; };
`

func TestAliases(t *testing.T) {
	c := mustParse(t, named)
	want := []Alias{
		{Name: "office", ID: id(t, "usb:0529/0600"), Serial: "00 A:17", Where: "openct.conf:2"},
		{Name: "left", Port: "1-2.3", Where: "openct.conf:3"},
		{Name: "spare", ID: id(t, "usb:0529/0600"), Where: "openct.conf:4"},
	}
	if diff := cmp.Diff(want, c.Aliases, compareID); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(c.Readers) != 1 || c.Readers[0].Name != "sim" {
		t.Errorf("configured readers: %+v", c.Readers)
	}
}

func TestAliasOf(t *testing.T) {
	c := mustParse(t, named)
	tests := []struct {
		name, id, serial, port, want string
	}{
		{"id and serial number", "usb:0529/0600/0100", "00 A:17", "2-1", "office"},
		{"the first statement that fits", "usb:0529/0600/0100", "00 A:17", "1-2.3", "office"},
		{"blanks around a serial number", "usb:0529/0600/0100", " 00 A:17 ", "2-1", "office"},
		{"a part of the serial number", "usb:0529/0600/0100", "00 A:1", "2-1", "spare"},
		{"the serial number of another kind", "usb:0529/0700/0100", "00 A:17", "2-1", ""},
		{"the port", "usb:0529/0700/0100", "", "1-2.3", "left"},
		{"a port behind it", "usb:0529/0700/0100", "", "1-2.3.1", ""},
		{"no serial number", "usb:0529/0600/0100", "", "2-1", "spare"},
		{"none of them", "usb:1234/5678/0000", "", "2-1", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := c.AliasOf(Plugged{ID: id(t, tt.id), Serial: tt.serial, Port: tt.port}); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if got := Default().AliasOf(Plugged{ID: id(t, "usb:0529/0600/0100")}); got != "" {
		t.Errorf("without a statement: %q", got)
	}
}

// A device can say anything; what it says is compared as it is shown.
func TestHostileSerial(t *testing.T) {
	c := mustParse(t, `reader office { serial = "a?[2J"; };`)
	if got := c.AliasOf(Plugged{Serial: "a\x1b[2J\n"}); got != "office" {
		t.Errorf("got %q", got)
	}
}

func TestAliasMistakes(t *testing.T) {
	tests := []struct {
		name, src, want string
		left            int // aliases that count
	}{
		{"no name", "reader { port = 1-2; };", "the statement has no name", 0},
		{"a number", "reader 0 { port = 1-2; };", "does not begin with a letter", 0},
		{"a device", "reader 001-004 { port = 1-2; };", "does not begin with a letter", 0},
		{"a path", "reader dev/bus { port = 1-2; };", "a slash, a colon", 0},
		{"too long", "reader " + strings.Repeat("a", maxAlias+1) + " { port = 1-2; };", "longer than 32 bytes", 0},
		{"a control character", "reader \"a\x1b[2J\" { port = 1-2; };", "a control character", 0},
		{"a blank at its end", "reader \"a \" { port = 1-2; };", "a blank at its end", 0},
		{"no port", "reader a { port = 001/004; };", "is not a port such as 1-2", 0},
		{"an interface", "reader a { port = 1-2:1.0; };", "is not a port", 0},
		{"a port without a number", "reader a { port = 1-; };", "is not a port", 0},
		{"a sign", "reader a { port = 1-+2; };", "is not a port", 0},
		{"an empty serial number", "reader a { serial = \"\"; port = 1-2; };", "is not a serial number", 0},
		{"a kind of card", "reader a { id = pcmcia:0001; };", "is not a USB id", 0},
		{"a vendor", "reader a { id = usb:0529; };", "is not a USB id", 0},
		{"an id that cannot be read names nothing else", "reader a { id = x; port = 1-2; };", "the value of id is not valid", 0},
		{"a driver", "reader a { port = 1-2; driver = etoken64; };", "takes neither driver nor device", 0},
		{"a clock", "reader a { port = 1-2; clock = 3579545; };", "takes neither driver nor device", 0},
		{"the same serial number twice", "reader a { serial = 17; };\nreader b { serial = 17; };", `has the name "a" from the statement at openct.conf:1`, 1},
		{"a statement that can have no effect", "reader a { id = usb:0529/0600; };\nreader b { id = usb:0529/0600; serial = 17; };", `has the name "a" from the statement at openct.conf:1`, 1},
		{"a name twice", "reader a { serial = 17; };\nreader a { serial = 18; };", "the statement at openct.conf:1 gives this name to another device", 1},
		{"a configured reader's name, before it", "reader a { serial = 17; };\nreader a { driver = phoenix; device = serial:/dev/ttyS0; };", "the reader at openct.conf:2 has the name", 0},
		{"a configured reader's name, after it", "reader a { driver = phoenix; device = serial:/dev/ttyS0; };\nreader a { serial = 17; };", "the reader at openct.conf:1 has the name", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, warnings := Parse("openct.conf", []byte(tt.src), nil)
			var all []string
			for _, w := range warnings {
				all = append(all, w.String())
			}
			if got := strings.Join(all, "\n"); !strings.Contains(got, tt.want) {
				t.Errorf("warnings %q, want %q", got, tt.want)
			}
			if len(c.Aliases) != tt.left {
				t.Errorf("aliases %+v", c.Aliases)
			}
		})
	}
}

// C OpenCT knew neither key, and served such a reader.
func TestReaderWithID(t *testing.T) {
	c, warnings := Parse("openct.conf", []byte("reader sim { driver = phoenix; device = serial:/dev/ttyS0; serial = 17; };"), nil)
	if len(c.Readers) != 1 || len(c.Aliases) != 0 {
		t.Errorf("readers %+v, aliases %+v", c.Readers, c.Aliases)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0].String(), "have no effect") {
		t.Errorf("warnings %q", warnings)
	}
}
