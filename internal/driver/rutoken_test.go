//go:build go1.25

package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/hextest"
	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
	"openct/internal/usb/usbtest"
)

// rules are 40 bytes of access rules in a TLV, and rulesNative the 15 of a
// header they become.
const (
	rules       = "01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A 1B 1C 1D 1E 1F 20 21 22 23 24 25 26 27 28"
	rulesNative = "01 02 03 04 05 06 07 08 09 0D 11 15 19 1D 21"
)

func times(n int, s string) string { return strings.Repeat(s+" ", n) }

// Each translation of doc/devices/rutoken.md, and what lies beside them.
func TestRutokenToNative(t *testing.T) {
	object := "80 02 10 00 83 02 02 03 85 03 01 02 03 86 28 " + times(40, "AA") + "A5 10 " + times(16, "BB")
	tests := []struct {
		name, app, header, data string
		le                      int
	}{
		{"create file", "00 E0 00 00 3A 62 38 80 02 20 00 82 02 01 00 83 02 01 10 86 28 " + rules + " 81 00",
			"00 E0 00 00 20", "00 00 00 20 01 00 10 01 00 00 00 00 00 00 00 00 00 " + rulesNative, 0},
		{"create file, case 4", "00 E0 00 00 3A 62 38 80 02 20 00 82 02 01 00 83 02 01 10 86 28 " + rules + " 81 00 00",
			"00 E0 00 00 20", "00 00 00 20 01 00 10 01 00 00 00 00 00 00 00 00 00 " + rulesNative, 256},
		{"create file with a total size", "00 E0 00 00 3C 62 3A 80 02 20 00 82 02 01 00 83 02 01 10 86 28 " + rules + " 81 02 34 12",
			"00 E0 00 00 20", "12 34 00 20 01 00 10 01 00 00 00 00 00 00 00 00 00 " + rulesNative, 0},
		{"create object", "00 DA 01 62 49 " + object,
			"00 DA 01 62 30", "00 10 02 03 01 02 03 " + times(10, "00") + times(15, "AA") + times(16, "BB"), 0},
		{"make key", "00 DA 01 65 49 " + object,
			"00 DA 01 65 30", "00 10 02 03 01 02 03 " + times(10, "00") + times(15, "AA") + times(16, "BB"), 0},
		{"object whose body has another length", "00 DA 01 62 49 " + strings.Replace(object, "10 00", "11 00", 1),
			"00 DA 01 62 20", "00 11 02 03 01 02 03 " + times(10, "00") + times(15, "AA"), 0},
		{"put data elsewhere", "00 DA 01 63 02 01 02", "00 DA 01 63 02", "01 02", 0},
		{"select", "00 A4 00 00 02 00 3F", "00 A4 00 00 02", "3F 00", 0},
		{"select with Le", "00 A4 00 00 02 00 3F 00", "00 A4 00 00 02", "3F 00", 256},
		{"select, odd length and Le", "00 A4 00 00 03 00 3F 11 22", "00 A4 00 00 03", "3F 00 11", 0x22},
		{"delete", "00 E4 00 00 04 01 02 03 04", "00 E4 00 00 04", "02 01 04 03", 0},
		{"another class", "80 A4 00 00 02 00 3F", "80 A4 00 00 02", "00 3F", 0},
		{"no data", "00 A4 00 00 00", "00 A4 00 00 00", "", 256},
		{"header alone", "00 A4 00 00", "00 A4 00 00 00", "", 0},
		{"create file, not a template", "00 E0 00 00 03 62 38 80", "00 E0 00 00 03", "62 38 80", 0},
		{"create file, broken TLV", "00 E0 00 00 20 62 1E 80 FF " + times(28, "00"), "00 E0 00 00 20", "62 1E 80 FF " + times(28, "00"), 0},
		{"create file without type", "00 E0 00 00 20 62 04 83 02 01 10 " + times(26, "00"), "00 E0 00 00 20", "62 04 83 02 01 10 " + times(26, "00"), 0},
		{"create object, too short", "00 DA 01 62 06 80 02 10 00 A5 00", "00 DA 01 62 06", "80 02 10 00 A5 00", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			app := hextest.Bytes(t, tt.app)
			c, err := parseTPDU(app)
			if err != nil {
				t.Fatal(err)
			}
			c.toNative()
			if !bytes.Equal(c.header[:], hextest.Bytes(t, tt.header)) || !bytes.Equal(c.data, hextest.Bytes(t, tt.data)) || c.le != tt.le {
				t.Errorf("got % X, % X, Le %d", c.header, c.data, c.le)
			}
			if !bytes.Equal(app, hextest.Bytes(t, tt.app)) {
				t.Error("the client's command was changed")
			}
		})
	}
}

