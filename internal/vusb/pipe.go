package vusb

import (
	"context"
	"sync"

	"openct/internal/usb"
)

// pipe is what waits on an IN endpoint, packet by packet. wake is closed and
// replaced whenever something is added. Its owner's mutex guards it.
type pipe struct {
	packets [][]byte
	size    int // of a full packet
	wake    chan struct{}
}

func newPipe(size int) pipe { return pipe{size: size, wake: make(chan struct{})} }

// add appends one transfer. end says whether an empty packet follows a last
// full one.
func (q *pipe) add(b []byte, end bool) {
	rest := b
	for len(rest) >= q.size {
		q.packets = append(q.packets, append([]byte(nil), rest[:q.size]...))
		rest = rest[q.size:]
	}
	if len(rest) > 0 || len(b) == 0 || end {
		q.packets = append(q.packets, append([]byte(nil), rest...))
	}
	close(q.wake)
	q.wake = make(chan struct{})
}

// read gathers packets into one transfer: it ends at a short packet or when
// the buffer is full; what has come when ctx ends is returned with its error. A
// packet that does not fit is lost, as on a real bus. mu is the owner's mutex,
// not held.
func (q *pipe) read(ctx context.Context, mu *sync.Mutex, max int) ([]byte, error) {
	var b []byte
	for {
		mu.Lock()
		for len(q.packets) > 0 {
			p := q.packets[0]
			q.packets = q.packets[1:]
			if len(b)+len(p) > max {
				mu.Unlock()
				return nil, usb.ErrOverflow
			}
			b = append(b, p...)
			if len(p) < q.size || len(b) == max {
				mu.Unlock()
				return b, nil
			}
		}
		wake := q.wake
		mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return b, ctx.Err()
		}
	}
}
