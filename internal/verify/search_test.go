//go:build go1.25

package verify_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"openct/internal/verify"
)

// find is how many bytes in a row of a secret are one.
const find = 6

// searcher knows every piece of every secret, and what it may be spelled like.
type searcher struct {
	bytes map[string]string // piece: what it is of
	texts map[string]string // of what people would read
	codes map[string]string // in base64
}

func newSearcher(secrets map[string][]byte) searcher {
	s := searcher{map[string]string{}, map[string]string{}, map[string]string{}}
	for name, secret := range secrets {
		reversed := slices.Clone(secret)
		slices.Reverse(reversed)
		each := func(b []byte, f func(byte) byte) []byte {
			b = slices.Clone(b)
			for i := range b {
				b[i] = f(b[i])
			}
			return b
		}
		swap := func(c byte) byte { return c<<4 | c>>4 }
		inverse := func(c byte) byte { return ^bits.Reverse8(c) }
		for how, b := range map[string][]byte{
			"": secret, ", reversed": reversed, ", nibbles swapped": each(secret, swap), ", inverse": each(secret, inverse),
			", reversed and nibbles swapped": each(reversed, swap),
		} {
			for i := 0; i+find <= len(b); i++ {
				piece := b[i : i+find]
				if len(bytes.Trim(piece, "\x00\xff")) < 4 {
					continue
				}
				s.bytes[string(piece)] = name + how
				s.codes[base64.StdEncoding.EncodeToString(piece)] = name + how
				if name != "CHUID" && name != "certificate" { // these hold words such as "certification"
					s.texts[string(piece)] = name + how
				}
			}
		}
	}
	return s
}

func scan(t *testing.T, where string, b []byte, pieces map[string]string, n int) {
	t.Helper()
	for i := 0; i+n <= len(b); i++ {
		if name, ok := pieces[string(b[i:i+n])]; ok {
			t.Fatalf("the report holds a part of the %s, %s: % x", name, where, b[i:i+n])
		}
	}
}

// hexBytesOf are the bytes that the hexadecimal digits of a text make, with any
// separator, and beginning at either digit.
func hexBytesOf(text string) [][]byte {
	digits := strings.NewReplacer(" ", "", "\n", "", ":", "", "-", "", ",", "", "0x", "").Replace(text)
	var all [][]byte
	for _, from := range []int{0, 1} {
		var b []byte
		for i := from; i+2 <= len(digits); i += 2 {
			c, err := hex.DecodeString(digits[i : i+2])
			if err != nil {
				c = []byte{0}
			}
			b = append(b, c...)
		}
		all = append(all, b)
	}
	return all
}

// clean looks for every secret in a report: in its text, as digits, in base64, and in
// what the device sent, also where that came in pieces, or with a byte of the
// protocol after each.
func clean(t *testing.T, text string, secrets map[string][]byte) {
	t.Helper()
	s := newSearcher(secrets)
	scan(t, "as text", []byte(text), s.texts, find)
	scan(t, "in base64", []byte(text), s.codes, base64.StdEncoding.EncodedLen(find))
	for _, b := range hexBytesOf(text) {
		scan(t, "in digits", b, s.bytes, find)
	}
	r, err := verify.Parse(text)
	if err != nil {
		return
	}
	var came []byte
	for _, step := range r.Steps {
		for _, op := range step.USB {
			came = append(came, op.R...)
		}
		for _, st := range step.Serial {
			came = append(came, st.Data...)
		}
	}
	scan(t, "in what the device sent", came, s.bytes, find)
	for _, from := range []int{0, 1} {
		var b []byte
		for i := from; i < len(came); i += 2 {
			b = append(b, came[i])
		}
		scan(t, "in every other byte of what the device sent", b, s.bytes, find)
	}
	for _, b := range hexBytesOf(string(came)) {
		scan(t, "in digits that the device sent", b, s.bytes, find)
	}
}

// The search finds what it is for.
func TestSearch(t *testing.T) {
	secret := map[string][]byte{"key": []byte("Tr0ub4dor&3")}
	s := newSearcher(secret)
	for name, text := range map[string]string{
		"text": "x Tr0ub4 y", "reversed": "4bu0rT", "digits": "54 72 30 75 62 34", "one digit further": "x 5 47 23 07 56 23 4",
		"other separators": "54:72:30-75,62:34", "swapped": "45 27 03 57 26 43", "base64": "VHIwdWI0",
	} {
		found := false
		look := func(b []byte, pieces map[string]string, n int) {
			for i := 0; i+n <= len(b); i++ {
				found = found || pieces[string(b[i:i+n])] != ""
			}
		}
		look([]byte(text), s.texts, find)
		look([]byte(text), s.codes, 8)
		for _, b := range hexBytesOf(text) {
			look(b, s.bytes, find)
		}
		if !found {
			t.Errorf("%s: nothing found in %q", name, text)
		}
	}
}
