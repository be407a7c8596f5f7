package proto

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openct/internal/hextest"
)

func TestParseCommand(t *testing.T) {
	h := [4]byte{0x00, 0xB0, 0x01, 0x02}
	data := func(n int) []byte { return make([]byte, n) }
	tests := []struct {
		name string
		tail string // behind the header
		want Command
	}{
		{"case 1", "", Command{Header: h}},
		{"case 2", "04", Command{Header: h, Le: 4}},
		{"case 2, Le 256", "00", Command{Header: h, Le: 256}},
		{"case 3", "02 AABB", Command{Header: h, Data: []byte{0xAA, 0xBB}}},
		{"case 3, longest", "FF" + strings.Repeat("00", 255), Command{Header: h, Data: data(255)}},
		{"case 4", "02 AABB 07", Command{Header: h, Data: []byte{0xAA, 0xBB}, Le: 7}},
		{"case 4, Le 256", "02 AABB 00", Command{Header: h, Data: []byte{0xAA, 0xBB}, Le: 256}},
		{"extended case 2", "00 0123", Command{Header: h, Le: 0x123, Extended: true}},
		{"extended case 2, Le 65536", "00 0000", Command{Header: h, Le: 65536, Extended: true}},
		{"extended case 3", "00 0002 AABB", Command{Header: h, Data: []byte{0xAA, 0xBB}, Extended: true}},
		{"extended case 3, longest", "00 FFFF" + strings.Repeat("00", 65535), Command{Header: h, Data: data(65535), Extended: true}},
		{"extended case 4", "00 0002 AABB 0100", Command{Header: h, Data: []byte{0xAA, 0xBB}, Le: 256, Extended: true}},
		{"extended case 4, Le 65536", "00 0002 AABB 0000", Command{Header: h, Data: []byte{0xAA, 0xBB}, Le: 65536, Extended: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseCommand(append(h[:], hextest.Bytes(t, tt.tail)...))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseCommandErrors(t *testing.T) {
	for _, tt := range []struct{ name, apdu string }{
		{"nothing", ""},
		{"three bytes", "00 A4 00"},
		{"Lc beyond the end", "00 A4 00 00 02 3F"},
		{"bytes behind Le", "00 A4 00 00 02 3F 00 00 00"},
		{"Lc 0", "00 A4 00 00 00 00"},
		{"extended Lc 0", "00 A4 00 00 00 00 00 00"},
		{"extended Lc beyond the end", "00 A4 00 00 00 00 03 AA BB"},
		{"extended Le of one byte", "00 A4 00 00 00 00 02 AA BB 00"},
		{"bytes behind extended Le", "00 A4 00 00 00 00 02 AA BB 00 00 00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ParseCommand(hextest.Bytes(t, tt.apdu)); !errors.Is(err, ErrInvalidAPDU) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// What is wrong with an APDU is said without any of its bytes: they may be a PIN
// that was sent without a header, or a digit in Lc's place.
func TestErrorsShowNoBytes(t *testing.T) {
	for n := range 12 {
		texts := map[string]bool{}
		for digit := range byte(10) {
			for _, b := range []byte{digit, '0' + digit} {
				if _, err := ParseCommand(bytes.Repeat([]byte{b}, n)); err != nil {
					texts[err.Error()] = true
				}
			}
		}
		if len(texts) > 1 {
			t.Errorf("errors of %d bytes depend on the bytes: %v", n, texts)
		}
	}
}
