//go:build go1.25

package emulator

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/vusb/usbip"
)

// starting is the connection of a program that takes half of openWait from the first
// request to its answer.
type starting struct {
	net.Conn
	once sync.Once
}

func (c *starting) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.once.Do(func() { time.Sleep(openWait / 2) })
	return n, err
}

// On a busy machine the program takes longer to start than a device that runs may take
// for a request.
func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = usbip.Serve(context.Background(), &starting{Conn: theirs}, &echo{out: make(chan []byte, 1)})
		}()
		h := newHost("echo", ours, func() {})
		if err := h.enumerate(); err != nil {
			t.Error(err)
		}
		h.Close()
		<-served
	})
}
