//go:build go1.25

package daemon

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/lock"
	"openct/internal/reader"
	"openct/internal/socket"
)

// queue is a handler whose clock is the test's, with a card that was reset.
func queue(t *testing.T, patience time.Duration) (*handler, *reader.Slot) {
	t.Helper()
	h := echoHandler(t)
	h.patience = patience
	slot, err := h.reader.Slot(0)
	if err != nil {
		t.Fatal(err)
	}
	return h, slot
}

// resetBy asks for a reset as client id; the answer comes on the channel.
func (h *handler) resetBy(id uint64) <-chan socket.Code {
	done := make(chan socket.Code, 1)
	go func() {
		reply := &socket.Reply{Builder: socket.NewBuilder(make([]byte, 0, socket.MaxPayload), true)}
		done <- h.Connect(&socket.Conn{ID: id}).Handle(context.Background(), &socket.Request{Cmd: socket.CmdReset}, reply)
	}()
	return done
}

// A lock that is granted while a request waits for the card counts: nobody
// gets between a client and its lock because he queued before.
func TestLockGrantedWhileWaitingForTheCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, slot := queue(t, 0)
		if err := slot.Enter(context.Background()); err != nil { // the card is busy
			t.Fatal(err)
		}
		queued := h.resetBy(1)
		synctest.Wait()
		if _, err := h.locks.Lock(context.Background(), 0, lock.Client{ID: 2}, true); err != nil {
			t.Fatal(err)
		}
		slot.Leave()
		if code := <-queued; code != socket.Locked {
			t.Errorf("got %v, want %v", code, socket.Locked)
		}
	})
}

// Patience with a lock is a wait, of the length that is configured, and not a
// busy one: while it lasts, nothing runs.
func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const patience = 2 * time.Second
		h, _ := queue(t, patience)
		if _, err := h.locks.Lock(context.Background(), 0, lock.Client{ID: 2}, true); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		waiting := h.resetBy(1)
		synctest.Wait()
		select {
		case code := <-waiting:
			t.Fatalf("refused at once: %v", code)
		default:
		}
		if code := <-waiting; code != socket.Locked {
			t.Errorf("got %v, want %v", code, socket.Locked)
		}
		if waited := time.Since(begin); waited != patience {
			t.Errorf("waited %v, want %v", waited, patience)
		}
	})
}

// A card's response, which may be a secret, is not kept longer than it takes to
// answer.
func TestResponsesAreCleared(t *testing.T) {
	h, _ := queue(t, 0)
	c := h.Connect(&socket.Conn{ID: 1}).(*client)
	reply := &socket.Reply{}
	for _, req := range []*socket.Request{
		{Cmd: socket.CmdReset},
		{Cmd: socket.CmdTransactOld, Raw: []byte{0x00, 0xEE, 0x00, 0xF0, 0x00}},
	} {
		reply.Builder = socket.NewBuilder(make([]byte, 0, socket.MaxPayload), true)
		if code := c.Handle(context.Background(), req, reply); code != socket.Success {
			t.Fatalf("%s: %v", commands[req.Cmd].name, code)
		}
	}
	if n := reply.Len(); n != 0xF0+2 {
		t.Fatalf("response of %d bytes", n)
	}
	if i := bytes.IndexFunc(c.response[:cap(c.response)], func(r rune) bool { return r != 0 }); i >= 0 {
		t.Errorf("response left at byte %d", i)
	}
}