func TestRutokenFromNative(t *testing.T) {
	tests := []struct {
		name, command, native, app string
	}{
		{"master file", "00 A4 00 00", "00 00 00 00 38 00 3F 00 01 " + times(8, "00") + "43 " + times(14, "00"),
			"62 3D 81 02 00 00 80 02 00 00 82 02 38 00 83 02 00 3F 8A 01 01 86 28 43 " + times(39, "00")},
		{"file", "00 A4 00 00", "12 34 00 20 01 00 10 01 05 00 00 00 00 00 00 00 00 " + rulesNative,
			"62 3D 81 02 34 12 80 02 20 00 82 02 01 00 83 02 01 10 8A 01 05 86 28 01 02 03 04 05 06 07 08 " +
				"09 00 00 00 0D 00 00 00 11 00 00 00 15 00 00 00 19 00 00 00 1D 00 00 00 21 00 00 00 00 00 00 00"},
		{"SELECT with another answer", "00 A4 00 00", "01 02 03", "01 02 03"},
		{"object info", "80 30 00 00", "00 10 02 03 01 02 03 " + times(10, "00") + times(15, "AA") + times(16, "BB"),
			"83 02 02 03 85 03 01 02 03 86 28 " + times(8, "AA") + times(7, "AA 00 00 00") + "00 00 00 00"},
		{"object info, length in the high byte", "80 30 00 00", "02 00 02 03 01 02 03 " + times(10, "00") + times(15, "AA") + "BB CC DD",
			"80 02 00 02 83 02 02 03 85 03 01 02 03 86 28 " + times(8, "AA") + times(7, "AA 00 00 00") + "00 00 00 00 A5 02 BB CC"},
		{"object info, body missing", "80 30 00 00", "02 00 02 03 01 02 03 " + times(10, "00") + times(15, "AA") + "BB",
			"80 02 00 02 83 02 02 03 85 03 01 02 03 86 28 " + times(8, "AA") + times(7, "AA 00 00 00") + "00 00 00 00"},
		{"object info, body too long", "80 30 00 00", "C6 00 02 03 01 02 03 " + times(10, "00") + times(15, "AA") + times(200, "BB"),
			"83 02 02 03 85 03 01 02 03 86 28 " + times(8, "AA") + times(7, "AA 00 00 00") + "00 00 00 00"},
		{"object info, longest body", "80 30 00 00", "C5 00 02 03 01 02 03 " + times(10, "00") + times(15, "AA") + times(0xC5, "BB"),
			"80 02 00 C5 83 02 02 03 85 03 01 02 03 86 28 " + times(8, "AA") + times(7, "AA 00 00 00") + "00 00 00 00 A5 C5 " + times(0xC5, "BB")},
		{"object info, short", "80 30 00 00", times(31, "01"), times(31, "01")},
		{"serial number", "00 CA 01 81", "01 02 03 04 05 06 07 08", "04 03 02 01 08 07 06 05"},
		{"free memory", "00 CA 01 8A", "01 02 03 04 05", "04 03 02 01 05"},
		{"current file", "00 CA 01 11", "3F 00 01", "00 3F 01"},
		{"other data", "00 CA 01 82", "01 02", "01 02"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := fromNative([4]byte(hextest.Bytes(t, tt.command)), hextest.Bytes(t, tt.native))
			if want := hextest.Bytes(t, tt.app); !bytes.Equal(got, want) {
				t.Errorf("got  % X\nwant % X", got, want)
			}
		})
	}
}

// native writes the transfers of one native command: its header, then each
// piece as "> data out", "< data in", or a status word.
func native(header string, pieces ...string) string {
	const status = "IN C1 A0 0000 0000 len 1 %s\n"
	both := func(st string) string { return fmt.Sprintf(status+status, st, st) }
	var b strings.Builder
	state := func(i int) string {
		if strings.ContainsAny(pieces[i], "<>") {
			return "10"
		}
		return "20"
	}
	fmt.Fprintf(&b, "OUT 41 65 0000 0000 [%s]\n"+status, header, state(0))
	if state(0) == "10" || strings.HasPrefix(header, "00 B0") {
		fmt.Fprintf(&b, status, state(0)) // the driver looks for the data phase
	}
	for i, p := range pieces {
		switch {
		case p[0] == '>':
			fmt.Fprintf(&b, "OUT 41 65 0000 0000 [%s]\n"+both("20"), p[1:])
		case p[0] == '<':
			n, data, _ := strings.Cut(p[1:], " ")
			fmt.Fprintf(&b, "IN C1 6F 0000 0000 len %s %s\n"+both("20"), n, data)
		default:
			if i == 0 {
				fmt.Fprintf(&b, status, "20")
			}
			fmt.Fprintf(&b, "IN C1 6F 0000 0000 len 2 %s\n"+status, p, "00")
		}
	}
	return b.String()
}

