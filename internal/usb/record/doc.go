// Package record keeps what happens on a USB device, and writes and reads it as
// a text: a script. usbtest plays one against a driver.
//
// # Script
//
// One operation a line; "#" starts a comment; numbers are hex unless they
// count something.
//
//	OUT 41 16 0000 0000 [] T 1000              control: type, request, value, index, data
//	IN  C1 01 0000 0000 len 25 T 1000 3B FF    control: reads up to 25 bytes, gets 3B FF
//	OUT 40 06 0000 0000 [00 C1 01 20 E0] T d STALL
//	BULK 02 [52 36 00 01 00 00] T 1000         bulk OUT
//	BULK 81 len 64 T 1000 52 36 00*12          bulk IN; 00*12 is twelve zeros
//	INT  81 len 8 50 03                        interrupt IN
//	CLAIM 0 0                                  interface, alternate setting (decimal)
//	RELEASE 0
//	HALT 81                                    clear halt
//
// "T 1000" is the timeout the driver must ask for, in milliseconds, "T d" the
// 10 s that C OpenCT's drivers use by default; without T any timeout will do.
// A line ends in one of STALL, TIMEOUT, UNPLUG, OVERFLOW, IO, BUSY when the
// operation fails; bytes before that word are what had arrived. UNPLUG also
// closes Gone, and every later operation fails with usb.ErrUnplugged.
//
// Lines happen in their order, except INT: it is delivered to a reader of that
// endpoint as soon as all other lines above it are done, and the lines below
// do not wait for it. CLAIM and RELEASE are checked only in a script that has
// such lines.
package record
