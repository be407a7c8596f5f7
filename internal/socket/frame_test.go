package socket

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"openct/internal/hextest"
)

// recorded returns all requests or answers of the recordings that sockettest
// replays.
func recorded(t testing.TB, dir string) [][]byte {
	t.Helper()
	f, err := os.Open("../daemon/testdata/exchanges.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all [][]byte
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var l struct{ Dir, Hex string }
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		if l.Dir != dir || l.Hex == "" {
			continue
		}
		b, err := hex.DecodeString(l.Hex)
		if err != nil {
			t.Fatal(err)
		}
		if dir == "request" || len(b) >= HeaderSize {
			all = append(all, b)
		}
	}
	if err := sc.Err(); err != nil || len(all) == 0 {
		t.Fatalf("%d recorded packets, %v", len(all), err)
	}
	return all
}

func TestHeader(t *testing.T) {
	h := Header{XID: 0x01020304, Dest: 0x12345678, Error: Locked, Count: 0x0ff4}
	var b [HeaderSize]byte
	PutHeader(b[:], h)
	if got := ParseHeader(b[:]); got != h {
		t.Errorf("%+v became %+v", h, got)
	}
	want := "0403020178563412f9fff40f"
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 { // a big-endian host
		want = "0102030412345678fff90ff4"
	}
	if got := hex.EncodeToString(b[:]); got != want {
		t.Errorf("header %s, want %s", got, want)
	}
}

func TestSizes(t *testing.T) {
	// PROTOCOL.md, "Limits"
	for _, tt := range []struct {
		name      string
		got, want int
	}{
		{"payload", MaxPayload, 4084},
		{"longest APDU", MaxAPDU, 4079},
		{"longest response", MaxResponse, 4081},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, tt.got, tt.want)
		}
	}
}

func TestParseRequest(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   string
		code Code
		cmd  Command
		unit byte
		raw  string
	}{
		{"nothing", "", InvalidMsg, 0, 0, ""},
		{"command only", "00", InvalidMsg, 0, 0, ""},
		{"no arguments", "1000", Success, CmdReset, 0, ""},
		{"argument", "0010c2000101", Success, CmdStatus, 0x10, "c2000101"},
		{"bad argument", "001080", InvalidMsg, CmdStatus, 0x10, "80"},
		{"unknown command", "7f00", Success, 0x7f, 0, ""},
		{"unknown command, bad argument", "7f0080", InvalidMsg, 0x7f, 0, "80"},
		{"bytes instead of arguments", "200080", Success, CmdTransactOld, 0, "80"},
		{"no bytes", "2001", Success, CmdTransactOld, 1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := Request{Cmd: 0xee, Unit: 0xee, Raw: []byte{0xee}}
			code := parseRequest(hextest.Bytes(t, tt.in), &req)
			if code != tt.code || req.Cmd != tt.cmd || req.Unit != tt.unit || hex.EncodeToString(req.Raw) != tt.raw {
				t.Errorf("%d, %+v", code, req)
			}
		})
	}
}

// TestProtocolExamples sees that the hex in PROTOCOL.md is what it says.
func TestProtocolExamples(t *testing.T) {
	text, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		head, payload, ok := strings.Cut(strings.TrimPrefix(line, "    "), "|")
		if head = strings.ReplaceAll(head, " ", ""); !ok || len(head) != 2*HeaderSize || !strings.HasPrefix(line, "    ") {
			continue
		}
		n++
		b, p := hextest.Bytes(t, head), hextest.Bytes(t, strings.TrimSpace(payload))
		if count := int(b[10]) | int(b[11])<<8; count != len(p) {
			t.Errorf("%q announces %d bytes and has %d", line, count, len(p))
		}
		if n%2 == 1 { // requests and replies take turns
			var req Request
			if code := parseRequest(p, &req); code != Success {
				t.Errorf("%q is refused: %v", line, code)
			}
		} else if _, err := ParseTLV(p); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
	if n != 12 {
		t.Errorf("%d examples, want 12", n)
	}
}
