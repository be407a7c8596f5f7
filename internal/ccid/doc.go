// Package ccid drives smart card readers of the USB class "Integrated
// Circuit(s) Cards Interface Devices" (CCID), after the class specification
// revision 1.1 of the USB Implementers Forum, cited here as "CCID 1.1".
//
// It reads from the wire up:
//
//	message.go, response.go           the ten-byte headers of both directions
//	commands.go, parameters.go, secure.go    the commands, one function each
//	descriptor.go, features.go        the class descriptor and what it promises
//	function.go, quirks.go            finds the CCID interface; devices that break the standard
//	plan.go, rates.go                 what the driver decides for a reader and a card
//	transport.go, usb.go, block.go, serial.go    how messages travel
//	conn.go                           sequence numbers, waiting, aborting
//	reader.go, slot.go, apdu.go, tpdu.go, charlink.go, pinpad.go, notify.go    the driver
//
// The files of the messages do not depend on a transport, and the transports do
// not depend on a card. Every byte of a reader is checked before it is used.
package ccid
