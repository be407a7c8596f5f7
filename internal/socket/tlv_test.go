package socket

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"openct/internal/hextest"
)

func TestParseTLV(t *testing.T) {
	for _, tt := range []struct {
		name  string
		in    string
		bad   bool
		large bool
		want  map[Tag]string
	}{
		{name: "empty"},
		{name: "small", in: "820101", want: map[Tag]string{TagLockType: "01"}},
		{name: "large", in: "c2000101", large: true, want: map[Tag]string{TagLockType: "01"}},
		{name: "mixed", in: "800105 c1000141 8503010203", large: true,
			want: map[Tag]string{TagTimeout: "05", TagMessage: "41", TagAddress: "010203"}},
		{name: "reader's status", in: "00 07 56697274 75616c 01 01 00",
			want: map[Tag]string{TagReaderName: "5669727475616c", TagReaderUnits: "00"}},
		{name: "last one counts", in: "c2000101 820100", large: true, want: map[Tag]string{TagLockType: "00"}},
		{name: "unknown tag", in: "3f0101 820101", want: map[Tag]string{0x3f: "01", TagLockType: "01"}},
		{name: "highest tag", in: "ff0001aa", large: true, want: map[Tag]string{0xbf: "aa"}},
		{name: "stray byte", in: "80", bad: true},
		{name: "stray byte at the end", in: "820101 80", bad: true},
		{name: "value missing", in: "800501", bad: true},
		{name: "length zero", in: "8000", bad: true},
		{name: "large length cut", in: "c000", bad: true},
		{name: "large length zero", in: "c00000", bad: true},
		{name: "large length beyond the end", in: "c0ffff01", bad: true},
		{name: "bad one after a good one", in: "820101 8000", bad: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseTLV(hextest.Bytes(t, tt.in))
			if tt.bad {
				if !errors.Is(err, ErrTLV) {
					t.Fatalf("error %v, want ErrTLV", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Large() != tt.large {
				t.Errorf("Large %t", got.Large())
			}
			for tag := range Tag(0xc0) {
				v, ok := got.Bytes(tag)
				want, exists := tt.want[tag]
				if ok != exists || hex.EncodeToString(v) != want {
					t.Errorf("tag %#02x: %x %t, want %q", byte(tag), v, ok, want)
				}
				if got.Text(tag) != string(v) {
					t.Errorf("tag %#02x as text: %q", byte(tag), got.Text(tag))
				}
			}
		})
	}
}

func TestInts(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    uint32
		wire string
	}{
		{"zero takes a byte", 0, "800100"},
		{"one byte", 255, "8001ff"},
		{"two bytes", 256, "80020100"},
		{"three bytes", 0x10000, "8003010000"},
		{"four bytes", ^uint32(0), "8004ffffffff"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := NewBuilder(make([]byte, 0, 16), false)
			b.Int(TagTimeout, tt.v)
			if got := hex.EncodeToString(b.Built()); got != tt.wire {
				t.Errorf("built %s, want %s", got, tt.wire)
			}
			p, err := ParseTLV(b.Built())
			if err != nil {
				t.Fatal(err)
			}
			if v, ok := p.Int(TagTimeout); v != tt.v || !ok {
				t.Errorf("parsed %d %t", v, ok)
			}
		})
	}
	p, err := ParseTLV(hextest.Bytes(t, "c0 0006 aabb 01020304"))
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := p.Int(TagTimeout); v != 0x01020304 {
		t.Errorf("of six bytes: %#x, want the low 32 bits", v)
	}
	if _, ok := p.Int(TagCount); ok {
		t.Error("a number that is not there")
	}
}

