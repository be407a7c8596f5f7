package daemon

import (
	"bytes"
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
)

// requestPacket is a packet with a request.
func requestPacket(payload ...byte) []byte {
	b := make([]byte, socket.HeaderSize, socket.HeaderSize+len(payload))
	socket.PutHeader(b, socket.Header{XID: 1, Count: uint16(len(payload))})
	return append(b, payload...)
}

// A client that brings about one fault after the other does not fill the journal.
func TestFaultsInARow(t *testing.T) {
	var log paper
	s := start(t, initialised(t), card.NewEcho(), func(o *Options) { o.Log = log.logger() })
	c := s.client(0)
	if _, err := c.Reset(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	s.port.Inject(vusb.Fault{On: vusb.Transfer{Control: true, Code: 0x86}, Stall: true, Times: -1})
	const faults = 200
	for range faults {
		if _, err := c.Transact(context.Background(), 0, someAPDU); !errors.Is(err, socket.CommError) {
			t.Fatalf("got %v, want %v", err, socket.CommError)
		}
	}
	failed := func(level string) int {
		return strings.Count(log.text(), "level="+level+" msg=\"request failed\"")
	}
	if warned, all := failed("WARN"), failed("WARN")+failed("DEBUG"); warned < 1 || warned > faults/2 || all != faults {
		t.Errorf("%d warnings of %d faults in the log, %d faults", warned, all, faults)
	}
}

// Clients that break off in any state, and never read, cost themselves alone: others
// are served, and nothing of them is left.
func TestClientsThatBreakOff(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	watch := requestPacket(watchSince0...)
	lock := func(kind byte) []byte {
		return requestPacket(byte(socket.CmdLock), 0, byte(socket.TagLockType), 1, kind)
	}
	transact := requestPacket(append([]byte{byte(socket.CmdTransact), 0, byte(socket.TagCardRequest), 4}, 0, 0xEE, 0, 2)...)
	streams := [][]byte{
		{},
		watch[:5], watch[:13], watch[:len(watch)-1], watch,
		bytes.Repeat(watch, 300),
		lock(1), lock(0), bytes.Repeat(lock(1), 80), bytes.Repeat(append(lock(0), lock(1)...), 100),
		append(lock(1), watch...), append(lock(1), transact...), append(lock(1), transact[:20]...),
		bytes.Repeat(transact, 3), requestPacket(byte(socket.CmdReset), 0),
		bytes.Repeat(requestPacket(byte(socket.CmdLimits), 0), 500),
		bytes.Repeat(requestPacket(byte(socket.CmdLimits), 9), 500),
		bytes.Repeat([]byte{0xFF}, 70000),
	}
	farDir := initialised(t)
	far := start(t, farDir, card.NewEcho(), quick)
	near := relayed(t, farDir)
	near.await("served", status.Entry.InUse)
	const slack = 5 // some of the handlers' own may begin later
	base := runtime.NumGoroutine()
	var all sync.WaitGroup
	for _, s := range []*served{far, near} {
		for n := range 60 {
			stream := streams[n%len(streams)]
			all.Add(1)
			go func() {
				defer all.Done()
				nc, err := net.Dial("unix", socket.ReaderPath(s.dir, 0))
				if err != nil {
					t.Error(err)
					return
				}
				defer nc.Close()
				_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
				_, _ = nc.Write(stream)
				if n%2 == 0 { // some stay until the handler has begun with them
					_ = nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
					_, _ = nc.Read(make([]byte, 1))
				}
			}()
		}
	}
	for range 50 {
		for _, s := range []*served{far, near} {
			c := s.client(0)
			if _, err := c.Reset(ctx, 0); err != nil && !errors.Is(err, socket.Locked) {
				t.Fatal(err)
			}
			if _, err := c.Lock(ctx, 0, false); err != nil && !errors.Is(err, socket.Locked) {
				t.Fatal(err)
			}
			c.Close()
		}
	}
	all.Wait()
	for _, s := range []*served{near, far} {
		c := s.client(0)
		for {
			_, err := c.Lock(ctx, 0, true)
			if err == nil {
				break
			}
			if !errors.Is(err, socket.Locked) {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if _, err := c.Reset(ctx, 0); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > base+slack && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > base+slack {
		b := make([]byte, 1<<20)
		b = b[:runtime.Stack(b, true)]
		t.Errorf("%d goroutines, %d before:\n%s", n, base, b)
	}
	near.detail(func(d status.Detail) bool { return d.Clients == 0 && len(d.Locks) == 0 })
}
