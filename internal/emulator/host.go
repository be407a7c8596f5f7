package emulator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
	"unicode/utf16"

	"openct/internal/usb"
)

// A message is a header of 48 bytes, big endian, and the data of the transfer
// (Linux, Documentation/usb/usbip_protocol.rst).
const (
	headerLen = 48

	cmdSubmit = 1
	cmdUnlink = 2
	retSubmit = 3
	retUnlink = 4
)

// Statuses of a transfer: negative error numbers of Linux
// (Documentation/driver-api/usb/error-codes.rst).
const (
	statusOK       = 0
	statusStall    = -32  // EPIPE
	statusOverflow = -75  // EOVERFLOW
	statusUnlinked = -104 // ECONNRESET
)

// unlinkWait is how long the other side may take to let go of a transfer.
const unlinkWait = time.Second

var errMessage = errors.New("invalid USB/IP message")

// host is the host at one end of a USB/IP connection, and the device at the other.
type host struct {
	name  string
	conn  net.Conn
	ended func() // called by Close, when the connection is closed
	desc  *usb.Descriptor

	gone     chan struct{} // closed when the other side has hung up
	received chan struct{} // closed when nothing is received any more
	closing  sync.Once

	mu      sync.Mutex
	closed  bool
	over    bool // received is about to be closed, nothing is pending
	seq     uint32
	pending map[uint32]*transfer
	claims  map[uint8]uint8 // alternate settings of claimed interfaces
}

var _ usb.Device = (*host)(nil)

// transfer is one that is under way or, with of, the order to end another.
type transfer struct {
	seq uint32
	of  *transfer

	in     []byte // room for the data of an IN transfer
	isIn   bool
	done   chan struct{} // closed with the end of it; then valid:
	n      int
	status int32
	lost   bool // the connection has ended before
}

func newHost(name string, conn net.Conn, ended func()) *host {
	h := &host{
		name: name, conn: conn, ended: ended,
		gone: make(chan struct{}), received: make(chan struct{}),
		pending: make(map[uint32]*transfer), claims: make(map[uint8]uint8),
	}
	go h.receive()
	return h
}

// receive takes answers until the connection ends.
func (h *host) receive() {
	defer close(h.received)
	for h.answer() == nil {
	}
	h.conn.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	for _, t := range h.pending {
		t.lost = true
		close(t.done)
	}
	clear(h.pending)
	if !h.closed {
		close(h.gone)
	}
}

// answer takes one answer.
func (h *host) answer() error {
	var m [headerLen]byte
	if _, err := io.ReadFull(h.conn, m[:]); err != nil {
		return err
	}
	be := binary.BigEndian
	kind, seq, status, actual := be.Uint32(m[0:]), be.Uint32(m[4:]), int32(be.Uint32(m[20:])), be.Uint32(m[24:])
	h.mu.Lock()
	t := h.pending[seq]
	delete(h.pending, seq)
	h.mu.Unlock()
	switch {
	case t == nil:
		return fmt.Errorf("answer to %d, which is not under way: %w", seq, errMessage)
	case t.of != nil && kind == retUnlink:
		if status == statusUnlinked {
			h.unlinked(t.of)
		}
		return nil // otherwise its own answer came before
	case t.of != nil, kind != retSubmit, t.isIn && actual > uint32(len(t.in)):
		t.lost = true
		close(t.done)
		return fmt.Errorf("answer %d with %d bytes: %w", kind, actual, errMessage)
	case t.isIn:
		if _, err := io.ReadFull(h.conn, t.in[:actual]); err != nil {
			t.lost = true
			close(t.done)
			return err
		}
		t.n = int(actual)
	}
	t.status = status
	close(t.done)
	return nil
}

// unlinked ends a transfer that has no answer of its own any more.
func (h *host) unlinked(t *transfer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pending[t.seq] == t {
		delete(h.pending, t.seq)
		t.status = statusUnlinked
		close(t.done)
	}
}

// send gives a message a number, and sends it with the data behind it.
func (h *host) send(m *[headerLen]byte, data []byte, t *transfer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.aliveLocked(); err != nil {
		return err
	}
	h.seq++
	t.seq = h.seq
	binary.BigEndian.PutUint32(m[4:], t.seq)
	h.pending[t.seq] = t
	h.conn.SetWriteDeadline(time.Now().Add(openWait))
	if _, err := h.conn.Write(append(m[:], data...)); err != nil {
		delete(h.pending, t.seq)
		h.conn.Close() // ends receive
		return usb.ErrUnplugged
	}
	return nil
}

func (h *host) aliveLocked() error {
	switch {
	case h.closed:
		return usb.ErrClosed
	case h.over:
		return usb.ErrUnplugged
	}
	return nil
}

