package usbip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"openct/internal/vusb"
)

// server plays a device to a USB/IP host at the other end of conn: one that has
// been imported already, as the kernel's vhci_hcd expects of a socket written to
// its attach file.
type server struct {
	conn  io.ReadWriteCloser
	model vusb.Model
	std   *standard

	wg sync.WaitGroup // transfers

	// mu also orders the answers: whether a transfer was answered or unlinked
	// is decided and written as one.
	mu      sync.Mutex
	pending map[uint32]*urb
	last    map[uint8]chan struct{} // of each endpoint's queue, closed when that transfer ended
}

// urb is a transfer under way (USB request block).
type urb struct {
	command
	out    []byte
	ctx    context.Context
	cancel context.CancelFunc
	before <-chan struct{} // the transfer ahead of it; nil for none
	ended  chan struct{}
}

// Serve is the device at one end of a connection, at the other end of which is a
// host. It returns when that hangs up (nil), sends nonsense, or ctx ends.
func Serve(ctx context.Context, conn io.ReadWriteCloser, m vusb.Model) error {
	s, err := newServer(conn, m)
	if err != nil {
		conn.Close()
		return err
	}
	return s.serve(ctx)
}

func newServer(conn io.ReadWriteCloser, m vusb.Model) (*server, error) {
	std, err := newStandard(m)
	if err != nil {
		return nil, err
	}
	return &server{
		conn:    conn,
		model:   m,
		std:     std,
		pending: make(map[uint32]*urb),
		last:    make(map[uint8]chan struct{}),
	}, nil
}

// serve returns when the host hangs up (nil), sends nonsense, or ctx ends; conn is
// closed then and no transfer is under way.
func (s *server) serve(ctx context.Context) error {
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { s.conn.Close() })
	s.std.busReset()
	err := s.receive(ctx)
	stop()
	cancel()
	s.conn.Close()
	s.wg.Wait()
	if outer.Err() != nil {
		return outer.Err()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// receive takes messages until there are no more.
func (s *server) receive(ctx context.Context) error {
	for {
		var header [headerLen]byte
		if _, err := io.ReadFull(s.conn, header[:]); err != nil {
			return err
		}
		c, err := parseCommand(&header)
		if err != nil {
			return err
		}
		var out []byte
		if n := c.outLength(); n > 0 {
			out = make([]byte, n)
			if _, err := io.ReadFull(s.conn, out); err != nil {
				return fmt.Errorf("%d bytes of data: %w", n, noEOF(err))
			}
		}
		if c.Unlink {
			err = s.unlink(c)
		} else {
			err = s.submit(ctx, c, out)
		}
		if err != nil {
			return err
		}
	}
}

// noEOF makes the end of the stream within a message an error.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// submit starts a transfer behind those of its endpoint.
func (s *server) submit(ctx context.Context, c command, out []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending[c.Seq] != nil {
		return fmt.Errorf("sequence number %d is under way already: %w", c.Seq, errMessage)
	}
	if len(s.pending) >= maxPending {
		return fmt.Errorf("more than %d transfers at once: %w", maxPending, errMessage)
	}
	u := &urb{command: c, out: out, before: s.last[c.Endpoint], ended: make(chan struct{})}
	u.ctx, u.cancel = context.WithCancel(ctx)
	s.pending[c.Seq] = u
	s.last[c.Endpoint] = u.ended
	s.wg.Add(1)
	go s.transfer(u)
	return nil
}

// unlink ends a transfer. Its own answer is then never sent; when that was
// sent already the host learns so from status 0.
func (s *server) unlink(c command) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := int32(statusOK)
	if u := s.pending[c.Victim]; u != nil {
		delete(s.pending, c.Victim)
		u.cancel()
		status = statusUnlinked
	}
	return s.writeLocked(unlinkReply(c.Seq, status))
}

func (s *server) writeLocked(message []byte) error {
	_, err := s.conn.Write(message)
	return err
}

// transfer runs one transfer and answers it.
func (s *server) transfer(u *urb) {
	defer s.wg.Done()
	defer close(u.ended)
	defer u.cancel()
	if u.before != nil {
		// In order, also behind a transfer that was unlinked: the model may
		// still be at it.
		<-u.before
	}
	if u.ctx.Err() != nil {
		return
	}
	data, err := s.run(u)
	if errors.Is(err, context.Canceled) {
		return // unlinked, hung up, or the device was unplugged: there is no answer
	}
	answer := u.answer(data, err)

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending[u.Seq] != u {
		return // unlinked
	}
	delete(s.pending, u.Seq)
	if s.writeLocked(answer) != nil {
		s.conn.Close() // ends receive
	}
}

// run does what the transfer asks for.
func (s *server) run(u *urb) ([]byte, error) {
	if u.Endpoint == 0 {
		const typeMask, typeStandard = 0x60, 0x00 // bmRequestType (USB 2.0, table 9-2)
		if u.Setup.RequestType&typeMask == typeStandard {
			return s.std.request(u.Setup, u.WLength)
		}
		return s.model.Control(u.ctx, u.Setup, u.out, u.WLength)
	}
	if !s.std.hasEndpoint(u.Endpoint) || s.std.isHalted(u.Endpoint) {
		return nil, vusb.ErrStall
	}
	var data []byte
	var err error
	if u.IsIn {
		data, err = s.model.In(u.ctx, u.Endpoint, u.Length)
	} else {
		err = s.model.Out(u.ctx, u.Endpoint, u.out)
	}
	if errors.Is(err, vusb.ErrStall) {
		s.std.halt(u.Endpoint)
	}
	return data, err
}

// answer makes the RET_SUBMIT of a transfer that gave data and err.
func (u *urb) answer(data []byte, err error) []byte {
	switch {
	case errors.Is(err, vusb.ErrStall):
		return submitReply(u.Seq, statusStall, 0, nil)
	case err != nil:
		return submitReply(u.Seq, statusProto, 0, nil)
	case !u.IsIn:
		return submitReply(u.Seq, statusOK, u.Length, nil)
	}
	if u.Endpoint == 0 {
		data = data[:min(len(data), u.WLength)]
	}
	switch {
	case len(data) > u.Length:
		data = data[:u.Length]
		return submitReply(u.Seq, statusOverflow, len(data), data)
	case len(data) < u.Length && u.Flags&urbShortNotOK != 0:
		return submitReply(u.Seq, statusShortRead, len(data), data)
	}
	return submitReply(u.Seq, statusOK, len(data), data)
}
