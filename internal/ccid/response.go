package ccid

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// iccStatus is bmICCStatus, what a slot holds (CCID 1.1, table 6.2-3).
type iccStatus byte

const (
	iccActive   iccStatus = 0
	iccInactive iccStatus = 1
	iccAbsent   iccStatus = 2
)

// commandStatus is bmCommandStatus, how a command went (CCID 1.1, table 6.2-3).
type commandStatus byte

const (
	commandOK            commandStatus = 0
	commandFailed        commandStatus = 1
	commandTimeExtension commandStatus = 2
)

// response is one reader-to-host message.
type response struct {
	typ, slot, seq byte
	status         byte // bStatus: bits 1..0 bmICCStatus, bits 7..6 bmCommandStatus
	code           byte // bError, or the multiplier of a time extension
	param          byte // bChainParameter, bClockStatus or bProtocolNum
	data           []byte
}

// errMalformed: what came is not one whole message.
var errMalformed = errors.New("malformed message from the reader")

// messageLength is the length in bytes that a message's header announces for
// the whole of it. b holds at least headerSize bytes.
func messageLength(b []byte) int64 {
	return headerSize + int64(binary.LittleEndian.Uint32(b[1:]))
}

// parseResponse takes one whole message apart; data stays part of b. The
// length is the one its header names; readers pad messages behind that.
func parseResponse(b []byte) (response, error) {
	if len(b) < headerSize {
		return response{}, fmt.Errorf("%w: %d bytes", errMalformed, len(b))
	}
	n := messageLength(b)
	if n > int64(len(b)) {
		return response{}, fmt.Errorf("%w: %d bytes instead of the %d in the header", errMalformed, len(b), n)
	}
	if b[0] < firstAnswerType {
		return response{}, fmt.Errorf("%w: type %02X", errMalformed, b[0])
	}
	return response{
		typ: b[0], slot: b[5], seq: b[6],
		status: b[7], code: b[8], param: b[9],
		data: b[headerSize:n],
	}, nil
}

// icc is what the slot holds. The reserved value 3 counts as absent.
func (r response) icc() iccStatus {
	if s := iccStatus(r.status & 3); s < iccAbsent {
		return s
	}
	return iccAbsent
}

// command is how the command went. The reserved value 3 counts as failed.
func (r response) command() commandStatus {
	if s := commandStatus(r.status >> 6); s <= commandTimeExtension {
		return s
	}
	return commandFailed
}
