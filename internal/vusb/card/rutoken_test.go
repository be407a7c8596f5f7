package card

import (
	"bytes"
	"testing"

	"openct/internal/hextest"
)

func TestRutoken(t *testing.T) {
	header := func(size, id string) string {
		return "0000" + size + "0100" + id + "01" + "0000000000000000" + "43" + "0000000000000000000000000000"
	}
	c := NewRutoken(nil)
	if !bytes.Equal(c.ATR(), RutokenATR[:]) {
		t.Errorf("ATR % X", c.ATR())
	}
	for _, x := range []struct {
		name, command, want string
	}{
		{"master file", "00A40000023F00", "00000000380 03F0001 0000000000000000 43 0000000000000000000000000000 9000"},
		{"no such file", "00A40000021234", "6A82"},
		{"create", "00E0000020" + header("0004", "1234"), "9000"},
		{"create again", "00E0000020" + header("0004", "1234"), "6985"},
		{"create without header", "00E0000001AA", "6A80"},
		{"current file", "00CA0111", "12349000"},
		{"write", "00D600010211 22", "9000"},
		{"write beyond the end", "00D600030211 22", "6700"},
		{"read", "00B0000000", "001122009000"},
		{"read beyond the end", "00B0000500", "6A86"},
		{"select by path", "00A40000043F001234", header("0004", "1234") + "9000"},
		{"put object", "00DA016221" + header("0000", "0000")[:4] + "0203" + header("0000", "0000")[8:] + "BB", "9000"},
		{"put object elsewhere", "00DA0262021122", "6A80"},
		{"object", "8030020300", header("0000", "0000")[:4] + "0203" + header("0000", "0000")[8:] + "BB9000"},
		{"no object", "8030020400", "6A88"},
		{"free memory", "00CA018A", "000080009000"},
		{"no such data", "00CA0199", "6A88"},
		{"delete", "00E40000021234", "9000"},
		{"delete again", "00E40000021234", "6A82"},
		{"delete the master file", "00E40000023F00", "6A82"},
		{"delete without identifier", "00E400000112", "6A80"},
		{"instruction", "00880000", "6D00"},
		{"class", "A0A40000", "6E00"},
		{"length", "00A40000053F00", "6700"},
	} {
		if got := c.Transmit(hextest.Bytes(t, x.command)); !bytes.Equal(got, hextest.Bytes(t, x.want)) {
			t.Errorf("%s: % X, want %s", x.name, got, x.want)
		}
	}
	c.Reset()
	if got := c.Transmit(hextest.Bytes(t, "00CA0111")); !bytes.Equal(got, hextest.Bytes(t, "3F009000")) {
		t.Errorf("after a reset: % X", got)
	}
	if got := c.Transmit(hextest.Bytes(t, "00CA0181")); len(got) != 6 {
		t.Errorf("serial number: % X", got)
	}
}
