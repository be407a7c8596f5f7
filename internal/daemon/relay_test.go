package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"openct/internal/config"
	"openct/internal/devname"
	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/vusb/card"
)

// relayed serves reader 0 of another handler's directory, in a directory of its own.
// It need not be there.
func relayed(t *testing.T, far string, change ...func(*Options)) *served {
	t.Helper()
	s := &served{t: t, dir: initialised(t), done: make(chan error, 1)}
	ready := make(chan struct{})
	cfg := config.Default()
	cfg.LockWait = 0
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	o := Options{
		Target: devname.Target{Driver: "openct", Type: devname.TypeUnix, Path: socket.ReaderPath(far, 0)},
		Dir:    s.dir, Config: cfg, Log: slog.New(slog.DiscardHandler),
		Ready: func() { close(ready) },
	}
	for _, f := range change {
		f(&o)
	}
	go func() { s.done <- Run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		s.wait()
	})
	select {
	case <-ready:
	case err := <-s.done:
		t.Fatalf("daemon ended at once: %v", err)
	case <-time.After(patience):
		t.Fatal("daemon does not get ready")
	}
	return s
}

// await waits until the entry of reader 0 is as wanted, and until there is a socket
// if it is in use: a handler takes the entry first.
func (s *served) await(what string, good func(status.Entry) bool) {
	s.t.Helper()
	is := func() bool {
		e := entry(s.t, s.dir, 0)
		_, err := os.Stat(socket.ReaderPath(s.dir, 0))
		return good(e) && e.InUse() == (err == nil)
	}
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not %s: %+v", what, entry(s.t, s.dir, 0))
		}
	}
}

func quick(o *Options) { o.Config.LockWait = 0 }

func TestRelay(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	farDir := initialised(t)
	near := relayed(t, farDir) // before there is anything
	if e := entry(t, near.dir, 0); e.InUse() {
		t.Fatalf("a reader that is not there has an entry: %+v", e)
	}
	far := start(t, farDir, card.NewEcho(), quick)
	near.await("served", status.Entry.InUse)
	e := entry(t, near.dir, 0)
	if !strings.HasPrefix(e.Name, "Aladdin eToken PRO 64k at ") || !e.Present(0) || e.Slots != 1 {
		t.Errorf("entry %+v", e)
	}

	c, there := near.client(0), far.client(0)
	if _, err := c.Transact(ctx, 0, []byte{0, 0xA4, 0, 0}); !errors.Is(err, socket.Generic) {
		t.Errorf("before a reset: %v", err)
	}
	atr, err := c.Reset(ctx, 0)
	same, err2 := there.Reset(ctx, 0)
	if err != nil || err2 != nil || len(atr) == 0 || !bytes.Equal(atr, same) {
		t.Errorf("ATR % x (%v), at the far end % x (%v)", atr, err, same, err2)
	}
	if err := c.SetProtocol(ctx, 0, 1); err != nil {
		t.Errorf("T=1: %v", err)
	}
	if err := c.SetProtocol(ctx, 0, 0); !errors.Is(err, socket.NotSupported) {
		t.Errorf("T=0: %v", err)
	}
	for _, apdu := range [][]byte{{0, 0xEE, 0, 20}, longest(300)} {
		resp, err := c.Transact(ctx, 0, apdu)
		same, err2 := there.Transact(ctx, 0, apdu)
		if err != nil || err2 != nil || !bytes.Equal(resp, same) {
			t.Errorf("%d bytes: % x (%v), at the far end % x (%v)", len(apdu), resp, err, same, err2)
		}
	}
	command, response, err := c.Limits(ctx, 0)
	if err != nil || command != socket.MaxAPDU || response != socket.MaxResponse {
		t.Errorf("limits %d, %d, %v", command, response, err)
	}
	if _, err := c.Verify(ctx, 0, socket.PINRequest{APDU: []byte{0, 0x20, 0, 1, 8}}); !errors.Is(err, socket.NotSupported) {
		t.Errorf("PIN without a keypad: %v", err)
	}
	if present, _, err := c.CardStatus(ctx, 0); err != nil || !present {
		t.Errorf("status: %t, %v", present, err)
	}

	far.port.Unplug()
	near.await("unplugged", func(e status.Entry) bool { return !e.InUse() })
	far.wait()
	start(t, farDir, card.NewEcho(), quick)
	near.await("served again", status.Entry.InUse)
	if _, err := near.client(0).Reset(ctx, 0); err != nil {
		t.Errorf("reset after it came back: %v", err)
	}
}

