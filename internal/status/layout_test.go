package status

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// recorded is one line of testdata/status-file.jsonl: all bytes of the file that
// C OpenCT 0.6.20 kept on a little-endian machine, at certain moments.
type recorded struct {
	When string `json:"when"`
	Hex  string `json:"hex"`
}

func recordings(t testing.TB) map[string][]byte {
	t.Helper()
	f, err := os.Open("testdata/status-file.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string][]byte{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var r recorded
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		b, err := hex.DecodeString(r.Hex)
		if err != nil {
			t.Fatal(err)
		}
		all[r.When] = b
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRecordedFiles(t *testing.T) {
	token := func(pid int) Entry {
		return Entry{Name: "Aladdin eToken PRO 64k", Slots: 1, Cards: [8]uint32{1}, PID: pid}
	}
	reader := func(card uint32) Entry {
		return Entry{Index: 1, Name: "CCID Compatible", Slots: 1, Cards: [8]uint32{card}, PID: 329}
	}
	tests := []struct {
		when string
		want map[int]Entry
	}{
		{"after init, no reader", nil},
		{"one PRO 64k attached in slot 0", map[int]Entry{0: token(295)}},
		{"the same after many requests, among them card resets", map[int]Entry{0: token(295)}},
		{"besides it a class reader with a card in slot 1", map[int]Entry{0: token(295), 1: reader(1)}},
		{"its card taken out", map[int]Entry{0: token(295), 1: reader(0)}},
		{"its card put back", map[int]Entry{0: token(295), 1: reader(2)}},
		{"the token of slot 0 unplugged", map[int]Entry{1: reader(2)}},
		{"the reader of slot 1 unplugged too", nil},
		{"a token attached again", map[int]Entry{0: token(387)}},
	}
	all := recordings(t)
	if len(all) != len(tests)+1 { // the last one records that the file is gone
		t.Fatalf("%d recordings, %d tests", len(all), len(tests))
	}
	for _, tt := range tests {
		t.Run(tt.when, func(t *testing.T) {
			file := all[tt.when]
			if len(file) != Size {
				t.Fatalf("recorded %d bytes, Size is %d", len(file), Size)
			}
			encoded := make([]byte, Size)
			for n := range Entries {
				want := tt.want[n]
				want.Index = n
				got := decodeEntry(n, file[n*entrySize:(n+1)*entrySize], binary.LittleEndian)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("entry %d (-want +got):\n%s", n, diff)
				}
				want.encode(encoded[n*entrySize:], binary.LittleEndian)
			}
			if !bytes.Equal(encoded, file) {
				t.Error("encoding the entries again gives other bytes")
			}
		})
	}
}

func TestFlagBytes(t *testing.T) {
	tests := []struct {
		name            string
		display, keypad bool
		order           binary.ByteOrder
		want            []byte
	}{
		{"little-endian display", true, false, binary.LittleEndian, []byte{1, 0, 0, 0}},
		{"little-endian keypad", false, true, binary.LittleEndian, []byte{2, 0, 0, 0}},
		{"little-endian both", true, true, binary.LittleEndian, []byte{3, 0, 0, 0}},
		{"big-endian display", true, false, binary.BigEndian, []byte{0x80, 0, 0, 0}},
		{"big-endian keypad", false, true, binary.BigEndian, []byte{0x40, 0, 0, 0}},
		{"big-endian both", true, true, binary.BigEndian, []byte{0xc0, 0, 0, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := Entry{Display: tt.display, Keypad: tt.keypad, Slots: 2, PID: 0x01020304}
			var b [entrySize]byte
			want.encode(b[:], tt.order)
			if !bytes.Equal(b[100:104], tt.want) {
				t.Errorf("flag bytes % x, want % x", b[100:104], tt.want)
			}
			if diff := cmp.Diff(want, decodeEntry(0, b[:], tt.order)); diff != "" {
				t.Errorf("decoded (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNames(t *testing.T) {
	tests := []struct {
		name, in, want string
	}{
		{"plain", "Kobil Kaan PRO", "Kobil Kaan PRO"},
		{"63 bytes fit", strings.Repeat("x", 63), strings.Repeat("x", 63)},
		{"64 bytes are cut", strings.Repeat("x", 64), strings.Repeat("x", 63)},
		{"no half characters", strings.Repeat("x", 62) + "é", strings.Repeat("x", 62)},
		{"nothing left of a wide one", strings.Repeat("x", 60) + "😀", strings.Repeat("x", 60)},
		{"escape sequences", "a\x1b[2Jb", "a?[2Jb"},
		{"a NUL does not hide the rest", "a\x00b", "a?b"},
		{"not UTF-8", "a\xffb", "a?b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b [entrySize]byte
			Entry{Name: tt.in}.encode(b[:], hostOrder())
			if got := decodeEntry(0, b[:], hostOrder()).Name; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if b[maxName] != 0 {
				t.Error("name is not terminated")
			}
		})
	}
}

func TestDecodeHostileEntry(t *testing.T) {
	e := decodeEntry(15, bytes.Repeat([]byte{0xff}, entrySize), hostOrder())
	if e.PID != -1 || e.InUse() {
		t.Errorf("pid %d, in use %v; want -1, which no process has", e.PID, e.InUse())
	}
	if e.Slots != MaxSlots {
		t.Errorf("%d slots, want %d at most", e.Slots, MaxSlots)
	}
	if e.Name != strings.Repeat("?", 64) {
		t.Errorf("name %q", e.Name)
	}
	if e.Present(-1) || e.Present(8) || !e.Present(7) {
		t.Error("Present beyond the entry's slots")
	}
}

func FuzzDecode(f *testing.F) {
	for _, b := range recordings(f) {
		if len(b) == Size {
			f.Add(b[:entrySize])
			f.Add(b[entrySize : 2*entrySize])
		}
	}
	f.Add(bytes.Repeat([]byte{0xff}, entrySize))
	f.Fuzz(func(t *testing.T, b []byte) {
		var entry [entrySize]byte
		copy(entry[:], b)
		e := decodeEntry(3, entry[:], hostOrder())
		if !utf8.ValidString(e.Name) || strings.ContainsAny(e.Name, "\x00\x1b\n\r") {
			t.Errorf("name %q is not for showing", e.Name)
		}
		if e.Slots < 0 || e.Slots > MaxSlots {
			t.Errorf("%d slots", e.Slots)
		}
		var again [entrySize]byte
		e.encode(again[:], hostOrder())
		got := decodeEntry(e.Index, again[:], hostOrder())
		e.Name = cut(e.Name, maxName)
		if e != got {
			t.Errorf("entry does not survive: %+v became %+v", e, got)
		}
	})
}
