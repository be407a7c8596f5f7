package socket

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// longAgo is a deadline that ends a wait at once.
var longAgo = time.Unix(1, 0)

// Wait is for Session.Handle: it returns when news is closed, and before that
// when the client sends more or closes its sending side, or the server is told to
// stop. It is an error if the connection or ctx has ended. On a connection that is
// no Unix socket it does not wait.
func (c *Conn) Wait(ctx context.Context, news <-chan struct{}) error {
	if c.raw == nil || c.more || !c.beginWait() {
		return nil
	}
	over, woken := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(woken)
		select {
		case <-news:
		case <-ctx.Done():
		case <-over:
			return
		}
		_ = c.nc.SetReadDeadline(longAgo)
	}()
	err := c.awaitInput()
	close(over)
	<-woken
	c.endWait()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// beginWait says false if the connection is to end after this request.
func (c *Conn) beginWait() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = !c.closing
	return c.waiting
}

// Waiting says whether the handler is in Wait.
func (c *Conn) Waiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting
}

func (c *Conn) endWait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = false
	_ = c.nc.SetReadDeadline(time.Time{})
}

// awaitInput waits in the poller until the client has sent something or closed
// its end, or the deadline for reading has passed. It takes no byte.
func (c *Conn) awaitInput() error {
	var failed error
	err := c.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		for {
			_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			switch err {
			case unix.EINTR:
				continue
			case unix.EAGAIN:
				return false
			}
			failed = err
			return true
		}
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return failed
}