// A lock here is one there.
func TestRelayLocks(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	farDir := initialised(t)
	far := start(t, farDir, newPINCard(), quick)
	near := relayed(t, farDir)
	near.await("served", status.Entry.InUse)
	a, b, there := near.client(0), near.client(0), far.client(0)
	if _, err := a.Reset(ctx, 0); err != nil {
		t.Fatal(err)
	}
	transact := func(c *socket.Client) error {
		_, err := c.Transact(ctx, 0, []byte{0, 0xEE, 0, 2})
		return err
	}
	lock := func(c *socket.Client, exclusive bool) uint32 {
		t.Helper()
		h, err := c.Lock(ctx, 0, exclusive)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, socket.Locked) {
			t.Errorf("%s: %v", what, err)
		}
	}
	unlock := func(c *socket.Client, h uint32) {
		t.Helper()
		if err := c.Unlock(ctx, 0, h); err != nil {
			t.Error(err)
		}
	}

	h := lock(a, true)
	refused("far client beside a lock here", transact(there))
	refused("client here beside a lock here", transact(b))
	unlock(a, h)
	if err := transact(there); err != nil {
		t.Errorf("far client after unlock: %v", err)
	}

	h = lock(there, true)
	refused("client here beside a far lock", transact(a))
	_, err := a.Lock(ctx, 0, true)
	refused("lock beside a far lock", err)
	unlock(there, h)
	h = lock(a, true) // the one that was refused left nothing
	unlock(a, h)

	// Shared locks of one user go together, however many there are.
	h1, h2 := lock(a, false), lock(b, false)
	_, err = there.Lock(ctx, 0, true)
	refused("far exclusive lock beside shared ones", err)
	unlock(a, h1)
	_, err = there.Lock(ctx, 0, true)
	refused("far exclusive lock beside a shared one", err)
	unlock(b, h2)
	unlock(there, lock(there, true))
}

// What a client here has verified under its lock is not verified for far clients
// when it dies.
func TestRelayPINDoesNotOutliveItsOwner(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	farDir := initialised(t)
	far := start(t, farDir, newPINCard(), quick)
	near := relayed(t, farDir)
	near.await("served", status.Entry.InUse)
	a, there := near.client(0), far.client(0)
	if _, err := a.Reset(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Lock(ctx, 0, true); err != nil {
		t.Fatal(err)
	}
	if sw, err := a.Transact(ctx, 0, givePIN); err != nil || !bytes.Equal(sw, verified) {
		t.Fatalf("VERIFY: % x, %v", sw, err)
	}
	a.Close()
	for {
		sw, err := there.Transact(ctx, 0, askPIN)
		if errors.Is(err, socket.Locked) {
			continue // it dies still
		}
		if err != nil || bytes.Equal(sw, verified) {
			t.Errorf("the PIN is still good: % x, %v", sw, err)
		}
		return
	}
}

// A reader that is not there keeps nothing from ending when OpenCT is stopped.
func TestRelayEndsWithOpenCT(t *testing.T) {
	near := relayed(t, initialised(t))
	if err := status.Retire(near.dir); err != nil {
		t.Fatal(err)
	}
	near.wait()
}

// A client's end resets the far card once, however many locks it held.
func TestRelayResetsOnce(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	farDir := initialised(t)
	chip := newPINCard()
	start(t, farDir, chip, quick)
	near := relayed(t, farDir)
	near.await("served", status.Entry.InUse)
	a, b := near.client(0), near.client(0)
	for range 5 {
		if _, err := a.Lock(ctx, 0, true); err != nil {
			t.Fatal(err)
		}
	}
	before := chip.resets.Load()
	a.Close()
	if _, err := b.Lock(ctx, 0, true); err != nil { // waits for a's end
		t.Fatal(err)
	}
	if n := chip.resets.Load() - before; n != 1 {
		t.Errorf("%d resets", n)
	}
}

// Cards that come and go at the far reader do so here.
func TestRelayTellsOfCards(t *testing.T) {
	far := newWatched(t)
	near := relayed(t, filepath.Dir(far.path))
	near.await("served without a card", func(e status.Entry) bool { return e.InUse() && !e.Present(0) })
	far.tell(true)
	near.await("served with its card", func(e status.Entry) bool { return e.Present(0) })
	far.tell(false)
	near.await("without card", func(e status.Entry) bool { return e.InUse() && !e.Present(0) })
}
