//go:build cgo

package gousbdev

// #include <stdlib.h>
// #include "transfer.h"
import "C"

import (
	"context"
	"sync"
	"time"
	"unsafe"

	"github.com/google/gousb"

	"openct/internal/usb"
)

// request is what is to be transferred.
type request struct {
	kind     C.uchar // LIBUSB_TRANSFER_TYPE_...
	endpoint uint8
	setup    usb.Setup // of a control transfer
	data     []byte
	timeout  time.Duration // 0: for ever
}

// transfer is a request under way.
type transfer struct {
	mu sync.Mutex
	c  *C.struct_openct_transfer // nil once it is over
}

func (t *transfer) cancel() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.c != nil {
		C.openct_transfer_cancel(t.c)
	}
}

func (t *transfer) free() {
	t.mu.Lock()
	defer t.mu.Unlock()
	C.openct_transfer_free(t.c)
	t.c = nil
}

// transfer makes a request, to its end, its timeout, the end of ctx, or Close.
func (d *device) transfer(ctx context.Context, r request) (int, error) {
	t := &transfer{c: C.openct_transfer_new()}
	if t.c == nil {
		return 0, gousb.ErrorNoMem
	}
	defer t.free()
	if !d.enter(t) {
		return 0, usb.ErrClosed
	}
	defer d.leave(t)
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, t.cancel)()
	}

	var setup [8]C.uchar // USB 2.0, table 9-2
	setup[0], setup[1] = C.uchar(r.setup.RequestType), C.uchar(r.setup.Request)
	for i, v := range []uint16{r.setup.Value, r.setup.Index, uint16(len(r.data))} {
		setup[2+2*i], setup[3+2*i] = C.uchar(v), C.uchar(v>>8)
	}
	deadline := time.Now().Add(r.timeout)
	for {
		var timeout C.uint
		if r.timeout > 0 {
			left := time.Until(deadline)
			if left <= 0 {
				return 0, usb.ErrTimeout
			}
			timeout = C.uint(wholeMilliseconds(left) / time.Millisecond)
		}
		var status, actual C.int
		code := C.openct_transfer_run(t.c, d.ctx.c, d.handle, r.kind, C.uchar(r.endpoint), &setup[0],
			(*C.uchar)(unsafe.SliceData(r.data)), C.int(len(r.data)), timeout, &status, &actual)
		switch {
		case gousb.Error(code) == gousb.ErrorInterrupted:
			// A signal came before it was submitted: Go's scheduler makes
			// them all the time.
		case code != 0:
			return 0, gousb.Error(code)
		case status == C.LIBUSB_TRANSFER_COMPLETED:
			return int(actual), nil
		case status == C.LIBUSB_TRANSFER_CANCELLED && d.alive.Err() != nil:
			return int(actual), usb.ErrClosed
		case status == C.LIBUSB_TRANSFER_CANCELLED && ctx.Err() != nil:
			return int(actual), waitError(ctx)
		default:
			return int(actual), gousb.TransferStatus(status)
		}
	}
}
