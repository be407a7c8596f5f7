package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"openct/internal/lock"
	"openct/internal/notify"
	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
)

var someAPDU = []byte{0x00, 0xEE, 0x00, 0x02}

// Another client's exclusive lock keeps the card from everybody else, for
// every command that touches it (socket/PROTOCOL.md, "Locks").
func TestLocksAreEnforced(t *testing.T) {
	pin := socket.PINRequest{APDU: []byte{0x00, 0x20, 0x00, 0x80, 0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}}
	commands := []struct {
		name string
		run  func(context.Context, *socket.Client) error
	}{
		{"transact", func(ctx context.Context, c *socket.Client) error { _, err := c.Transact(ctx, 0, someAPDU); return err }},
		{"transact old", func(ctx context.Context, c *socket.Client) error {
			_, err := c.TransactOld(ctx, 0, someAPDU)
			return err
		}},
		{"reset", func(ctx context.Context, c *socket.Client) error { _, err := c.Reset(ctx, 0); return err }},
		{"eject", func(ctx context.Context, c *socket.Client) error { return c.Eject(ctx, 0, 0, "") }},
		{"set protocol", func(ctx context.Context, c *socket.Client) error { return c.SetProtocol(ctx, 0, 1) }},
		{"verify", func(ctx context.Context, c *socket.Client) error { _, err := c.Verify(ctx, 0, pin); return err }},
		{"change PIN", func(ctx context.Context, c *socket.Client) error { _, err := c.ChangePIN(ctx, 0, pin); return err }},
		{"read memory", func(ctx context.Context, c *socket.Client) error { _, err := c.ReadMemory(ctx, 0, 0, 4); return err }},
		{"write memory", func(ctx context.Context, c *socket.Client) error {
			return c.WriteMemory(ctx, 0, 0, []byte{1})
		}},
		{"lock", func(ctx context.Context, c *socket.Client) error { _, err := c.Lock(ctx, 0, false); return err }},
	}
	s := start(t, initialised(t), card.NewEcho(), func(o *Options) { o.Config.LockWait = 0 })
	ctx := context.Background()
	holder, other := s.client(0), s.client(0)
	if _, err := holder.Reset(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Lock(ctx, 0, true); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range commands {
		t.Run(cmd.name, func(t *testing.T) {
			if err := cmd.run(ctx, other); !errors.Is(err, socket.Locked) {
				t.Errorf("other client: got %v, want %v", err, socket.Locked)
			}
		})
	}
	if _, err := holder.Transact(ctx, 0, someAPDU); err != nil {
		t.Errorf("holder: %v", err)
	}
	if _, _, err := other.CardStatus(ctx, 0); err != nil {
		t.Errorf("status needs no card and heeds no lock: %v", err)
	}
}

func TestLocksCanBeAdvisory(t *testing.T) {
	s := start(t, initialised(t), card.NewEcho(), func(o *Options) { o.Config.EnforceLocks = false })
	ctx := context.Background()
	holder, other := s.client(0), s.client(0)
	if _, err := holder.Lock(ctx, 0, true); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Reset(ctx, 0); err != nil {
		t.Errorf("with lock.enforce off: %v", err)
	}
}

// A short lock of somebody else costs patience, not an error.
func TestRequestWaitsForALock(t *testing.T) {
	s := start(t, initialised(t), card.NewEcho(), func(o *Options) { o.Config.LockWait = patience })
	ctx := context.Background()
	holder, other := s.client(0), s.client(0)
	if _, err := holder.Reset(ctx, 0); err != nil {
		t.Fatal(err)
	}
	handle, err := holder.Lock(ctx, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := other.Reset(ctx, 0)
		done <- err
	}()
	// Whether it comes to wait before the unlock or after it, it must succeed;
	// that it does not get through earlier is TestLocksAreEnforced's.
	if _, err := holder.Transact(ctx, 0, someAPDU); err != nil {
		t.Errorf("holder: %v", err)
	}
	if err := holder.Unlock(ctx, 0, handle); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("after the unlock: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("reset still waits")
	}
}

// A client that dies with a lock and an APDU under way leaves neither behind.
func TestDeadClientLeavesNoLock(t *testing.T) {
	s := start(t, initialised(t), card.NewEcho(), nil)
	ctx := context.Background()
	dying, other := s.client(0), s.client(0)
	if _, err := dying.Reset(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := dying.Lock(ctx, 0, true); err != nil {
		t.Fatal(err)
	}
	dying.Close()
	if _, err := other.Lock(ctx, 0, true); err != nil {
		t.Errorf("lock after the holder died: %v", err)
	}
}

// pinCard is the echo card with a PIN: VERIFY with data gives it, without data
// asks whether it was given. A reset takes it back.
type pinCard struct {
	*card.Echo
	verified bool
	resets   atomic.Int32
}

func newPINCard() *pinCard { return &pinCard{Echo: card.NewEcho()} }

func (c *pinCard) Reset() {
	c.verified = false
	c.resets.Add(1)
	c.Echo.Reset()
}

func (c *pinCard) Transmit(apdu []byte) []byte {
	switch {
	case apdu[1] != 0x20:
		return c.Echo.Transmit(apdu)
	case len(apdu) > 5:
		c.verified = true
	case !c.verified:
		return []byte{0x63, 0xC3}
	}
	return []byte{0x90, 0x00}
}

var (
	givePIN  = []byte{0x00, 0x20, 0x00, 0x80, 0x04, '1', '2', '3', '4'}
	askPIN   = []byte{0x00, 0x20, 0x00, 0x80}
	verified = []byte{0x90, 0x00}
)

// What a client has verified while it held a lock is nobody else's after its
// end, whatever the next one does first.
func TestPINDoesNotOutliveItsOwner(t *testing.T) {
	const shared, exclusive = false, true
	nothing := func(context.Context, *socket.Client) error { return nil }
	tests := []struct {
		name     string
		lock     bool
		first    func(context.Context, *socket.Client) error // of the next client
		verified bool                                        // the PIN is still good afterwards
		resets   int32                                       // of the card after the end
	}{
		{"at once", exclusive, nothing, false, 1},
		{"after a reset", exclusive, func(ctx context.Context, c *socket.Client) error { _, err := c.Reset(ctx, 0); return err }, false, 1},
		{"after a protocol", exclusive, func(ctx context.Context, c *socket.Client) error { return c.SetProtocol(ctx, 0, 1) }, false, 1},
		{"with the old command", exclusive, func(ctx context.Context, c *socket.Client) error {
			_, err := c.TransactOld(ctx, 0, someAPDU)
			return err
		}, false, 1},
		{"after an eject", exclusive, func(ctx context.Context, c *socket.Client) error { return c.Eject(ctx, 0, 0, "") }, false, 1},
		{"with a lock", exclusive, func(ctx context.Context, c *socket.Client) error { _, err := c.Lock(ctx, 0, true); return err }, false, 1},
		{"a shared lock protects nothing", shared, nothing, true, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			chip := newPINCard()
			s := start(t, initialised(t), chip, nil)
			ctx := context.Background()
			owner, next := s.client(0), s.client(0)
			if _, err := owner.Reset(ctx, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := owner.Lock(ctx, 0, tt.lock); err != nil {
				t.Fatal(err)
			}
			if sw, err := owner.Transact(ctx, 0, givePIN); err != nil || !bytes.Equal(sw, verified) {
				t.Fatalf("VERIFY: % X, %v", sw, err)
			}
			before := chip.resets.Load()
			owner.Close()
			if _, err := next.Lock(ctx, 0, tt.lock); err != nil { // waits for the owner's end
				t.Fatal(err)
			}
			if err := tt.first(ctx, next); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				sw, err := next.Transact(ctx, 0, askPIN)
				if err != nil || bytes.Equal(sw, verified) != tt.verified {
					t.Errorf("is the PIN still good? % X, %v", sw, err)
				}
			}
			if n := chip.resets.Load() - before; n != tt.resets {
				t.Errorf("%d resets, want %d", n, tt.resets)
			}
		})
	}
}

// A card that cannot be reset after its owner's end is nobody's, until it can.
func TestCardThatCannotBeResetIsRefused(t *testing.T) {
	chip := newPINCard()
	s := start(t, initialised(t), chip, nil)
	ctx := context.Background()
	owner, next := s.client(0), s.client(0)
	if _, err := owner.Reset(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Lock(ctx, 0, true); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Transact(ctx, 0, givePIN); err != nil {
		t.Fatal(err)
	}
	owner.Close()
	if _, err := next.Lock(ctx, 0, true); err != nil {
		t.Fatal(err)
	}
	s.port.Inject(vusb.Fault{On: vusb.Transfer{Control: true, Code: 0x81}, Stall: true, Times: -1})
	if sw, err := next.Transact(ctx, 0, askPIN); !errors.Is(err, socket.CommError) {
		t.Errorf("got % X, %v, want %v", sw, err, socket.CommError)
	}
	if _, err := next.Reset(ctx, 0); !errors.Is(err, socket.CommError) {
		t.Errorf("got %v, want %v", err, socket.CommError)
	}
	s.port.Heal()
	if sw, err := next.Transact(ctx, 0, askPIN); err != nil || bytes.Equal(sw, verified) {
		t.Errorf("is the PIN still good? % X, %v", sw, err)
	}
}

// What people see: who is connected, who holds a lock, what went wrong.
func TestSideFileTells(t *testing.T) {
	s := start(t, initialised(t), card.NewEcho(), nil)
	ctx := context.Background()
	c := s.client(0)
	if _, err := c.Reset(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Lock(ctx, 0, true); err != nil {
		t.Fatal(err)
	}
	s.detail(func(d status.Detail) bool { return len(d.Locks) == 1 })
	s.port.Inject(vusb.Fault{On: vusb.Transfer{Control: true, Code: 0x86}, Stall: true})
	if _, err := c.Transact(ctx, 0, someAPDU); !errors.Is(err, socket.CommError) {
		t.Fatalf("got %v, want %v", err, socket.CommError)
	}
	// Who was answered with an error finds the reason at the first look.
	d := s.detail(func(status.Detail) bool { return true })
	if d.Clients != 1 || d.Locks[0].PID != os.Getpid() || !d.Locks[0].Exclusive || d.Driver != "etoken64" {
		t.Errorf("side file: %+v", d)
	}
	if !strings.Contains(d.LastError, "stall") {
		t.Errorf("last error %q does not say what happened", d.LastError)
	}
}

// The status line stays a line, and the last error in it, however many locks one
// client collects.
func TestStatusTextIsShort(t *testing.T) {
	dir := initialised(t)
	lines := make(chan string, 1000)
	s := start(t, dir, card.NewEcho(), func(o *Options) { o.Notify = listenNotify(t, lines) })
	c := s.client(0)
	for range lock.MaxPerClient {
		if _, err := c.Lock(context.Background(), 0, true); err != nil {
			t.Fatal(err)
		}
	}
	for {
		select {
		case line := <-lines:
			if n := strings.Count(line, " lock by pid "); n > maxTextLocks {
				t.Fatalf("the line names %d locks: %q", n, line)
			}
			if strings.Contains(line, ", further locks: 60") {
				return
			}
		case <-time.After(patience):
			t.Fatal("the line never tells of the locks")
		}
	}
}

// listenNotify is systemd for a handler: what it is told comes out of lines.
func listenNotify(t *testing.T, lines chan<- string) *notify.Notifier {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			select {
			case lines <- string(b[:n]):
			default:
			}
		}
	}()
	return notify.FromEnv(slog.New(slog.DiscardHandler))
}

// detail reads the side file until it says what is waited for.
func (s *served) detail(good func(status.Detail) bool) status.Detail {
	s.t.Helper()
	f, err := status.OpenReadOnly(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	var d status.Detail
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		e, err := f.Entry(0)
		if err != nil {
			s.t.Fatal(err)
		}
		if d, err = f.ReadDetail(e); err == nil && good(d) {
			return d
		}
	}
	s.t.Fatalf("side file never got there: %+v", d)
	return d
}
