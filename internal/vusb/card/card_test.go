package card

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"openct/internal/hextest"
)

// script is a card that expects certain commands and gives certain answers.
type script struct {
	t    *testing.T
	todo []exchange
}

// exchange is a command APDU and its response, in hexadecimal.
type exchange struct{ command, response string }

// newScript makes a script that must be used up when the test ends.
func newScript(t *testing.T, todo ...exchange) *script {
	s := &script{t, todo}
	t.Cleanup(func() {
		if len(s.todo) > 0 {
			t.Errorf("the card was not asked %s", s.todo[0].command)
		}
	})
	return s
}

func (s *script) ATR() []byte { return []byte{0x3B, 0x00} }
func (s *script) Reset()      {}

func (s *script) Transmit(apdu []byte) []byte {
	s.t.Helper()
	if len(s.todo) == 0 {
		s.t.Errorf("card: unexpected command % X", apdu)
		return status(swInternal)
	}
	x := s.todo[0]
	s.todo = s.todo[1:]
	if want := hextest.Bytes(s.t, x.command); !bytes.Equal(apdu, want) {
		s.t.Errorf("card got command % X, want % X", apdu, want)
	}
	return hextest.Bytes(s.t, x.response)
}

func TestNew(t *testing.T) {
	tests := []struct {
		name, atr string
	}{
		{"piv", "3B 84 81 31 FE 45 56 50 49 56 96"},
		{"echo", "3B 84 81 31 FE 45 45 43 48 4F 8E"},
		{"cardos", "3B F2 18 00 02 C1 0A 31 FE 58 C8 09 75"},
		{"sim", "3B 13 94 53 49 4D"},
		{"rutoken", "3B 6F 00 FF 00 56 72 75 54 6F 6B 6E 73 30 20 00 00 90 00"},
	}
	var names []string
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := New(tt.name, nil)
			if err != nil {
				t.Fatal(err)
			}
			if want := hextest.Bytes(t, tt.atr); !bytes.Equal(c.ATR(), want) {
				t.Errorf("ATR % X, want % X", c.ATR(), want)
			}
			c, err = New(tt.name, T0ATR("T0"))
			if err != nil {
				t.Fatal(err)
			}
			if want := []byte{0x3B, 0x02, 'T', '0'}; !bytes.Equal(c.ATR(), want) {
				t.Errorf("with another ATR: % X, want % X", c.ATR(), want)
			}
		})
		names = append(names, tt.name)
	}
	// They have no other ATR than their own (TestMemoryKinds).
	names = append(names, "24c02", "24c16", "24c32", "sle4432", "sle4442", "sle4418", "sle4428", "eurochip")
	if got := Names(); !slices.Equal(got, names) {
		t.Errorf("Names() = %v, want %v", got, names)
	}
}

func TestNewUnknown(t *testing.T) {
	c, err := New("pvi", nil)
	if err == nil || c != nil {
		t.Fatalf("New(pvi) = %v, %v", c, err)
	}
	for _, want := range []string{`"pvi"`, "piv, echo, cardos, sim"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %s", err, want)
		}
	}
}

func TestParseCommand(t *testing.T) {
	tests := []struct {
		name, apdu string
		ok         bool
		data       string
		le         int
	}{
		{"case 1", "00 44 00 00", true, "", 256},
		{"case 2", "00 B0 00 00 05", true, "", 5},
		{"case 2, all", "00 B0 00 00 00", true, "", 256},
		{"case 3", "00 A4 00 00 02 3F 00", true, "3F 00", 256},
		{"case 4", "00 A4 00 00 02 3F 00 10", true, "3F 00", 16},
		{"case 2 extended", "00 B0 00 00 00 01 02", true, "", 258},
		{"case 2 extended, all", "00 B0 00 00 00 00 00", true, "", 65536},
		{"case 3 extended", "00 A4 00 00 00 00 02 3F 00", true, "3F 00", 65536},
		{"case 4 extended", "00 A4 00 00 00 00 02 3F 00 01 00", true, "3F 00", 256},
		{"too short", "00 A4 00", false, "", 0},
		{"nothing", "", false, "", 0},
		{"data missing", "00 A4 00 00 02 3F", false, "", 0},
		{"data left over", "00 A4 00 00 02 3F 00 00 00", false, "", 0},
		{"extended, cut", "00 A4 00 00 00 00", false, "", 0},
		{"extended, no data", "00 A4 00 00 00 00 00 00 00", false, "", 0},
		{"extended, data missing", "00 A4 00 00 00 00 04 3F 00", false, "", 0},
		{"extended, one byte of Le", "00 A4 00 00 00 00 02 3F 00 00", false, "", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, ok := parseCommand(hextest.Bytes(t, tt.apdu))
			if ok != tt.ok {
				t.Fatalf("ok = %v, want %v", ok, tt.ok)
			}
			if ok && (!bytes.Equal(c.data, hextest.Bytes(t, tt.data)) || c.le != tt.le) {
				t.Errorf("data % X, Le %d; want %s, %d", c.data, c.le, tt.data, tt.le)
			}
		})
	}
}

