package socket

import "fmt"

// Code is the error field of a reply: 0 or negative on the wire. It is an
// error that errors.Is compares, and Success is never returned as one by
// Client.
type Code int16

// The codes clients know (OpenCT's IFD_ERROR_ numbers; openct/error.h).
const (
	Success            Code = 0
	Generic            Code = -1
	Timeout            Code = -2
	InvalidSlot        Code = -3
	NotSupported       Code = -4
	CommError          Code = -5
	NoCard             Code = -6
	Locked             Code = -7
	NoLock             Code = -8
	InvalidArg         Code = -9
	NoMemory           Code = -10
	BufferTooSmall     Code = -11
	UserTimeout        Code = -12
	UserAbort          Code = -13
	PINMismatch        Code = -14
	NoATR              Code = -15
	IncompatibleDevice Code = -16
	DeviceDisconnected Code = -17
	InvalidATR         Code = -18
	InvalidMsg         Code = -100
	InvalidCmd         Code = -101
	MissingArg         Code = -102
	// NotConnected is for clients alone: the request could not be sent. A
	// server never sends it, OpenSC would give the reader up.
	NotConnected   Code = -103
	AlreadyClaimed Code = -200
	DeviceBusy     Code = -201
	UnknownDevice  Code = -202
)

// Error returns the text old programs print for the code. The sign does not
// matter, as it does not in ct_strerror.
func (c Code) Error() string {
	n := int(c)
	if n > 0 {
		n = -n
	}
	switch Code(n) {
	case Success:
		return "Success"
	case Generic:
		return "Generic error"
	case Timeout:
		return "Command timed out"
	case InvalidSlot:
		return "Invalid slot"
	case NotSupported:
		return "Operation not supported"
	case CommError:
		return "Communication error"
	case NoCard:
		return "No card present"
	case Locked:
		return "Reader already locked"
	case NoLock:
		return "Reader not locked"
	case InvalidArg:
		return "Invalid argument"
	case NoMemory:
		return "Out of memory"
	case BufferTooSmall:
		return "Buffer too small"
	case UserTimeout:
		return "Timeout on user input"
	case UserAbort:
		return "Operation aborted by user"
	case PINMismatch:
		return "PIN mismatch"
	case NoATR:
		return "Unable to reset card"
	case IncompatibleDevice:
		return "Device cannot perform requested operation"
	case DeviceDisconnected:
		return "Device was disconnected"
	case InvalidATR:
		return "Card returned invalid ATR"
	case InvalidMsg:
		return "Invalid message"
	case InvalidCmd:
		return "Invalid command"
	case MissingArg:
		return "Missing argument"
	case NotConnected:
		return "Not connected to IFD handler"
	case AlreadyClaimed:
		return "Device already claimed"
	case DeviceBusy:
		return "Device busy"
	case UnknownDevice:
		return "Device not known"
	}
	return fmt.Sprintf("Unknown OpenCT error %d", -int(c))
}

var _ error = Code(0)
