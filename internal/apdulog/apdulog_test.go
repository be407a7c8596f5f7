package apdulog

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"openct/internal/hextest"
)

func TestCommand(t *testing.T) {
	long := "00 DA 01 02 00 0100" + strings.Repeat("AA", 256)
	tests := []struct {
		name, apdu, want string
	}{
		{"case 1", "00 A4 00 00", "00 A4 00 00 SELECT"},
		{"case 2", "00 B0 00 00 10", "00 B0 00 00 READ BINARY, with Le"},
		{"case 2, Le 0", "00 C0 00 00 00", "00 C0 00 00 GET RESPONSE, with Le"},
		{"case 3", "00 A4 00 00 02 3F00", "00 A4 00 00 SELECT, 2 bytes of data"},
		{"case 4", "00 A4 04 00 05 A000000308 00", "00 A4 04 00 SELECT, 5 bytes of data, with Le"},
		{"extended case 2", "00 B0 00 00 00 0200", "00 B0 00 00 READ BINARY, with Le"},
		{"extended case 2, Le 0", "00 B0 00 00 00 0000", "00 B0 00 00 READ BINARY, with Le"},
		{"extended case 3", long, "00 DA 01 02 PUT DATA, 256 bytes of data"},
		{"extended case 4", long + "0000", "00 DA 01 02 PUT DATA, 256 bytes of data, with Le"},
		{"unknown instruction", "80 F7 01 02 01 99", "80 F7 01 02, 1 byte of data"},
		{"verify", "00 20 00 80 08 3132333435363738", "00 20 00 80 VERIFY, 8 bytes of data"},
		{"chained", "10 DB 3F FF 01 53", "10 DB 3F FF PUT DATA, chained, 1 byte of data"},
		{"secure messaging", "0C 20 00 80 01 87", "0C 20 00 80 VERIFY, 1 byte of data"},
		{"PIN pad", "20 18 01 00 04 52020101", "20 18 01 00 PERFORM VERIFICATION, 4 bytes of data"},
		{"not to the reader", "00 18 01 00 01 52", "unknown command, 6 bytes"},
		{"verify: is it still verified?", "00 20 00 80", "unknown command, 4 bytes"},
		{"verify: is it still verified? (secure messaging)", "0C 20 00 80", "0C 20 00 80 VERIFY"},
		{"empty", "", "malformed command, 0 bytes"},
		{"one byte", "31", "malformed command, 1 byte"},
		{"PIN without a header", "313233", "malformed command, 3 bytes"},
		{"longer PIN without a header", "31323334 3536", "malformed command, 6 bytes"},
		{"PIN without a length", "00 20 00 80 31", "unknown command, 5 bytes"},
		{"PIN of four digits", "31323334", "unknown command, 4 bytes"},
		{"PIN of five digits", "3132333435", "unknown command, 5 bytes"},
		{"PIN of four numbers", "01020304", "unknown command, 4 bytes"},
		{"PIN in packed BCD", "12203456", "unknown command, 4 bytes"},
		{"password without a header", "61703464", "unknown command, 4 bytes"},
		{"PIN without parameters", "00 20 31 32", "unknown command, 4 bytes"},
		{"a digit more than Lc", "00 20 00 80 04 31323334 35", "00 20 00 80 VERIFY, 4 bytes of data, with Le"},
		{"reserved class", "30 A4 00 00", "unknown command, 4 bytes"},
		{"no class", "FF B0 00 00 00", "unknown command, 5 bytes"},
		{"unknown in an interindustry class", "00 EE 00 F0 00", "unknown command, 5 bytes"},
		{"challenge, digits alone", "00 84 00 00 08", "00 84 00 00 GET CHALLENGE, with Le"},
		{"proprietary", "80 F2 00 00", "80 F2 00 00"},
		{"proprietary, digits alone", "80 12 34 56", "unknown command, 4 bytes"},
		{"Lc too large", "00 20 00 80 08 31323334", "malformed command, 9 bytes"},
		{"Lc too small", "00 20 00 80 02 31323334", "malformed command, 9 bytes"},
		{"extended Lc 0", "00 20 00 80 00 0000 31", "malformed command, 8 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Command(hextest.Bytes(t, tt.apdu)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestResponse(t *testing.T) {
	const read = "00 B0 00 00 00"
	tests := []struct {
		name, command, response, want string
	}{
		{"done", read, "9000", "9000"},
		{"data", read, "3132333435369000", "9000, 6 bytes"},
		{"tries left", "00 20 00 80", "63C2", "63C2"},
		{"empty", read, "", "no status word, 0 bytes"},
		{"half", read, "90", "no status word, 1 byte"},
		{"data without a status word", read, "31323334", "no status word, 4 bytes"},
		{"what a card says that was sent no APDU", "21 43", "61626364", "no status word, 4 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Response(hextest.Bytes(t, tt.command), hextest.Bytes(t, tt.response)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// secret is a PIN, no two bytes of which occur in a header below or in a length.
var secret = []byte("qWzXvKjY")

// traces are two neighbouring bytes of the secret in all the usual ways to write
// bytes.
func traces(secret []byte) []string {
	var all []string
	for i := range len(secret) - 1 {
		for _, format := range []string{"%s", "%x", "%X", "% x", "% X", "%d"} {
			all = append(all, strings.Trim(fmt.Sprintf(format, secret[i:i+2]), "[]"))
		}
	}
	return all
}

var trail = traces(secret)

func leaks(text string) bool {
	return slices.ContainsFunc(trail, func(trace string) bool { return strings.Contains(text, trace) })
}

func TestNoWayToGetAPIN(t *testing.T) {
	extended := func(header string, data []byte) []byte {
		return append(append(hextest.Bytes(t, header), 0, 0, byte(len(data))), data...)
	}
	short := func(header string, data []byte) []byte {
		return append(append(hextest.Bytes(t, header), byte(len(data))), data...)
	}
	padded := append(append([]byte{}, secret...), 0xFF, 0xFF)
	// Every instruction in every sort of class: plain, chained, secure
	// messaging, logical channel, proprietary, reader, invalid.
	for _, cla := range []byte{0x00, 0x10, 0x0C, 0x1C, 0x03, 0x40, 0x80, 0x84, 0x90, 0xA0, 0xC0, 0x20, 0xFF} {
		for ins := range 256 {
			header := fmt.Sprintf("%02x%02x0080", cla, ins)
			for name, apdu := range map[string][]byte{
				"short":        short(header, secret),
				"with Le":      append(short(header, secret), 0),
				"padded":       short(header, padded),
				"extended":     extended(header, secret),
				"extended, Le": append(extended(header, secret), 0, 0),
				"no Lc":        append(hextest.Bytes(t, header), secret...),
				"Lc too large": append(append(hextest.Bytes(t, header), 0x7F), secret...),
				"Lc too small": append(append(hextest.Bytes(t, header), 1), secret...),
				"no header":    secret,
				"twice":        short(header, append(append([]byte{}, secret...), secret...)),
			} {
				if text := Command(apdu); leaks(text) {
					t.Fatalf("%s %s: %q", header, name, text)
				}
				if text := Response(apdu, append(append([]byte{}, secret...), 0x90, 0)); leaks(text) {
					t.Fatalf("response to %s %s: %q", header, name, text)
				}
				if text := Response(secret[:3], secret); leaks(text) {
					t.Fatalf("echo of what was no APDU: %q", text)
				}
			}
		}
	}
	if !leaks("00 20 00 80 08 71 57 7A") || !leaks("vKjY") || !leaks("[113 87 122]") {
		t.Fatal("the test would not see a leak")
	}
}

// Digits that a client sends without a header, in every coding that PINs have,
// show how many bytes they are and nothing else.
func TestBareDigits(t *testing.T) {
	const unknown = "unknown command"
	for n := range 100000 {
		ascii := fmt.Appendf(nil, "%05d", n)
		numbers := bytes.Clone(ascii)
		for i := range numbers {
			numbers[i] -= '0'
		}
		for _, pin := range [][]byte{ascii[1:], ascii, numbers[1:], numbers} {
			if text, want := Command(pin), fmt.Sprintf("%s, %d bytes", unknown, len(pin)); text != want {
				t.Fatalf("% X: %q, want %q", pin, text, want)
			}
		}
	}
	bcd := func(n int) byte { return byte(n/10<<4 | n%10) }
	for n := range 10000 {
		for _, tail := range [][]byte{{0x12, 0x34}, {0x00, 0x01}, {0x99, 0x00}, {0x12, 0x34, 0x56}, {0x00, 0x81, 0x09}} {
			pin := append([]byte{bcd(n / 100), bcd(n % 100)}, tail...)
			if text, want := Command(pin), fmt.Sprintf("%s, %d bytes", unknown, len(pin)); text != want {
				t.Fatalf("% X: %q, want %q", pin, text, want)
			}
		}
	}
}

func FuzzCommand(f *testing.F) {
	f.Add([]byte{0, 0x20, 0, 0x80, 8}, []byte("12345678"))
	f.Add([]byte{0x10, 0x24, 0, 1, 0, 0, 4}, []byte("1234"))
	f.Add([]byte{}, []byte("1234"))
	f.Fuzz(func(t *testing.T, header, body []byte) {
		// What follows the header cannot be told from the text: another
		// body of the same length gives the same text.
		if len(header) < 4 {
			return
		}
		lc := len(header) + len(body) - 5
		if lc < 1 || lc > 255 {
			return
		}
		apdu := append(append(append([]byte{}, header[:4]...), byte(lc)), header[4:]...)
		apdu = append(apdu, body...)[:5+lc]
		other := append(append([]byte{}, apdu[:5]...), bytes.Repeat([]byte{0xA5}, lc)...)
		if Command(apdu) != Command(other) {
			t.Errorf("%q depends on the body, %q without", Command(apdu), Command(other))
		}
	})
}