// transfer makes one transfer; setup is that of endpoint 0. ctx is the caller's, and
// limit, which ends with it, what bounds the transfer.
func (h *host) transfer(ctx, limit context.Context, ep uint8, isIn bool, setup *usb.Setup, data []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, ended(ctx)
	}
	var m [headerLen]byte
	be, le := binary.BigEndian, binary.LittleEndian
	be.PutUint32(m[0:], cmdSubmit)
	if isIn {
		be.PutUint32(m[12:], 1)
	}
	be.PutUint32(m[16:], uint32(ep&0x0F))
	be.PutUint32(m[24:], uint32(len(data)))
	if setup != nil { // as on the wire, little endian (USB 2.0, 9.3)
		s := m[40:]
		s[0], s[1] = setup.RequestType, setup.Request
		le.PutUint16(s[2:], setup.Value)
		le.PutUint16(s[4:], setup.Index)
		le.PutUint16(s[6:], uint16(len(data)))
	}
	t := &transfer{isIn: isIn, done: make(chan struct{})}
	out := data
	if isIn {
		t.in, out = make([]byte, len(data)), nil
	}
	if err := h.send(&m, out, t); err != nil {
		return 0, err
	}
	select {
	case <-t.done:
	case <-limit.Done():
		if err := h.unlink(t); err != nil {
			return 0, err
		}
	}
	n := copy(data, t.in[:t.n])
	if !isIn && t.status == statusOK {
		n = len(data)
	}
	return n, h.result(ctx, t)
}

// unlink ends a transfer and waits until it has ended.
func (h *host) unlink(t *transfer) error {
	var m [headerLen]byte
	binary.BigEndian.PutUint32(m[0:], cmdUnlink)
	binary.BigEndian.PutUint32(m[20:], t.seq)
	if err := h.send(&m, nil, &transfer{of: t, done: make(chan struct{})}); err != nil {
		return err
	}
	grace := time.NewTimer(unlinkWait)
	defer grace.Stop()
	select {
	case <-t.done:
		return nil
	case <-grace.C:
		h.conn.Close() // it does not answer any more
		return usb.ErrUnplugged
	}
}

// result is what a transfer that is over came to.
func (h *host) result(ctx context.Context, t *transfer) error {
	if t.lost {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.closed {
			return usb.ErrClosed
		}
		return usb.ErrUnplugged
	}
	switch t.status {
	case statusOK:
		return nil
	case statusStall:
		return usb.ErrStall
	case statusOverflow:
		return usb.ErrOverflow
	case statusUnlinked:
		if ctx.Err() != nil {
			return ended(ctx)
		}
		return usb.ErrTimeout
	}
	return fmt.Errorf("%w: USB/IP status %d", usb.ErrIO, t.status)
}

// ended is the error of a transfer that its context has ended.
func ended(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", usb.ErrTimeout, ctx.Err())
	}
	return ctx.Err()
}

// Descriptor implements usb.Device.
func (h *host) Descriptor() *usb.Descriptor { return h.desc }

// Gone implements usb.Device.
func (h *host) Gone() <-chan struct{} { return h.gone }

// Control implements usb.Device.
func (h *host) Control(ctx context.Context, s usb.Setup, data []byte, timeout time.Duration) (int, error) {
	limit, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	n, err := h.transfer(ctx, limit, 0, s.In(), &s, data)
	return n, usb.Wrap(fmt.Sprintf("control %02x/%02x", s.RequestType, s.Request), h.name, err)
}

// Bulk implements usb.Device.
func (h *host) Bulk(ctx context.Context, ep uint8, data []byte, timeout time.Duration) (int, error) {
	limit, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	n, err := h.endpoint(ctx, limit, ep, data)
	return n, usb.Wrap(fmt.Sprintf("bulk %02x", ep), h.name, err)
}

// Interrupt implements usb.Device.
func (h *host) Interrupt(ctx context.Context, ep uint8, buf []byte) (int, error) {
	n, err := h.endpoint(ctx, ctx, ep, buf)
	return n, usb.Wrap(fmt.Sprintf("interrupt %02x", ep), h.name, err)
}

// endpoint makes a transfer on an endpoint of a claimed interface.
func (h *host) endpoint(ctx, limit context.Context, ep uint8, data []byte) (int, error) {
	h.mu.Lock()
	err := h.aliveLocked()
	claimed := slices.ContainsFunc(h.desc.Interfaces, func(i usb.Interface) bool {
		alt, ok := h.claims[i.Number]
		return ok && alt == i.Alt && slices.ContainsFunc(i.Endpoints, func(e usb.Endpoint) bool { return e.Address == ep })
	})
	h.mu.Unlock()
	switch {
	case err != nil:
		return 0, err
	case !claimed:
		return 0, fmt.Errorf("%w: no claimed interface has this endpoint", usb.ErrIO)
	}
	return h.transfer(ctx, limit, ep, ep&0x80 != 0, nil, data)
}

