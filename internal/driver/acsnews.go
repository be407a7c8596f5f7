package driver

import (
	"context"
	"errors"
	"sync"
	"time"

	"openct/internal/ifd"
	"openct/internal/usb"
)

// acsNotifier is a reader that tells of its card by itself.
type acsNotifier struct {
	acsReader

	newsMu sync.Mutex
	news   chan ifd.Event
	closed bool
}

func newACSNotifier(name string) *acsNotifier {
	n := &acsNotifier{acsReader: acsReader{name: name}, news: make(chan ifd.Event, 16)}
	n.slot = acsSlot{&n.acsReader}
	return n
}

// Events implements ifd.Notifier.
func (n *acsNotifier) Events() <-chan ifd.Event { return n.news }

// tell never waits: when the channel is full, its oldest event is dropped.
func (n *acsNotifier) tell(present bool) {
	n.newsMu.Lock()
	defer n.newsMu.Unlock()
	for !n.closed {
		select {
		case n.news <- ifd.Event{Present: present}:
			return
		default:
		}
		select {
		case <-n.news:
		default:
		}
	}
}

// Close implements ifd.Reader.
func (n *acsNotifier) Close() error {
	err := n.acsReader.Close()
	n.newsMu.Lock()
	defer n.newsMu.Unlock()
	if !n.closed {
		n.closed = true
		close(n.news)
	}
	return err
}

// Pauses after notifications that bring nothing, or errors.
const (
	minNewsPause = 10 * time.Millisecond
	maxNewsPause = 10 * time.Second
)

// listenInterrupt reads an interrupt endpoint and gives take what comes, until
// ctx ends or the device has left.
func listenInterrupt(ctx context.Context, dev usb.Device, ep uint8, take func([]byte)) {
	var buf [acsPacket]byte
	wait := minNewsPause
	for {
		n, err := dev.Interrupt(ctx, ep, buf[:])
		if n > 0 {
			take(buf[:n])
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, usb.ErrUnplugged), errors.Is(err, usb.ErrClosed):
			return
		case err == nil && n > 0:
			wait = minNewsPause
			continue
		case errors.Is(err, usb.ErrStall):
			_ = dev.ClearHalt(ep)
		}
		if err := pause(ctx, dev, wait); err != nil {
			return
		}
		wait = min(2*wait, maxNewsPause)
	}
}

// acsPacket is the packet size of these readers' interrupt endpoint.
const acsPacket = 8
