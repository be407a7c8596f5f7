// Package ccid drives smart card readers of the USB class "Integrated
// Circuit(s) Cards Interface Devices" (CCID), after the class specification
// revision 1.1 of the USB Implementers Forum, cited here as "CCID 1.1".
//
// It reads from the wire up:
//
//	message.go, response.go, errors.go        the ten-byte headers of both directions, and failures
//	commands.go, parameters.go, secure.go     the commands, one function each
//	interrupt.go                              what a reader reports by itself
//	descriptor.go, features.go                the class descriptor and what it promises
//	function.go, quirks.go                    finds the CCID interface; devices that break the standard
//	plan.go, rates.go                         what the driver decides for a reader and a card
//	transport.go                              how messages travel: usb.go, block.go, serial.go, serialframe.go
//	conn.go, answers.go                       commands in flight, and the answers to them
//	reader.go, standalone.go, notify.go       the driver: a reader on USB or elsewhere, and its news
//	slot.go, settle.go                        a slot, and what card and reader agree upon
//	apdu.go, tpdu.go, charlink.go, pinpad.go, escapeslot.go    what a slot carries
//
// The files of the messages do not depend on a transport, and the transports do
// not depend on a card. Every byte of a reader is checked before it is used.
package ccid
