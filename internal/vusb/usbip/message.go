// Package usbip plugs a virtual device into this machine's kernel. The kernel's
// driver vhci_hcd is the host: it speaks USB/IP (Linux, Documentation/usb/
// usbip_protocol.rst) through a socket, and a server here answers for the model.
// Real udev, libusb and systemd then see the device.
package usbip

import (
	"encoding/binary"
	"errors"
	"fmt"

	"openct/internal/usb"
)

// USB/IP carries USB requests over a byte stream: a 48-byte header, big
// endian, then the data of the transfer (Linux, Documentation/usb/
// usbip_protocol.rst). The host's side here is the kernel's vhci_hcd; the
// part of the protocol that lists and imports devices is not used with it.
const (
	headerLen = 48

	cmdSubmit = 1
	cmdUnlink = 2
	retSubmit = 3
	retUnlink = 4

	dirOut = 0
	dirIn  = 1
)

const (
	// maxTransfer bounds one transfer. usbfs itself allows 16 MiB in all
	// (usbfs_memory_mb), no reader needs more than 64 KiB.
	maxTransfer = 1 << 20

	// maxPending bounds the transfers under way; a host has a few for
	// each endpoint.
	maxPending = 256
)

// urbShortNotOK in the transfer flags makes a short read an error (Linux,
// include/linux/usb.h, URB_SHORT_NOT_OK).
const urbShortNotOK = 1

// Status values of a transfer: negative errno numbers of Linux (spec of the
// meanings: Documentation/driver-api/usb/error-codes.rst).
const (
	statusOK        = 0
	statusStall     = -32  // EPIPE
	statusProto     = -71  // EPROTO
	statusOverflow  = -75  // EOVERFLOW
	statusUnlinked  = -104 // ECONNRESET
	statusShortRead = -121 // EREMOTEIO
)

var errMessage = errors.New("invalid USB/IP message")

// command is a CMD_SUBMIT or, with Unlink, a CMD_UNLINK.
type command struct {
	Seq    uint32
	Unlink bool
	Victim uint32 // CMD_UNLINK: the seq of what to end

	Endpoint uint8 // address, with bit 7 set for IN; 0 for control
	Flags    uint32
	Length   int // of the transfer; OUT data of that length follows
	Setup    usb.Setup
	IsIn     bool
	WLength  int // control: wLength
}

// outLength is how many bytes of data follow the header.
func (c *command) outLength() int {
	if c.Unlink || c.IsIn {
		return 0
	}
	return c.Length
}

// parseCommand reads a header that came from the host.
func parseCommand(h *[headerLen]byte) (command, error) {
	be := binary.BigEndian
	c := command{Seq: be.Uint32(h[4:])}
	switch command := be.Uint32(h[0:]); command {
	case cmdUnlink:
		c.Unlink = true
		c.Victim = be.Uint32(h[20:])
		return c, nil
	case cmdSubmit:
	default:
		return c, fmt.Errorf("command %#x: %w", command, errMessage)
	}

	direction, endpoint := be.Uint32(h[12:]), be.Uint32(h[16:])
	if direction > dirIn || endpoint > 15 {
		return c, fmt.Errorf("direction %d of endpoint %d: %w", direction, endpoint, errMessage)
	}
	length := be.Uint32(h[24:])
	if length > maxTransfer {
		return c, fmt.Errorf("transfer of %d bytes, allowed are %d: %w", length, maxTransfer, errMessage)
	}
	// Not isochronous: 0 from Linux, -1 after the protocol's text.
	if packets := be.Uint32(h[32:]); packets != 0 && packets != 0xFFFFFFFF {
		return c, fmt.Errorf("isochronous transfer of %d packets: %w", packets, errMessage)
	}
	c.Flags = be.Uint32(h[20:])
	c.Length = int(length)
	c.IsIn = direction == dirIn
	c.Endpoint = uint8(endpoint)
	if endpoint == 0 {
		// The setup packet is as on the wire: little endian (USB 2.0, 9.3).
		setup, le := h[40:], binary.LittleEndian
		c.Setup = usb.Setup{RequestType: setup[0], Request: setup[1], Value: le.Uint16(setup[2:]), Index: le.Uint16(setup[4:])}
		c.WLength = int(le.Uint16(setup[6:]))
		// Linux takes the direction of a control transfer without data from
		// the pipe, so only one with data must agree with its setup packet.
		if c.Length > 0 && c.IsIn != c.Setup.In() {
			return c, fmt.Errorf("control transfer %02x with the other direction: %w", c.Setup.RequestType, errMessage)
		}
		if !c.IsIn && c.Length > 0 && c.Length != c.WLength {
			return c, fmt.Errorf("%d bytes with wLength %d: %w", c.Length, c.WLength, errMessage)
		}
	} else if c.IsIn {
		c.Endpoint |= 0x80
	}
	return c, nil
}

// submitReply makes the answer to a CMD_SUBMIT. For an OUT transfer data is nil
// and actual the number of bytes taken.
func submitReply(seq uint32, status int32, actual int, data []byte) []byte {
	m := make([]byte, headerLen, headerLen+len(data))
	be := binary.BigEndian
	be.PutUint32(m[0:], retSubmit)
	be.PutUint32(m[4:], seq)
	be.PutUint32(m[20:], uint32(status))
	be.PutUint32(m[24:], uint32(actual))
	return append(m, data...)
}

// unlinkReply makes the answer to a CMD_UNLINK.
func unlinkReply(seq uint32, status int32) []byte {
	m := make([]byte, headerLen)
	be := binary.BigEndian
	be.PutUint32(m[0:], retUnlink)
	be.PutUint32(m[4:], seq)
	be.PutUint32(m[20:], uint32(status))
	return m
}
