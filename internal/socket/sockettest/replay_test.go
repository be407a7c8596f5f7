package sockettest_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"openct/internal/lock"
	"openct/internal/socket"
	"openct/internal/socket/sockettest"
)

// recording is the daemon's copy of the exchanges; the daemon's own test plays
// it against the real thing.
const recording = "../../daemon/testdata/exchanges.jsonl"

// model is a handler of one reader with the echo card, as small as possible:
// it shows that recording, exceptions, server and lock table agree.
type model struct {
	locks lock.Table

	mu    sync.Mutex
	ready bool // the card was reset
}

const lockDelay = 100 * time.Millisecond

func (m *model) Connect(c *socket.Conn) socket.Session {
	return &client{m, lock.Client{ID: c.ID, UID: c.UID, PID: c.PID, HungUp: c.HungUp}}
}

// client is one client of the model.
type client struct {
	*model
	who lock.Client
}

func (c *client) Disconnect() { c.locks.Release(c.who.ID) }

func (c *client) Handle(ctx context.Context, req *socket.Request, reply *socket.Reply) socket.Code {
	m := c.model
	slot := int(req.Unit)
	switch req.Cmd {
	case socket.CmdStatus:
		switch slot {
		case socket.UnitReader:
			reply.Text(socket.TagReaderName, "Aladdin eToken PRO 64k")
			reply.Bytes(socket.TagReaderUnits, []byte{0})
		case 0:
			reply.Int(socket.TagCardStatus, socket.StatusPresent)
		default:
			return socket.InvalidSlot
		}
		return socket.Success
	case socket.CmdOutput:
		if slot != socket.UnitReader && slot != socket.UnitDisplay {
			return socket.InvalidArg
		}
		return socket.NotSupported
	case socket.CmdTransactOld:
		if _, err := m.locks.Wait(ctx, slot, c.who, lock.Exclusive, 0); err != nil {
			return socket.Locked
		}
		resp, code := m.transact(slot, req.Raw)
		reply.Raw(resp)
		if code != socket.Success {
			return socket.Generic
		}
		return code
	case socket.CmdChangePIN, socket.CmdInput:
		return socket.InvalidCmd
	case socket.CmdLock, socket.CmdUnlock, socket.CmdReset, socket.CmdRequest, socket.CmdEject, socket.CmdVerify,
		socket.CmdMemoryRead, socket.CmdMemoryWrite, socket.CmdTransact, socket.CmdSetProtocol:
	default:
		return socket.InvalidCmd
	}
	if slot != 0 {
		return socket.InvalidSlot
	}
	switch req.Cmd {
	case socket.CmdLock:
		return c.lock(ctx, req, reply)
	case socket.CmdUnlock:
		h, ok := req.Args.Int(socket.TagLock)
		if !ok {
			return socket.MissingArg
		}
		if _, err := m.locks.Unlock(slot, c.who, h); err != nil {
			return socket.NoLock
		}
		return socket.Success
	}
	if _, err := m.locks.Wait(ctx, slot, c.who, lock.Shared, lockDelay); err != nil {
		return socket.Locked
	}
	need := func(code socket.Code, tags ...socket.Tag) socket.Code {
		for _, tag := range tags {
			if _, ok := req.Args.Bytes(tag); !ok {
				return socket.MissingArg
			}
		}
		return code
	}
	switch req.Cmd {
	case socket.CmdReset, socket.CmdRequest:
		m.setReady(true)
		reply.Bytes(socket.TagATR, sockettest.EchoATR())
	case socket.CmdVerify:
		return need(socket.NotSupported, socket.TagPINData)
	case socket.CmdMemoryRead:
		return need(socket.NotSupported, socket.TagAddress, socket.TagCount)
	case socket.CmdMemoryWrite:
		return need(socket.NotSupported, socket.TagAddress, socket.TagData)
	case socket.CmdSetProtocol:
		p, _ := req.Args.Int(socket.TagProtocol)
		if p == 0x63 {
			return socket.Generic
		}
		if p == ^uint32(0) {
			m.setReady(false) // C's "driver default" is T=0, which this card is not
		}
		return need(socket.Success, socket.TagProtocol)
	case socket.CmdTransact:
		apdu, ok := req.Args.Bytes(socket.TagCardRequest)
		if !ok {
			return socket.MissingArg
		}
		resp, code := m.transact(slot, apdu)
		reply.Bytes(socket.TagCardResponse, resp)
		return code
	}
	return socket.Success
}

func (c *client) lock(ctx context.Context, req *socket.Request, reply *socket.Reply) socket.Code {
	kind, ok := req.Args.Int(socket.TagLockType)
	if !ok {
		return socket.MissingArg
	}
	h, err := c.locks.Lock(ctx, 0, c.who, kind == socket.LockExclusive)
	if err != nil {
		return socket.Locked
	}
	reply.Int(socket.TagLock, h)
	return socket.Success
}

func (m *model) setReady(ready bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready = ready
}

func (m *model) transact(slot int, apdu []byte) ([]byte, socket.Code) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case slot != 0:
		return nil, socket.InvalidSlot
	case !m.ready || len(apdu) < 4:
		return nil, socket.Generic
	}
	return sockettest.Echo(int(apdu[2])<<8 | int(apdu[3])), socket.Success
}

// serve runs the model at a socket that every user can reach.
func serve(t *testing.T, cred func(net.Conn) (socket.Cred, error)) (path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "openct")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "0")
	l, err := socket.Listen(path, socket.ListenOptions{UID: -1, GID: -1})
	if err != nil {
		t.Fatal(err)
	}
	srv := socket.NewServer(&model{}, socket.Options{Credentials: cred})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := srv.Wait(ctx); err != nil {
			t.Errorf("Wait: %v", err)
		}
		if err := <-done; !errors.Is(err, socket.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return path
}

func TestReplayWithNamedUsers(t *testing.T) {
	users := sockettest.NewUsers()
	path := serve(t, users.Credentials)
	sockettest.Play(t, recording, users.Dialer(path), sockettest.Exceptions())
}

// TestReplayWithRealUsers asks the kernel for the users, which takes root;
// others see that they cannot be somebody else.
func TestReplayWithRealUsers(t *testing.T) {
	path := serve(t, nil)
	if os.Getuid() != 0 {
		if nc, err := sockettest.DialAs(path, os.Getuid()+1); err == nil {
			nc.Close()
			t.Error("an ordinary user connected as another one")
		}
		return
	}
	sockettest.Play(t, recording, func(_ string, uid int) (net.Conn, error) {
		return sockettest.DialAs(path, uid)
	}, sockettest.Exceptions())
}
