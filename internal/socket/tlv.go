package socket

import (
	"errors"
	"fmt"
)

// Tag names an argument or a result, without the length bit 0x40.
type Tag byte

// Tags (C OpenCT's protocol.h).
const (
	TagReaderName   Tag = 0x00 // string
	TagReaderUnits  Tag = 0x01 // one byte per unit
	TagCardStatus   Tag = 0x02 // integer, StatusPresent and StatusChanged
	TagATR          Tag = 0x03 // bytes
	TagLock         Tag = 0x04 // integer, handle
	TagCardResponse Tag = 0x05 // bytes
	TagMaxCommand   Tag = 0x06 // number of bytes; C OpenCT has no tag for it
	TagMaxResponse  Tag = 0x07 // the same
	TagCardEvents   Tag = 0x08 // number; C OpenCT has no tag for it
	TagTimeout      Tag = 0x80 // integer, seconds
	TagMessage      Tag = 0x81 // string
	TagLockType     Tag = 0x82 // integer, LockShared or LockExclusive
	TagPINData      Tag = 0x83 // bytes: control, offset, APDU
	TagCardRequest  Tag = 0x84 // bytes
	TagAddress      Tag = 0x85 // integer
	TagData         Tag = 0x86 // bytes
	TagCount        Tag = 0x87 // integer
	TagProtocol     Tag = 0x88 // integer
)

const (
	largeBit  = 0x40   // in a tag byte: two length bytes follow (C OpenCT's tlv.c)
	maxSmall  = 0xff   // longest value with one length byte
	maxLarge  = 0xffff // longest value with two
	tlvHeader = 3      // bytes before the value in the large form
)

// ErrTLV says that bytes are not a list of tag, length and value.
var ErrTLV = errors.New("malformed argument list")

// TLV is a checked list of arguments. It refers to the bytes it was parsed
// from and is valid as long as they are. The zero value is the empty list.
type TLV struct {
	b     []byte
	large bool
}

// ParseTLV checks b, in which small and large forms may be mixed. A length of
// 0, a length beyond the end and a stray last byte are ErrTLV.
func ParseTLV(b []byte) (TLV, error) {
	t := TLV{b: b}
	for off := 0; off < len(b); {
		tag := b[off]
		hdr, n := 2, 0
		if tag&largeBit != 0 {
			hdr = 3
			t.large = true
		}
		if len(b)-off < hdr {
			return TLV{}, fmt.Errorf("%w: cut short in tag %#02x at byte %d", ErrTLV, tag, off)
		}
		n = tlvLen(b[off:])
		if n == 0 || n > len(b)-off-hdr {
			return TLV{}, fmt.Errorf("%w: tag %#02x at byte %d has length %d, %d bytes are left", ErrTLV, tag, off, n, len(b)-off-hdr)
		}
		off += hdr + n
	}
	return t, nil
}

// tlvLen reads the length of the value at b, whose header is complete.
func tlvLen(b []byte) int {
	if b[0]&largeBit != 0 {
		return int(b[1])<<8 | int(b[2])
	}
	return int(b[1])
}

// Large tells whether any argument had two length bytes.
func (t TLV) Large() bool { return t.large }

// Bytes returns the value of tag: the last one, if there are several. It is
// at least one byte long.
func (t TLV) Bytes(tag Tag) ([]byte, bool) {
	var val []byte
	for off := 0; off < len(t.b); {
		hdr := 2
		if t.b[off]&largeBit != 0 {
			hdr = 3
		}
		n := tlvLen(t.b[off:])
		if Tag(t.b[off]&^largeBit) == tag {
			val = t.b[off+hdr : off+hdr+n : off+hdr+n]
		}
		off += hdr + n
	}
	return val, val != nil
}

// Int returns the value of tag as a big-endian number of any length, of which
// the low 32 bits count.
func (t TLV) Int(tag Tag) (uint32, bool) {
	b, ok := t.Bytes(tag)
	var v uint32
	for _, c := range b {
		v = v<<8 | uint32(c)
	}
	return v, ok
}

// Text returns the value of tag as a string, "" if it is absent.
func (t TLV) Text(tag Tag) string {
	b, _ := t.Bytes(tag)
	return string(b)
}

// Builder appends tag, length and value to a packet. Values longer than 255
// bytes take the large form always, the others when the builder is set to
// it. An empty value is left out: no parser takes one. What does not fit is
// left out too and makes the builder Full, for good.
type Builder struct {
	buf   []byte // grows within its capacity only
	base  int    // length when the builder started
	large bool
	full  bool
}

// NewBuilder appends to buf, within its capacity.
func NewBuilder(buf []byte, large bool) Builder {
	return Builder{buf: buf, base: len(buf), large: large}
}

// Full tells whether something did not fit.
func (b *Builder) Full() bool { return b.full }

// Built returns the buffer with all that was appended.
func (b *Builder) Built() []byte { return b.buf }

// Len is the number of bytes appended.
func (b *Builder) Len() int { return len(b.buf) - b.base }

// Bytes appends v under tag.
func (b *Builder) Bytes(tag Tag, v []byte) {
	if b.head(tag, len(v)) {
		b.buf = append(b.buf, v...)
	}
}

// Text appends s under tag.
func (b *Builder) Text(tag Tag, s string) {
	if b.head(tag, len(s)) {
		b.buf = append(b.buf, s...)
	}
}

// Int appends v under tag in as few bytes as it needs, at least one.
func (b *Builder) Int(tag Tag, v uint32) {
	n := 1
	for n < 4 && v>>(8*n) != 0 {
		n++
	}
	if b.head(tag, n) {
		for n--; n >= 0; n-- {
			b.buf = append(b.buf, byte(v>>(8*n)))
		}
	}
}

// Raw appends v as it is, without tag and length: the reply of TransactOld.
func (b *Builder) Raw(v []byte) {
	if len(v) > cap(b.buf)-len(b.buf) {
		b.full = true
		return
	}
	b.buf = append(b.buf, v...)
}

// head appends tag and length of a value of n bytes if all of it fits.
func (b *Builder) head(tag Tag, n int) bool {
	if n == 0 {
		return false
	}
	large := b.large || n > maxSmall
	hdr := 2
	if large {
		hdr = tlvHeader
	}
	if n > maxLarge || hdr+n > cap(b.buf)-len(b.buf) {
		b.full = true
		return false
	}
	if large {
		b.buf = append(b.buf, byte(tag)|largeBit, byte(n>>8), byte(n))
	} else {
		b.buf = append(b.buf, byte(tag), byte(n))
	}
	return true
}