const rutokenPlain = "OUT 41 63 0000 0000 []\nIN C1 A0 0000 0000 len 1 17\nIN C1 62 0000 0000 len 19 " + rutokenATR + "\n"

func TestRutokenCommands(t *testing.T) {
	file := "00*32"
	tests := []struct {
		name     string
		command  string
		script   string
		response string
	}{
		{"case 1", "00 44 00 00", native("00 44 00 00 00", ok), ok},
		{"case 2", "00 B0 00 00 04", native("00 B0 00 00 04", "<4 01 02 03 04", ok), "01 02 03 04 90 00"},
		{"case 2, wrong length", "00 B0 00 00 04", native("00 B0 00 00 04", "67 00"), "67 00"},
		{"case 2, right length named", "00 B0 00 00 04",
			native("00 B0 00 00 04", "6C 02") + native("00 B0 00 00 02", "<2 01 02", ok), "01 02 90 00"},
		{"case 3", "00 20 00 01 02 31 32", native("00 20 00 01 02", ">31 32", ok), ok},
		{"case 3, answer thrown away", "00 88 00 00 01 11",
			native("00 88 00 00 01", ">11", "61 02") + native("00 C0 00 00 02", "<2 AA BB", "62 81"), "62 81"},
		{"case 4", "00 88 00 00 01 11 00",
			native("00 88 00 00 01", ">11", "61 02") + native("00 C0 00 00 02", "<2 AA BB", ok), "AA BB 90 00"},
		{"case 4 without announcement", "00 88 00 00 01 11 00",
			native("00 88 00 00 01", ">11", ok) + native("00 C0 00 00 00", "<256 AA BB", ok), "AA BB 90 00"},
		{"case 4, refused", "00 88 00 00 01 11 00", native("00 88 00 00 01", ">11", "69 82"), "69 82"},
		{"case 4, nothing to say", "00 22 00 00 01 11 00",
			native("00 22 00 00 01", ">11", ok) + nativeNoData("00 C0 00 00 00", "6D 00"), ok},
		{"refused before the data", "00 20 00 01 02 31 32",
			"OUT 41 65 0000 0000 [00 20 00 01 02]\nIN C1 A0 0000 0000 len 1 20\nIN C1 A0 0000 0000 len 1 20\nIN C1 A0 0000 0000 len 1 20\nIN C1 6F 0000 0000 len 2 6E 00\nIN C1 A0 0000 0000 len 1 00\n", "6E 00"},
		{"SELECT, 9000 instead of 61xx", "00 A4 00 00 02 00 3F",
			native("00 A4 00 00 02", ">3F 00", ok) + native("00 C0 00 00 00", "<256 "+file, ok),
			"62 3D 81 02 00 00 80 02 00 00 82 02 00 00 83 02 00 00 8A 01 00 86 28 " + times(40, "00") + ok},
		{"SELECT, not found", "00 A4 00 00 02 00 3F", native("00 A4 00 00 02", ">3F 00", "6A 82"), "6A 82"},
		{"SELECT without data", "00 A4 00 00 00", native("00 A4 00 00 20", "<32 "+file, ok),
			"62 3D 81 02 00 00 80 02 00 00 82 02 00 00 83 02 00 00 8A 01 00 86 28 " + times(40, "00") + ok},
		{"SELECT, length corrected for ever", "00 A4 00 00 00",
			nativeNoData("00 A4 00 00 20", "6C 10") + nativeNoData("00 A4 00 00 10", "6C 10"), "6C 10"},
		{"object info: all of it", "80 30 00 00 00", native("80 30 00 00 FF", "<255 "+file, ok),
			"83 02 00 00 85 03 00 00 00 86 28 " + times(40, "00") + ok},
		{"serial number", "00 CA 01 81 00", native("00 CA 01 81 00", "<256 01 02 03 04 05 06 07 08", ok), "04 03 02 01 08 07 06 05 90 00"},
		{"not translated unless 9000", "00 CA 01 81 04", native("00 CA 01 81 04", "<4 01 02 03 04", "62 82"), "01 02 03 04 62 82"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dev := usbtest.Parse(t, rutokenPlain+tt.script)
			defer dev.Done(t)
			slot, raw := session(t, openRutoken, dev)
			play(t, engine(t, slot, raw), []exchange{{tt.command, tt.response, nil}})
		})
	}
}

