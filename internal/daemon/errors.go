package daemon

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"openct/internal/cli"
	"openct/internal/device"
	"openct/internal/driver"
	"openct/internal/ifd"
	"openct/internal/lock"
	"openct/internal/proto"
	"openct/internal/reader"
	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/usb"
)

// codes is the one table from errors to what clients are told. The first entry
// that matches counts, so what explains the others comes first.
var codes = []struct {
	err  error
	code socket.Code
}{
	{usb.ErrUnplugged, socket.DeviceDisconnected},
	{usb.ErrClosed, socket.DeviceDisconnected},
	{usb.ErrNotFound, socket.DeviceDisconnected},

	{lock.ErrLocked, socket.Locked},
	{lock.ErrNoLock, socket.NoLock},
	{lock.ErrTooMany, socket.NoMemory},

	{reader.ErrInvalidSlot, socket.InvalidSlot},
	{reader.ErrNoProtocol, socket.Generic},

	{ifd.ErrNoCard, socket.NoCard},
	{ifd.ErrNoATR, socket.NoATR},
	{ifd.ErrInvalidATR, socket.InvalidATR},
	{ifd.ErrNotSupported, socket.NotSupported},
	{ifd.ErrIncompatible, socket.IncompatibleDevice},
	{ifd.ErrUserTimeout, socket.UserTimeout},
	{ifd.ErrUserAbort, socket.UserAbort},
	{ifd.ErrPINMismatch, socket.PINMismatch},

	{proto.ErrNoAPDUs, socket.NotSupported},
	{proto.ErrMemoryRange, socket.InvalidArg},
	{proto.ErrWriteProtected, socket.Generic}, // as C OpenCT answers it (proto-sync.c)

	{proto.ErrInvalidAPDU, socket.Generic}, // as C OpenCT answers it (apdu.c)
	{proto.ErrTooLong, socket.BufferTooSmall},

	{usb.ErrTimeout, socket.Timeout},
	{context.DeadlineExceeded, socket.Timeout},

	{usb.ErrStall, socket.CommError},
	{usb.ErrOverflow, socket.CommError},
	{usb.ErrIO, socket.CommError},
	{usb.ErrBusy, socket.CommError},
	{usb.ErrAccess, socket.CommError},
	{ifd.ErrComm, socket.CommError},
	{proto.ErrAborted, socket.CommError},
	{proto.ErrProtocol, socket.CommError},
	{proto.ErrResetRequired, socket.CommError},
	{context.Canceled, socket.CommError},
}

// codeOf finds the code for an error. An error that is a code already, such as
// that of a missing argument, is itself.
func codeOf(err error) socket.Code {
	if err == nil {
		return socket.Success
	}
	var code socket.Code
	if errors.As(err, &code) {
		return code
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return socket.Generic
}

// Explain adds what to do next to the errors people meet at a device of this type;
// empty: the error is about no device.
func Explain(err error, deviceType string) error {
	hint := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, status.ErrNotInitialised):
		hint = "start OpenCT with: openct-control init (or: systemctl start openct.service)"
	case errors.Is(err, usb.ErrAccess):
		hint = "give this user read and write access to the device node; see: openct-control doctor"
	case errors.Is(err, fs.ErrPermission):
		hint = "run the command as root, or as the owner of OpenCT's directory; see: openct-control doctor"
	case errors.Is(err, usb.ErrBusy):
		hint = "end the program that uses the device; openct-control doctor names it"
	case errors.Is(err, driver.ErrNoDriver):
		hint = "if the device works like a supported one, add its id to openct.conf: driver NAME { ids = { usb:VVVV/PPPP, }; };"
	case errors.Is(err, usb.ErrNotFound):
		hint = whereToLook(err, deviceType)
	}
	if hint == "" {
		return err
	}
	return &cli.Hint{Err: err, Hint: hint}
}

// whereToLook is what to look at for a device that is not there. Empty: the error
// itself says what is missing.
func whereToLook(err error, deviceType string) string {
	var at *device.Error
	if !errors.As(err, &at) || at.Op != "open" {
		return ""
	}
	switch {
	case deviceType == "usb":
		return "lsusb lists the USB devices with bus and device number"
	case deviceType == "pcmcia": // both were removed by commit 9b12f050c76f, "char: pcmcia: remove all the drivers"
		return "insert the PCMCIA reader, or name another device; its node is made by the kernel's driver cm4000_cs, which Linux has no more since 6.4"
	case deviceType == "pcmcia_block":
		return "insert the PCMCIA reader, or name another device; its node is made by the kernel's driver cm4040_cs, which Linux has no more since 6.4"
	case deviceType != "serial":
	case at.Err != device.ErrNotFound: // there is a node
		return "no serial port is behind this node; dmesg | grep tty lists the ports that the kernel has found"
	case strings.HasPrefix(at.Device, "/dev/"):
		return "plug in the reader's adapter, or name another device; ls -l /dev/serial/by-id lists the USB adapters that are plugged in"
	default:
		return "start the program that makes this link to a serial line, such as openct-line@.service of openct(7)"
	}
	return ""
}
