package sockettest

import (
	"encoding/binary"
	"encoding/hex"

	"openct/internal/socket"
)

// Exceptions returns the differences between the recorded exchanges.jsonl and
// a server with lock enforcement that are this protocol's own: each is a
// mistake of C OpenCT that ours does not make. The recordings are
// little-endian; so is this table.
func Exceptions() []Exception {
	const (
		phantom = "the slot just past the last one does not exist"
		handles = "no handle was spent on the slot that does not exist"
		long    = "TRANSACT carries responses of more than 514 bytes"
		after   = "a long response before this one did no harm"
		small   = "a value of more than 255 bytes takes the large form"
		locked  = "locks are enforced"
		pipe    = "each request is answered when it is complete, not when the next one comes"
		size    = "a request that is too long is answered, its bytes are skipped"
		display = "the display's own unit may be named; this reader has no display"
	)
	return []Exception{
		{"status", 8, refuse(3, socket.InvalidSlot), phantom},
		{"reset", 12, refuse(5, socket.InvalidSlot), phantom},

		{"transact", 40, answer(0x13, large(socket.TagCardResponse, Echo(513))), long},
		{"transact", 42, answer(0x14, large(socket.TagCardResponse, Echo(2))), after},
		{"transact", 48, answer(0x17, large(socket.TagCardResponse, Echo(600))), long},
		{"transact", 52, refuse(0x19, socket.InvalidSlot), phantom},

		{"short-tags", 12, answer(5, large(socket.TagCardResponse, Echo(254))), small},
		{"short-tags", 14, answer(6, large(socket.TagCardResponse, Echo(255))), small},
		{"short-tags", 16, answer(7, large(socket.TagCardResponse, Echo(256))), small},

		{"lock-basic", 22, refuse(10, socket.InvalidSlot), phantom},
		{"lock-basic", 28, handle(13, 0x06), handles},

		{"lock-conflict", 7, handle(2, 0x07), handles},
		{"lock-conflict", 9, handle(1, 0x08), handles},
		{"lock-conflict", 16, handle(4, 0x09), handles},
		{"lock-conflict", 23, refuse(3, socket.Locked), locked},
		{"lock-conflict", 29, refuse(6, socket.Locked), locked},
		{"lock-conflict", 31, refuse(7, socket.Locked), locked},
		{"lock-conflict", 33, refuse(8, socket.InvalidSlot), phantom},
		{"lock-conflict", 36, handle(9, 0x0a), handles},

		{"lock-users", 4, handle(1, 0x0b), handles},
		{"lock-users", 9, refuse(2, socket.Locked), locked},
		{"lock-users", 15, handle(4, 0x0c), handles},
		{"lock-users", 17, handle(1, 0x0d), handles},

		{"other-commands", 10, refuse(4, socket.NotSupported), display},

		{"bad-messages", 20, handle(9, 0x0e), handles},

		{"framing", 16, answer(4, []byte{byte(socket.TagCardStatus), 1, 1}), pipe},
		{"framing", 18, answer(5, []byte{byte(socket.TagCardStatus), 1, 1}), pipe},
		{"framing", 25, refuse(7, socket.BufferTooSmall), size},
		{"framing", 28, refuse(8, socket.BufferTooSmall), size},

		{"dead-locker", 6, handle(2, 0x0f), handles},
		{"dead-locker", 11, handle(1, 0x10), handles},
	}
}

// EchoATR returns the ATR of the recordings' card.
func EchoATR() []byte {
	return []byte{0x3b, 0x84, 0x81, 0x31, 0xfe, 0x45, 'E', 'C', 'H', 'O', 0x8e}
}

// Echo is the response of the recordings' card to an APDU with n in P1 and P2.
func Echo(n int) []byte {
	b := make([]byte, n, n+2)
	for i := range b {
		b[i] = byte(i)
	}
	return append(b, 0x90, 0x00)
}

func large(tag socket.Tag, v []byte) []byte {
	b := socket.NewBuilder(make([]byte, 0, socket.MaxPacket), true)
	b.Bytes(tag, v)
	return b.Built()
}

func handle(xid uint32, n byte) string {
	return answer(xid, large(socket.TagLock, []byte{n}))
}

func answer(xid uint32, payload []byte) string { return packet(xid, socket.Success, payload) }

func refuse(xid uint32, code socket.Code) string { return packet(xid, code, nil) }

func packet(xid uint32, code socket.Code, payload []byte) string {
	b := make([]byte, socket.HeaderSize)
	binary.LittleEndian.PutUint32(b, xid)
	binary.LittleEndian.PutUint16(b[8:], uint16(code))
	binary.LittleEndian.PutUint16(b[10:], uint16(len(payload)))
	return hex.EncodeToString(append(b, payload...))
}