// nativeNoData is a command for data that has a status word at once.
func nativeNoData(header, sw string) string {
	const status = "IN C1 A0 0000 0000 len 1 %s\n"
	return fmt.Sprintf("OUT 41 65 0000 0000 [%s]\n"+status+status+status+"IN C1 6F 0000 0000 len 2 %s\n"+status,
		header, "20", "20", "20", sw, "00")
}

// A token that counts is at work, one that does not count has failed, and one
// that counts for ever has failed, too.
func TestRutokenBusy(t *testing.T) {
	tests := []struct {
		name  string
		count func(look int) byte
		looks int // that must pass before the error; 0: it succeeds
		err   error
	}{
		{"counting to 1000", func(i int) byte {
			if i < 1000 {
				return 0x40 | byte(i+1)&0x0F
			}
			return 0x20
		}, 0, nil},
		{"stuck", func(int) byte { return 0x43 }, 201, usb.ErrTimeout},
		{"stuck, then done", func(i int) byte {
			if i < 150 {
				return 0x43
			}
			return 0x20
		}, 0, nil},
		{"counting for ever", func(i int) byte { return 0x40 | byte(i+1)&0x0F }, 1000, usb.ErrTimeout},
		{"mute", func(int) byte { return 0x80 }, 1, ifd.ErrComm},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dev := &statusDevice{Device: usbtest.Parse(t, rutokenPlain+"OUT 41 65 0000 0000 [00 44 00 00 00]\nIN C1 6F 0000 0000 len 2 90 00\n"), status: tt.count}
				slot, raw := session(t, openRutoken, dev)
				dev.from, dev.looks = true, 0
				start := time.Now()
				e := engine(t, slot, raw)
				_, err := e.Transmit(context.Background(), hextest.Bytes(t, "00 44 00 00"), nil)
				if !errors.Is(err, tt.err) {
					t.Fatalf("got %v, want %v", err, tt.err)
				}
				if err != nil && dev.looks < tt.looks {
					t.Errorf("gave up after %d looks, want %d at least", dev.looks, tt.looks)
				}
				if waited := time.Since(start); waited > maxBusy+time.Second {
					t.Errorf("waited %v", waited)
				}
				if tt.err == nil {
					return
				}
				if _, err := e.Transmit(context.Background(), hextest.Bytes(t, "00 44 00 00"), nil); !errors.Is(err, proto.ErrResetRequired) {
					t.Errorf("next command: got %v, want %v", err, proto.ErrResetRequired)
				}
			})
		})
	}
}

// statusDevice answers a Rutoken's status requests by itself, once it should.
type statusDevice struct {
	usb.Device
	status func(look int) byte
	from   bool
	looks  int
}

func (d *statusDevice) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	if !d.from || s.Request != rutokenStatus {
		return d.Device.Control(ctx, s, data, timeout)
	}
	data[0] = d.status(d.looks)
	d.looks++
	return 1, nil
}

func FuzzRutokenTranslation(f *testing.F) {
	for _, s := range []string{
		"00 E0 00 00 3A 62 38 80 02 20 00 82 02 01 00 83 02 01 10 86 28 " + rules + " 81 00",
		"00 DA 01 62 49 80 02 10 00 83 02 02 03 85 03 01 02 03 86 28 " + times(40, "AA") + "A5 10 " + times(16, "BB"),
		"00 A4 00 00 02 00 3F 00", "00 CA 01 81 00", "80 30 00 00 00",
	} {
		f.Add(hextest.Bytes(f, s), hextest.Bytes(f, "00 10 02 03 01 02 03 "+times(10, "00")+times(15, "AA")+times(16, "BB")))
	}
	f.Fuzz(func(t *testing.T, command, answer []byte) {
		c, err := parseTPDU(command)
		if err != nil {
			if !errors.Is(err, proto.ErrInvalidAPDU) {
				t.Fatalf("got %v, want %v", err, proto.ErrInvalidAPDU)
			}
			return
		}
		header, before := [4]byte(c.header[:]), bytes.Clone(command)
		c.toNative()
		if !bytes.Equal(command, before) {
			t.Fatal("the client's command was changed")
		}
		if [4]byte(c.header[:]) != header || len(c.data) > 0 && int(c.header[4]) != len(c.data) {
			t.Fatalf("header % X for %d bytes", c.header, len(c.data))
		}
		if len(answer) > 256 {
			answer = answer[:256]
		}
		n := len(answer)
		if out := fromNative(header, answer); len(out) > max(n, 256) || n < rutokenFile && len(out) != n {
			t.Fatalf("%d bytes of %d", len(out), n)
		}
	})
}