func TestEcho(t *testing.T) {
	counting := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i)
		}
		return append(b, 0x90, 0x00)
	}
	e := NewEcho()
	tests := []struct {
		name, apdu string
		n          int
	}{
		{"nothing", "00 EE 00 00 00", 0},
		{"one byte", "00 EE 00 01 00", 1},
		{"256 bytes", "00 EE 01 00 00", 256},
		{"fewer again: no old status word inside", "00 EE 00 FE 00", 254},
		{"and the place of the last one counts on", "00 EE 01 01 00", 257},
		{"four bytes of command", "00 EE 00 05", 5},
		{"any class and instruction", "FF 00 00 03", 3},
		{"data", "00 EE 00 02 03 01 02 03", 2},
		{"extended", "00 EE 00 04 00 00 01 55", 4},
		{"lengths that do not fit", "00 EE 00 04 09 01", 4},
		{"as much as there can be", "00 EE FF FF", 65535},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, want := e.Transmit(hextest.Bytes(t, tt.apdu)), counting(tt.n); !bytes.Equal(got, want) {
				t.Errorf("%d bytes, want %d: % X...", len(got), len(want), got[:min(len(got), 300)])
			}
		})
	}
	if got := e.Transmit([]byte{0, 1, 2}); !bytes.Equal(got, []byte{0x67, 0x00}) {
		t.Errorf("three bytes: % X, want 67 00", got)
	}
	apdu := hextest.Bytes(t, "00 EE 01 00 00")
	if n := allocations(func() { e.Transmit(apdu) }); n != 0 {
		t.Errorf("%v allocations per command, want none", n)
	}
}

func TestCardOS(t *testing.T) {
	tests := []struct {
		name, apdu, want string
	}{
		{"select master file", "00 A4 00 00 02 3F 00", "90 00"},
		{"select with FCI", "00 A4 00 00 02 3F 00 00", "6F 07 82 01 38 83 02 3F 00 90 00"},
		{"select something else", "00 A4 00 00 02 50 15", "6A 82"},
		{"select by name", "00 A4 04 00 02 50 15", "6A 86"},
		{"version is in the ATR", "00 CA 01 82 00", "C8 09 90 00"},
		{"packages", "00 CA 01 88 00", "90 00"},
		{"another data object", "00 CA 01 83 00", "6D 00"},
		{"another instruction", "00 B0 00 00 00", "6D 00"},
		{"another class", "80 CA 01 82 00", "6E 00"},
		{"not a command", "00 A4 00", "67 00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := NewCardOS(nil).Transmit(hextest.Bytes(t, tt.apdu))
			if want := hextest.Bytes(t, tt.want); !bytes.Equal(got, want) {
				t.Errorf("% X, want % X", got, want)
			}
		})
	}
	c := NewCardOS(nil)
	serial := bytes.Clone(c.Transmit(hextest.Bytes(t, "00 CA 01 81 00")))
	if len(serial) != 10 || !bytes.HasSuffix(serial, []byte{0x90, 0x00}) {
		t.Errorf("serial number % X", serial)
	}
	if again := c.Transmit(hextest.Bytes(t, "00 CA 01 81 00")); !bytes.Equal(serial, again) {
		t.Errorf("serial number % X, then % X", serial, again)
	}
	one := bytes.Clone(c.Transmit(hextest.Bytes(t, "00 84 00 00 08")))
	two := c.Transmit(hextest.Bytes(t, "00 84 00 00 08"))
	if len(one) != 10 || len(two) != 10 || bytes.Equal(one, two) {
		t.Errorf("challenges % X and % X", one, two)
	}
}
