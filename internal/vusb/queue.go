package vusb

import (
	"context"
	"sync"

	"openct/internal/usb"
)

// Queue is what waits on an IN endpoint, packet by packet. wake is closed and
// replaced whenever something is added. Its owner's mutex guards it.
type Queue struct {
	Packets [][]byte
	size    int // of a full packet
	wake    chan struct{}
}

// NewQueue makes an empty one for packets of size bytes.
func NewQueue(size int) Queue { return Queue{size: size, wake: make(chan struct{})} }

// Add appends one transfer. end says whether an empty packet follows a last
// full one.
func (q *Queue) Add(b []byte, end bool) {
	rest := b
	for len(rest) >= q.size {
		q.Packets = append(q.Packets, append([]byte(nil), rest[:q.size]...))
		rest = rest[q.size:]
	}
	if len(rest) > 0 || len(b) == 0 || end {
		q.Packets = append(q.Packets, append([]byte(nil), rest...))
	}
	close(q.wake)
	q.wake = make(chan struct{})
}

// Read gathers packets into one transfer: it ends at a short packet or when
// the buffer is full; what has come when ctx ends is returned with its error. A
// packet that does not fit is lost, as on a real bus. mu is the owner's mutex,
// not held.
func (q *Queue) Read(ctx context.Context, mu *sync.Mutex, max int) ([]byte, error) {
	var b []byte
	for {
		mu.Lock()
		for len(q.Packets) > 0 {
			p := q.Packets[0]
			q.Packets = q.Packets[1:]
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
