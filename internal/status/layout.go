package status

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"

	"openct/internal/printable"
)

// Layout of the file (doc/status-file.md): an array of C OpenCT's
// struct ct_info in host byte order, nothing before or after it.
const (
	Entries   = 16  // readers, numbered like their sockets
	MaxSlots  = 8   // card slots that an entry can describe
	entrySize = 108 // bytes
	Size      = Entries * entrySize

	nameSize = 64 // ct_name with its NUL

	offName  = 0
	offSlots = 64  // u32
	offCards = 68  // u32 each, MaxSlots of them
	offFlags = 100 // bit field in a u32
	offPID   = 104 // i32
)

// maxName is the longest reader name in bytes.
const maxName = nameSize - 1

// Entry is one reader as the file tells it. Nothing in it can be trusted
// further than the handler's user: PID may be any number.
type Entry struct {
	Index   int    // reader number and name of its socket
	Name    string // printable UTF-8, see decodeName; empty while a handler starts
	Slots   int    // 0 to MaxSlots
	Cards   [MaxSlots]uint32
	Display bool
	Keypad  bool
	PID     int // 0: entry is free
}

// Present says whether a card is in the given slot.
func (e Entry) Present(slot int) bool {
	return slot >= 0 && slot < MaxSlots && e.Cards[slot] != 0
}

// InUse says whether clients take the reader for a living one: its pid is set
// and a process has it (doc/status-file.md).
func (e Entry) InUse() bool { return Alive(e.PID) }

// A C compiler puts the first member of a bit field into the least significant
// bit on a little-endian machine and into the most significant one on a
// big-endian machine (doc/status-file.md).
func flagBits(order binary.ByteOrder) (display, keypad uint32) {
	if order.Uint16([]byte{0, 1}) == 1 {
		return 1 << 31, 1 << 30
	}
	return 1 << 0, 1 << 1
}

// hostOrder is binary.NativeEndian as a binary.ByteOrder.
func hostOrder() binary.ByteOrder {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// decodeEntry reads an entry. Whatever it holds is cut and cleaned to something that
// can be shown.
func decodeEntry(n int, b []byte, order binary.ByteOrder) Entry {
	display, keypad := flagBits(order)
	flags := order.Uint32(b[offFlags:])
	e := Entry{
		Index:   n,
		Name:    decodeName(b[offName : offName+nameSize]),
		Slots:   int(min(order.Uint32(b[offSlots:]), MaxSlots)),
		Display: flags&display != 0,
		Keypad:  flags&keypad != 0,
		PID:     int(int32(order.Uint32(b[offPID:]))),
	}
	for i := range e.Cards {
		e.Cards[i] = order.Uint32(b[offCards+4*i:])
	}
	return e
}

func (e Entry) encode(b []byte, order binary.ByteOrder) {
	clear(b[:entrySize])
	copy(b[offName:offName+maxName], cutName(e.Name))
	order.PutUint32(b[offSlots:], uint32(min(max(e.Slots, 0), MaxSlots)))
	for i, seq := range e.Cards {
		order.PutUint32(b[offCards+4*i:], seq)
	}
	order.PutUint32(b[offFlags:], encodeFlags(e.Display, e.Keypad, order))
	order.PutUint32(b[offPID:], uint32(int32(e.PID)))
}

func encodeFlags(display, keypad bool, order binary.ByteOrder) uint32 {
	var flags uint32
	displayBit, keypadBit := flagBits(order)
	if display {
		flags |= displayBit
	}
	if keypad {
		flags |= keypadBit
	}
	return flags
}

// cutName makes a device's name fit: no control characters (a NUL would end it
// for clients, an escape sequence would reach terminals), valid UTF-8, at most
// maxName bytes without cutting a character in half.
func cutName(name string) string {
	return cut(printable.Line(name), maxName)
}

// cut shortens valid UTF-8 to at most n bytes.
func cut(s string, n int) string {
	for len(s) > n {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

// decodeName is the name up to its NUL with everything a terminal might obey
// replaced.
func decodeName(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return printable.Line(string(b))
}