// Requests for any device (USB 2.0, tables 9-3, 9-4 and 9-5).
const (
	reqClearFeature     = 1
	reqGetDescriptor    = 6
	reqSetConfiguration = 9
	reqSetInterface     = 11

	descDevice = 1
	descConfig = 2
	descString = 3

	standardDeviceOut    = 0x00
	standardInterfaceOut = 0x01
	standardEndpointOut  = 0x02
	standardDeviceIn     = 0x80
)

// requestTime bounds such a request to a device that has described itself.
const requestTime = 5 * time.Second

func (h *host) order(kind, request uint8, value, index uint16) error {
	_, err := h.Control(context.Background(), usb.Setup{RequestType: kind, Request: request, Value: value, Index: index}, nil, requestTime)
	return err
}

// Claim implements usb.Device.
func (h *host) Claim(iface, alt uint8) error {
	op := fmt.Sprintf("claim interface %d", iface)
	if !slices.ContainsFunc(h.desc.Interfaces, func(i usb.Interface) bool { return i.Number == iface && i.Alt == alt }) {
		return usb.Wrap(op, h.name, usb.ErrNotFound)
	}
	h.mu.Lock()
	err := h.aliveLocked()
	if err == nil {
		h.claims[iface] = alt
	}
	h.mu.Unlock()
	if err == nil && alt != 0 {
		err = h.order(standardInterfaceOut, reqSetInterface, uint16(alt), uint16(iface))
	}
	return usb.Wrap(op, h.name, err)
}

// Release implements usb.Device.
func (h *host) Release(iface uint8) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.claims, iface)
	return nil
}

// ClearHalt implements usb.Device. Its feature is ENDPOINT_HALT, 0.
func (h *host) ClearHalt(ep uint8) error {
	return usb.Wrap(fmt.Sprintf("clear halt %02x", ep), h.name, h.order(standardEndpointOut, reqClearFeature, 0, uint16(ep)))
}

// Close implements usb.Device.
func (h *host) Close() error {
	h.closing.Do(func() {
		h.mu.Lock()
		h.closed = true
		h.mu.Unlock()
		h.conn.Close()
		<-h.received
		h.ended()
	})
	return nil
}

// enumerate does what the kernel does with a device that was plugged in: it reads the
// descriptors and configures the device.
func (h *host) enumerate() error {
	const deviceLen, configLen = 18, 9 // USB 2.0, tables 9-8 and 9-10
	device, err := h.describe(descDevice, 0, 0, deviceLen)
	if err != nil {
		return err
	}
	config, err := h.describe(descConfig, 0, 0, configLen)
	if err != nil {
		return err
	}
	if len(device) < deviceLen || len(config) < configLen {
		return usb.ErrDescriptor
	}
	if config, err = h.describe(descConfig, 0, 0, int(binary.LittleEndian.Uint16(config[2:]))); err != nil {
		return err
	}
	if len(config) < configLen {
		return usb.ErrDescriptor
	}
	if h.desc, err = usb.ParseDescriptors(append(slices.Clone(device), config...)); err != nil {
		return err
	}
	// iManufacturer, iProduct, iSerialNumber (USB 2.0, table 9-8).
	h.desc.Manufacturer, h.desc.ProductString, h.desc.Serial = h.text(device[14]), h.text(device[15]), h.text(device[16])
	return h.order(standardDeviceOut, reqSetConfiguration, uint16(config[5]), 0)
}

// describe gets a descriptor. The program that is the device may have to start first.
func (h *host) describe(kind, index uint8, language uint16, length int) ([]byte, error) {
	b := make([]byte, length)
	n, err := h.Control(context.Background(), usb.Setup{
		RequestType: standardDeviceIn, Request: reqGetDescriptor, Value: uint16(kind)<<8 | uint16(index), Index: language,
	}, b, openWait)
	return b[:n], err
}

// text is a string of the device, empty if it has none (USB 2.0, 9.6.7).
func (h *host) text(index uint8) string {
	const englishUS = 0x0409 // USB LANGIDs 1.0
	if index == 0 {
		return ""
	}
	b, err := h.describe(descString, index, englishUS, 255)
	if err != nil || len(b) < 2 {
		return ""
	}
	var units []uint16
	for b = b[2:]; len(b) >= 2; b = b[2:] {
		units = append(units, binary.LittleEndian.Uint16(b))
	}
	return string(utf16.Decode(units))
}
