package verify

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openct/internal/driver"
)

const head = title + "\nversion 0.8.0\ndate 2026-11-26\ndriver etoken64\n"

const usbReport = head + `device 0529:0600 0100
interface 0 0 ff 00 00
endpoint 81 3 8
extra 0321aa

[verdicts]
ok     ATR                 3B 84 81 31 FE 45 00 00 00 00 8F

[exchange]
open
  CLAIM 0 0
= ok  # 0 ms
reset
  OUT 40 01 0000 0000 [] T 1000
  IN  C0 81 0000 0000 len 35 T 1000 0B 3B 84 81 31 FE 45 56 50 49 56 96
= ATR 3B 84 81 31 FE 45 56 50 49 56 96  # 1 ms
protocol -1
= T=1  # 0 ms
transmit 00 A4 00 00 02 3F 00
  OUT 40 06 0000 0000 [00 00 07 00 A4 00 00 02 3F 00 9E] T 10000
  IN  C0 86 0000 0000 len 36 T 10000 00 00 02 90 00 92
= 9000, 0 bytes  # 2 ms
close
= ok  # 0 ms
`

const lineReport = title + "\nversion 0.8.0\ndate 2026-11-26\ndriver phoenix\n" + `
[exchange]
open
  set 9600 8E2 check
= ok  # 0 ms
reset
  lines 10
  < 3b021450
= ATR 3B 02 14 50  # 200 ms
protocol -1
= T=0  # 0 ms
transmit 00 B0 00 00 02
  > 00b0000002
  < 00b0000002b000009000
= 9000, 2 bytes  # 2 ms
`

func write(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := r.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestParse(t *testing.T) {
	for name, text := range map[string]string{"usb": usbReport, "line": lineReport} {
		t.Run(name, func(t *testing.T) {
			r, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			before := write(t, r)
			again, err := Parse(before)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, write(t, again)); diff != "" {
				t.Errorf("(-once +twice)\n%s", diff)
			}
			if r.Unplayable() != "" {
				t.Error("it cannot be played")
			}
			if name == "usb" {
				r.Device.Interfaces[0].Extra[2] = 0
			}
			r.Mask()
			masked := strings.NewReplacer("0321aa", "032100", "56 50 49 56 96\n", "00 00 00 00 8F\n",
				"56 50 49 56 96  #", "00 00 00 00 8F  #", "3b021450", "3b020000", "14 50  #", "00 00  #")
			if diff := cmp.Diff(masked.Replace(before), write(t, r)); diff != "" {
				t.Errorf("masked (-want +got)\n%s", diff)
			}
		})
	}
}

