package verify

import (
	"fmt"
	"strings"
	"testing"
)

// mark is a byte that a device has no reason to send where the cases put it: it may
// be of a text, a number or a name.
const mark = "A5"

// withSum appends the exclusive-or of bytes.
func withSum(t *testing.T, s string) string {
	t.Helper()
	b := unhex(t, s)
	return strings.ToUpper(fmt.Sprintf("%x", append(b, xor(b))))
}

// spaced is how a script of USB has bytes.
func spaced(s string) string {
	var words []string
	for ; len(s) >= 2; s = s[2:] {
		words = append(words, s[:2])
	}
	return strings.Join(words, " ")
}

// What readers say of themselves is removed, and what is left over of an exchange that
// was given up. want is what stays.
func TestMaskForms(t *testing.T) {
	const a5 = mark + mark + mark
	acr30 := func(body string) string {
		return "02" + strings.ToUpper(fmt.Sprintf("%x", []byte(withSum(t, body)))) + "03"
	}
	ask := func(body string) string { return acr30(body) }
	bulk := func(s string) string { return "BULK 82 len 64 T 1000 " + spaced(s) }
	for _, tt := range []struct {
		name, driver string
		usb          bool
		do           string
		script, want string
	}{
		{"SmartBoard, text", "smartboard", false, "open", "> 000160\n< 000460" + a5, "< 000460000000"},
		{"SmartBoard, status", "smartboard", false, "status", "> 000165\n< 000461A8" + mark + mark, "< 000461080000"},
		{"SmartBoard, unknown code", "smartboard", false, "open", "> 000160\n< 0004A5" + a5, "< ff0000000000"},
		{"GemPC, firmware", "gempc", false, "open", "> " + withSum(t, "42000522053FE010") + "\n< " + withSum(t, "24000400"+a5), "< " + withSum(t, "24000400000000")},
		{"GemPC, status", "gempc", false, "status", "> " + withSum(t, "42000117") + "\n< " + withSum(t, "2400030006"+mark), "< " + withSum(t, "240003000600")},
		{"ACR30, model", "pertosmart1030", false, "status", "> " + ask("010100") + "\n< " + acr30("01900010"+strings.Repeat(mark, 15)+"03"), "< " + acr30("01900010"+strings.Repeat("00", 15)+"03")},
		{"ACR30, unknown state", "pertosmart1030", false, "status", "> " + ask("010100") + "\n< " + acr30("01"+mark+mark+"00"), "< " + acr30("016FFF00")},
		{"kaan, functional units", "kaan", false, "open", "> " + withSum(t, "1200052013008100") + "\n< " + withSum(t, "210006"+"8102"+"50"+mark+"9000"), "< " + withSum(t, "21000681025000"+"9000")},
		{"kaan, any other command", "kaan", false, "open", "> " + withSum(t, "12000520110000FF") + "\n< " + withSum(t, "210005"+a5+"9000"), "< " + withSum(t, "2100050000009000")},
		{"B1, file", "b1", false, "status", "> " + withSum(t, "12000500B0000000") + "\n< " + withSum(t, "21000B"+"210101"+mark+"02"+mark+mark+"2201"+"9000"), "< " + withSum(t, "21000B210101000200000000"+"9000")},
		{"Towitoko, type", "towitoko", false, "open", "> 0001\n< 61" + mark + fmt.Sprintf("%02X", towiSum(1, []byte{0x61, 0xA5})), fmt.Sprintf("< 6100%02X", towiSum(1, []byte{0x61, 0}))},
		{"Towitoko, status", "towitoko", false, "status", "> 03e7\n< 65" + fmt.Sprintf("%02X", towiSum(1, []byte{0x65})), fmt.Sprintf("< 40%02X", towiSum(1, []byte{0x40}))},
		{"phoenix, before a reset", "phoenix", false, "open", "< " + a5, "< 000000"},
		{"eToken, a chain without an end", "etoken64", true, "transmit 00 A4 04 00", "IN  C0 86 0000 0000 len 36 T 1000 " + spaced(withSum(t, "002003"+a5)), spaced(withSum(t, "002003000000"))},
		{"eToken, a block again", "etoken64", true, "transmit 00 A4 04 00", "IN  C0 86 0000 0000 len 36 T 1000 " + spaced(withSum(t, "002003"+a5)) +
			"\nIN  C0 86 0000 0000 len 36 T 1000 " + spaced(withSum(t, "002003"+a5)), spaced(withSum(t, "002003000000"))},
		{"iKey, description", "ikey3k", true, "reset", "IN  C1 00 0000 0000 len 64 T 1000 0A 61 " + spaced(a5), "00 00 00 00 00"},
		{"ePass3000, status", "ePass3000", true, "transmit 00 A4 04 00", "BULK 02 [52 36 00 02 00 00] T 1000\n" + strings.Replace(bulk("5236"+mark+mark+"0003"+mark+"9000"), "82", "81", 1), "52 36 00 00 00 03 00 90 00"},
		{"CardMan, status", "cardman", true, "status", "OUT 42 20 0000 0000 [] T 1000\nINT 81 len 8 E5", "INT 81 len 8 C0"},
		{"ACR38, model", "pertosmart1038", true, "status", "BULK 02 [01 01 00 00] T 1000\n" + bulk("01000003"+a5), "01 00 00 03 00 00 00"},
		{"ACR38, news", "pertosmart1038", true, "status", "INT 81 len 8 01 C1 " + spaced(a5), "01 C1 00 00 00"},
		{"cyberJack, a block of its own and the answer", "cyberjack", true, "open", bulk("000700"+withSum(t, "2EC403"+a5)) + "\nBULK 02 [00 07 00 " + spaced(withSum(t, "E2E403"+a5)) + "] T 1000",
			"[00 07 00 " + spaced(withSum(t, "E2E403000000")) + "]"},
		{"e-gate, data", "egate", true, "transmit 00 B0 00 00", "IN  C0 A0 0000 0000 len 1 T 1000 10\nIN  C0 81 0000 0000 len 2 T 1000 " + spaced(mark+mark), "T 1000 00 00"},
		{"CCID, rates that are a text", "ccid", true, "open", "IN  A1 03 0000 0000 len 8 T 1000 00 2A 00 00 " + spaced(mark+a5), "00 2A 00 00 00 00 00 00"},
		{"CCID, a notification", "ccid", true, "open", "INT 81 len 8 50 03 00 " + spaced(a5), "50 03 00 00 00 00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := title + "\nversion 0.8.0\ndate 2026-11-26\ndriver " + tt.driver + "\n"
			if tt.usb {
				text += "device 0001:0002 0100\ninterface 0 0 ff 00 00\n"
			}
			text += "\n[exchange]\n" + tt.do + "\n"
			for line := range strings.Lines(tt.script) {
				text += "  " + line
			}
			r, err := Parse(text + "\n= ok  # 0 ms\n")
			if err != nil {
				t.Fatal(err)
			}
			r.Mask()
			_, got, _ := strings.Cut(write(t, r), "[exchange]\n")
			if !strings.Contains(strings.ToLower(got), strings.ToLower(tt.want)) {
				t.Errorf("want %q in\n%s", tt.want, got)
			}
			for line := range strings.Lines(got) {
				if !strings.HasPrefix(line, "  >") && strings.Contains(strings.ToUpper(strings.ReplaceAll(line, " ", "")), mark+mark) {
					t.Errorf("it stays: %s", line)
				}
			}
		})
	}
}