func TestBuilderForms(t *testing.T) {
	for _, tt := range []struct {
		name  string
		large bool
		n     int // length of the value
		room  int
		head  string
		full  bool
	}{
		{"small", false, 1, 100, "0501", false},
		{"large", true, 1, 100, "450001", false},
		{"longest small", false, 255, 300, "05ff", false},
		{"first that is large anyhow", false, 256, 300, "450100", false},
		{"C's broken length", false, 266, 300, "45010a", false},
		{"longest response", false, MaxResponse, MaxPayload, "450ff1", false},
		{"one byte longer", false, MaxResponse + 1, MaxPayload, "", true},
		{"no room for the tag", false, 1, 2, "", true},
		{"just room", false, 1, 3, "0501", false},
		{"longer than lengths go", true, 65536, 70000, "", true},
		{"empty is left out", true, 0, 100, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			val := bytes.Repeat([]byte{0xa5}, tt.n)
			want := hextest.Bytes(t, tt.head)
			if len(want) > 0 {
				want = append(want, val...)
			}
			b := NewBuilder(make([]byte, 0, tt.room), tt.large)
			b.Bytes(TagCardResponse, val)
			if !bytes.Equal(b.Built(), want) || b.Full() != tt.full {
				t.Errorf("built %.16x, full %t; want %.16x, %t", b.Built(), b.Full(), want, tt.full)
			}
			s := NewBuilder(make([]byte, 0, tt.room), tt.large)
			s.Text(TagCardResponse, string(val))
			if !bytes.Equal(s.Built(), want) || s.Len() != len(want) {
				t.Errorf("as text: %.16x", s.Built())
			}
		})
	}
}

func TestBuilderStaysFull(t *testing.T) {
	b := NewBuilder(make([]byte, 0, 4), false)
	b.Raw(make([]byte, 5))
	b.Raw([]byte{1})
	b.Int(TagLock, 0)
	if !b.Full() || !bytes.Equal(b.Built(), []byte{1, 4, 1, 0}) {
		t.Errorf("full %t, built %x", b.Full(), b.Built())
	}
}

func TestParsingDoesNotAllocate(t *testing.T) {
	msg := hextest.Bytes(t, "c0 0001 05 c4 0005 00ee000000")
	if n := testing.AllocsPerRun(100, func() {
		p, err := ParseTLV(msg)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := p.Bytes(TagCardRequest); !ok {
			t.Fatal("no request")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzTLV parses anything, builds what it got once more, and must get the same.
func FuzzTLV(f *testing.F) {
	for _, p := range recorded(f, "request") {
		if len(p) > HeaderSize+requestOverhead {
			f.Add(p[HeaderSize+requestOverhead:], true)
		}
	}
	for _, p := range recorded(f, "answer") {
		f.Add(p[HeaderSize:], false)
	}
	f.Fuzz(func(t *testing.T, msg []byte, large bool) {
		p, err := ParseTLV(msg)
		if err != nil {
			if !errors.Is(err, ErrTLV) {
				t.Fatalf("error %v", err)
			}
			return
		}
		b := NewBuilder(make([]byte, 0, 2*len(msg)+tlvHeader), large)
		for i := range 256 {
			tag := Tag(i)
			v, ok := p.Bytes(tag)
			if ok != (len(v) > 0) {
				t.Fatalf("tag %#02x: %x, %t", i, v, ok)
			}
			if i&largeBit != 0 && ok {
				t.Fatalf("tag %#02x has the length bit", i)
			}
			b.Bytes(tag, v)
		}
		if b.Full() {
			t.Fatal("what was parsed does not fit")
		}
		again, err := ParseTLV(b.Built())
		if err != nil {
			t.Fatalf("%x is built as %x: %v", msg, b.Built(), err)
		}
		for i := range 256 {
			v, _ := p.Bytes(Tag(i))
			w, _ := again.Bytes(Tag(i))
			if !bytes.Equal(v, w) {
				t.Fatalf("tag %#02x: %x became %x", i, v, w)
			}
			a, _ := p.Int(Tag(i))
			c, _ := again.Int(Tag(i))
			if a != c {
				t.Fatalf("tag %#02x: number %d became %d", i, a, c)
			}
		}
	})
}
