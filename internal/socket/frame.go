package socket

import "encoding/binary"

// Sizes of a packet, both ways (PROTOCOL.md, "Packets" and "Limits").
const (
	HeaderSize = 12
	MaxPacket  = 4096 // with header: what every libopenct can take and send
	MaxPayload = MaxPacket - HeaderSize

	// MaxResponse is the longest card response, status word included, that a
	// Transact reply can carry, and the longest APDU of a Transact request is
	// two bytes shorter, for command and unit.
	MaxResponse = MaxPayload - tlvHeader
	MaxAPDU     = MaxPayload - requestOverhead - tlvHeader
)

// Command is the first byte of a request.
type Command byte

// Commands (C OpenCT's protocol.h).
const (
	CmdStatus      Command = 0x00
	CmdLock        Command = 0x01
	CmdUnlock      Command = 0x02
	CmdReset       Command = 0x10
	CmdRequest     Command = 0x11
	CmdEject       Command = 0x12
	CmdOutput      Command = 0x13
	CmdVerify      Command = 0x14
	CmdChangePIN   Command = 0x15 // no OpenCT server ever had it
	CmdMemoryRead  Command = 0x16
	CmdMemoryWrite Command = 0x17
	CmdInput       Command = 0x18 // no OpenCT server ever had it
	CmdTransactOld Command = 0x20 // bytes instead of arguments
	CmdTransact    Command = 0x21
	CmdSetProtocol Command = 0x22
	CmdLimits      Command = 0x24 // no other OpenCT server has it
	CmdWatch       Command = 0x25 // no other OpenCT server has it
)

// requestOverhead is the bytes before the arguments: command and unit.
const requestOverhead = 2

// Units: slots are counted from 0 (C OpenCT's protocol.h).
const (
	UnitReader  = 0x10
	UnitDisplay = 0x11
	UnitKeypad  = 0x12
)

// Bits of TagCardStatus and values of TagLockType.
const (
	StatusPresent = 1
	StatusChanged = 2

	LockShared    = 0 // and every value but LockExclusive
	LockExclusive = 1
)

// Header is the start of every packet, in the host's byte order: both ends
// are on one machine.
type Header struct {
	XID   uint32 // chosen by the client, comes back
	Dest  uint32 // 0 from libopenct; comes back
	Error Code   // requests: ignored
	Count uint16 // bytes that follow
}

// PutHeader writes h to the first HeaderSize bytes of b.
func PutHeader(b []byte, h Header) {
	_ = b[HeaderSize-1]
	binary.NativeEndian.PutUint32(b[0:], h.XID)
	binary.NativeEndian.PutUint32(b[4:], h.Dest)
	binary.NativeEndian.PutUint16(b[8:], uint16(h.Error))
	binary.NativeEndian.PutUint16(b[10:], h.Count)
}

// ParseHeader reads the first HeaderSize bytes of b.
func ParseHeader(b []byte) Header {
	_ = b[HeaderSize-1]
	return Header{
		XID:   binary.NativeEndian.Uint32(b[0:]),
		Dest:  binary.NativeEndian.Uint32(b[4:]),
		Error: Code(binary.NativeEndian.Uint16(b[8:])),
		Count: binary.NativeEndian.Uint16(b[10:]),
	}
}

// Request is one request as the handler sees it. Args and Raw are valid until
// Handle returns.
type Request struct {
	Cmd  Command
	Unit byte
	Args TLV    // checked; empty for CmdTransactOld
	Raw  []byte // all after the unit byte: the APDU of CmdTransactOld
}

// parseRequest takes a payload apart in the order clients rely on: length,
// then arguments; whether the command exists is asked after that
// (PROTOCOL.md, "Commands").
func parseRequest(p []byte, req *Request) Code {
	*req = Request{}
	if len(p) < requestOverhead {
		return InvalidMsg
	}
	req.Cmd, req.Unit, req.Raw = Command(p[0]), p[1], p[requestOverhead:]
	if req.Cmd == CmdTransactOld {
		return Success
	}
	args, err := ParseTLV(req.Raw)
	if err != nil {
		return InvalidMsg
	}
	req.Args = args
	return Success
}

// Reply collects the result of a request: arguments, or Raw for
// CmdTransactOld. What is too long for a packet becomes BufferTooSmall.
type Reply struct {
	Builder
}
