package daemon

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"openct/internal/socket"
)

// echoAPDUs are a command of 5 bytes answered by a status word, and one of 255
// bytes answered by 255 and a status word.
func echoAPDUs() map[string][]byte {
	long := make([]byte, 255)
	copy(long, []byte{0x00, 0xEE, 0x00, 0xFF, 250})
	return map[string][]byte{
		"5":   {0x00, 0xEE, 0x00, 0x00, 0x00},
		"255": long,
	}
}

// BenchmarkAPDU is one APDU from a client through the socket, the daemon, T=1
// and a virtual eToken, and back.
func BenchmarkAPDU(b *testing.B) {
	for size, apdu := range echoAPDUs() {
		for _, clients := range []int{1, 4, 16} {
			b.Run(fmt.Sprintf("bytes=%s/clients=%d", size, clients), func(b *testing.B) {
				h := echoHandler(b)
				server := socket.NewServer(h, socket.Options{})
				l, err := socket.Listen(b.TempDir()+"/0", socket.ListenOptions{UID: -1, GID: -1})
				if err != nil {
					b.Fatal(err)
				}
				go server.Serve(l)
				b.Cleanup(func() { server.Fail(socket.DeviceDisconnected) })
				b.ReportAllocs()
				b.ResetTimer()
				done := make(chan error)
				for i := range clients {
					n := b.N / clients
					if i == 0 {
						n += b.N % clients
					}
					go func() { done <- exchange(l.Path(), apdu, n) }()
				}
				for range clients {
					if err := <-done; err != nil {
						b.Error(err)
					}
				}
			})
		}
	}
}

// exchange is a client without allocations of its own, so that those counted
// are the daemon's.
func exchange(path string, apdu []byte, n int) error {
	nc, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer nc.Close()
	reset, transact := packet(socket.CmdReset, nil), packet(socket.CmdTransact, apdu)
	reply := make([]byte, socket.MaxPacket)
	call := func(packet []byte) error {
		if _, err := nc.Write(packet); err != nil {
			return err
		}
		if _, err := io.ReadFull(nc, reply[:socket.HeaderSize]); err != nil {
			return err
		}
		head := socket.ParseHeader(reply)
		if _, err := io.ReadFull(nc, reply[:head.Count]); err != nil {
			return err
		}
		if head.Error != socket.Success {
			return head.Error
		}
		return nil
	}
	if err := call(reset); err != nil {
		return err
	}
	for range n {
		if err := call(transact); err != nil {
			return err
		}
	}
	return nil
}

func packet(cmd socket.Command, apdu []byte) []byte {
	b := make([]byte, socket.HeaderSize+2, socket.MaxPacket)
	b[socket.HeaderSize] = byte(cmd)
	args := socket.NewBuilder(b, true)
	args.Bytes(socket.TagCardRequest, apdu)
	b = args.Built()
	socket.PutHeader(b, socket.Header{XID: 1, Count: uint16(len(b) - socket.HeaderSize)})
	return b
}

// BenchmarkDaemon is the daemon's own share: from a parsed request to a built
// reply, without sockets. The virtual device's share is in it.
func BenchmarkDaemon(b *testing.B) {
	for size, apdu := range echoAPDUs() {
		b.Run("bytes="+size, func(b *testing.B) {
			h := echoHandler(b)
			c := h.Connect(&socket.Conn{ID: 1})
			args := socket.NewBuilder(make([]byte, 0, socket.MaxPacket), true)
			args.Bytes(socket.TagCardRequest, apdu)
			tlv, err := socket.ParseTLV(args.Built())
			if err != nil {
				b.Fatal(err)
			}
			req := &socket.Request{Cmd: socket.CmdTransact, Args: tlv}
			out := make([]byte, 0, socket.MaxPacket)
			reply := &socket.Reply{}
			call := func(r *socket.Request) {
				reply.Builder = socket.NewBuilder(out, true)
				if code := c.Handle(context.Background(), r, reply); code != socket.Success {
					b.Fatal(code)
				}
			}
			call(&socket.Request{Cmd: socket.CmdReset})
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				call(req)
			}
		})
	}
}