func TestMaskATR(t *testing.T) {
	for _, tt := range []struct{ name, atr, want string }{
		{"no historical bytes", "3B00", "3B00"},
		{"a text", "3B84813 1FE45 56504956 96", "3B848131FE45 00000000 8F"},
		{"a text, a wrong TCK", "3B848131FE45 56504956 97", "3B848131FE45 00000000 8E"},
		{"no TCK", "3B024142", "3B020000"},
		{"objects that say what the card can do", "3B09 80 31C0 73C82140 9000", "3B09 80 31C0 73C82140 0000"},
		{"a card's number in an object", "3B8A80 01 80 31C0 5641424344 9000 00", "3B8A8001 80 31C0 0000000000 0000 7B"},
		{"a service that is too long", "3B0580 34 414243", "3B0580 00 000000"},
		{"bytes behind it", "3B0001020304", "3B0000000000"},
		{"none", "414243", "000000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, want := unhex(t, tt.atr), unhex(t, tt.want)
			keepATR(b, nil)
			if !bytes.Equal(b, want) {
				t.Fatalf("% X, want % X", b, want)
			}
			if keepATR(b, nil); !bytes.Equal(b, want) {
				t.Errorf("a second time: % X", b)
			}
		})
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseRefuses(t *testing.T) {
	change := func(old, new string) string {
		if !strings.Contains(usbReport, old) {
			t.Fatalf("no %q in the report", old)
		}
		return strings.Replace(usbReport, old, new, 1)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "its first line"},
		{"another number", strings.Replace(usbReport, "report 1", "report 2", 1), "its first line"},
		{"too long", usbReport + strings.Repeat("#", MaxReport), "more than"},
		{"no driver", change("driver etoken64\n", ""), "driver, version or date is missing"},
		{"unknown driver", change("driver etoken64", "driver ../../etc"), "line 4: driver"},
		{"a path for a version", change("version 0.8.0", "version ../x"), "line 2: "},
		{"no date", change("2026-11-26", "yesterday"), "line 3: "},
		{"two devices", change("interface 0 0 ff", "device 0529:0600 0100\ninterface 0 0 ff"), "a second device"},
		{"an id of letters", change("0529:0600", "052x:0600"), "not a number"},
		{"an interface too many numbers", change("interface 0 0 ff 00 00", "interface 0 0 ff 00 00 00"), "6 values instead of 5"},
		{"an endpoint without interface", change("interface 0 0 ff 00 00\n", ""), "outside an interface"},
		{"descriptors without end", change("0321aa", strings.Repeat("00", maxExtra+1)), "more than"},
		{"interfaces without end", change("interface 0 0 ff 00 00", strings.Repeat("interface 0 0 ff 00 00\n", maxParts)), "more than 256"},
		{"unknown word", change("endpoint 81", "endpiont 81"), "is unknown"},
		{"unknown section", change("[verdicts]", "[verdict]"), "is unknown"},
		{"unknown verdict", change("ok     ATR", "good   ATR"), "not a verdict"},
		{"terminal escapes", change("ATR                 3B", "ATR                 \x1b[2J3B"), "is not a valid value"},
		{"unknown step", change("\nclose\n", "\nexplode\n"), "is not a step"},
		{"unknown protocol", change("protocol -1", "protocol 99"), "not a protocol"},
		{"a command of 3 bytes", change("00 A4 00 00 02 3F 00\n", "00 A4 00\n"), "not a command"},
		{"a transfer that is none", change("OUT 40 01", "OUT C0 01"), "is not OUT"},
		{"a short text of many bytes", change("[] T 1000", "[00*1000000] T 1000"), "must not repeat bytes"},
		{"a transfer of no step", change("open\n", ""), "belongs to no step"},
		{"a result of no step", change("open\n  CLAIM 0 0\n", ""), "without a step"},
		{"no result", change("= ok  # 0 ms\nreset", "reset"), "has no result"},
		{"the end is missing", strings.TrimSuffix(usbReport, "= ok  # 0 ms\n"), "in an incomplete step"},
		{"no exchange", usbReport[:strings.Index(usbReport, "open\n")], "exchange is missing"},
		{"steps without end", usbReport + strings.Repeat("close\n= ok\n", maxSteps), "more than 4096 steps"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(tt.text)
			if !errors.Is(err, ErrReport) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Whatever a file says, it is a report within the limits, or refused; and what is
// masked stays so.
func FuzzParse(f *testing.F) {
	f.Add(usbReport)
	f.Add(lineReport)
	for _, driver := range driver.Names() {
		f.Add(strings.Replace(lineReport, "phoenix", driver, 1))
		f.Add(strings.Replace(usbReport, "etoken64", driver, 1))
	}
	f.Add(strings.Replace(strings.Replace(usbReport, "etoken64", "ccid", 1), "OUT 40 06 0000 0000 [00 00 07 00 A4 00 00 02 3F 00 9E] T 10000\n  IN  C0 86 0000 0000 len 36 T 10000 00 00 02 90 00 92",
		"BULK 02 [6F 04 00 00 00 00 01 00 00 00 00 00 00 00]\n  BULK 81 len 64 80 06 00 00 00 00 01 00 00 00 00 00 02 90 00 92\n  INT 81 len 8 50 03", 1))
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrReport) {
				t.Fatalf("error without its sentinel: %v", err)
			}
			return
		}
		r.Unplayable()
		r.Mask()
		once := write(t, r)
		r.Mask()
		if diff := cmp.Diff(once, write(t, r)); diff != "" {
			t.Fatalf("masked twice (-once +twice)\n%s", diff)
		}
		if _, err := Parse(once); err != nil {
			t.Fatalf("own output: %v\n%s", err, once)
		}
	})
}
