package serial_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/device"
	"openct/internal/serial"
	"openct/internal/serial/serialtest"
)

// patience bounds what must come soon.
const patience = 20 * time.Second

func open(t *testing.T) (*serial.Port, *os.File) {
	t.Helper()
	peer, path := serialtest.Pty(t)
	p, err := serial.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return p, peer
}

func write(t *testing.T, w io.Writer, b []byte) {
	t.Helper()
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
}

// every is all byte values.
func every() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// What is written comes out at the other end unchanged, both ways: the line is
// raw, whatever its last user left.
func TestRaw(t *testing.T) {
	for _, tt := range []struct {
		name   string
		params serial.Params
	}{
		{"default", serial.Default},
		{"parity unchecked", serial.Params{Speed: 9600, Parity: serial.Even, StopBits: 2}},
		{"parity checked", serial.Params{Speed: 115200, Parity: serial.Odd, CheckParity: true}},
		{"odd speed", serial.Params{Speed: 28676}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, peer := open(t)
			if err := p.Set(tt.params); err != nil {
				t.Fatal(err)
			}
			if err := p.Write(context.Background(), every()); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 256)
			if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, every()) {
				t.Fatalf("the peer got % x, %v", got, err)
			}
			write(t, peer, every())
			clear(got)
			n, err := serial.ReadFull(context.Background(), p, got, patience)
			if err != nil || !bytes.Equal(got[:n], every()) {
				t.Errorf("got % x, %v", got[:n], err)
			}
		})
	}
}

// settings are what the kernel has for the line at path.
func settings(t *testing.T, peer *os.File) *unix.Termios {
	t.Helper()
	c, err := peer.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var tio *unix.Termios
	if cerr := c.Control(func(fd uintptr) { tio, err = unix.IoctlGetTermios(int(fd), unix.TCGETS2) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return tio
}

func TestSet(t *testing.T) {
	for _, tt := range []struct {
		name   string
		params serial.Params
		want   error
		stop   uint32 // flags
		speed  uint32
	}{
		{"a usual speed", serial.Params{Speed: 115200, StopBits: 2}, nil, unix.CSTOPB, 115200},
		{"any speed", serial.Params{Speed: 10753}, nil, 0, 10753},
		{"a high speed", serial.Params{Speed: 344086, Parity: serial.Even}, nil, 0, 344086},
		{"no speed", serial.Params{}, serial.ErrUnsupported, 0, 9600},
		{"nine bits", serial.Params{Speed: 9600, Bits: 9}, serial.ErrUnsupported, 0, 9600},
		{"three stop bits", serial.Params{Speed: 9600, StopBits: 3}, serial.ErrUnsupported, 0, 9600},
		{"no such parity", serial.Params{Speed: 9600, Parity: 3}, serial.ErrUnsupported, 0, 9600},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, peer := open(t)
			if err := p.Set(tt.params); !errors.Is(err, tt.want) {
				t.Errorf("Set: %v, want %v", err, tt.want)
			}
			tio := settings(t, peer)
			if tio.Ospeed != tt.speed || tio.Ispeed != tt.speed || tio.Cflag&unix.CSTOPB != tt.stop {
				t.Errorf("speed %d/%d, stop bits %#x", tio.Ispeed, tio.Ospeed, tio.Cflag&unix.CSTOPB)
			}
			if tio.Cflag&(unix.CREAD|unix.CLOCAL|unix.HUPCL) != unix.CREAD|unix.CLOCAL|unix.HUPCL || tio.Lflag != 0 || tio.Oflag != 0 {
				t.Errorf("%+v", tio)
			}
		})
	}
}

// The end of the line is noticed while nobody does anything with it, and what
// came before it can still be read.
func TestGone(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before []byte
	}{
		{"idle", nil},
		{"with bytes unread", []byte{0x3B, 0x02}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, peer := open(t)
			ctx := context.Background()
			if tt.before != nil {
				// The first byte read tells that the others have come as well;
				// the kernel throws away what it still has.
				write(t, peer, append([]byte{0xFF}, tt.before...))
				if _, err := p.Read(ctx, make([]byte, 1), patience); err != nil {
					t.Fatal(err)
				}
			}
			if err := peer.Close(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-p.Gone():
			case <-time.After(patience):
				t.Fatal("nobody noticed")
			}
			buf := make([]byte, 8)
			n, err := serial.ReadFull(ctx, p, buf, patience)
			if !bytes.Equal(buf[:n], tt.before) || !errors.Is(err, device.ErrUnplugged) {
				t.Errorf("read % x, %v", buf[:n], err)
			}
			for what, err := range map[string]error{
				"write": p.Write(ctx, []byte{1}),
				"wait":  serial.Wait(ctx, p, patience),
				"set":   p.Set(serial.Params{Speed: 19200}),
			} {
				if !errors.Is(err, device.ErrUnplugged) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

// A read that waits is told of the end at once.
func TestGoneWhileReading(t *testing.T) {
	p, peer := open(t)
	failed := make(chan error)
	go func() {
		_, err := p.Read(context.Background(), make([]byte, 1), patience)
		failed <- err
	}()
	if err := peer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, device.ErrUnplugged) {
		t.Error(err)
	}
}

func TestReadEnds(t *testing.T) {
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, tt := range []struct {
		name    string
		ctx     context.Context
		timeout time.Duration
		want    error
	}{
		{"time over", context.Background(), time.Millisecond, device.ErrTimeout},
		{"no time", context.Background(), 0, device.ErrTimeout},
		{"less than no time", context.Background(), -1, device.ErrTimeout},
		{"nobody wants it", cancelled, patience, context.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, peer := open(t)
			buf := make([]byte, 4)
			n, err := serial.ReadFull(tt.ctx, p, buf, tt.timeout)
			if n != 0 || !errors.Is(err, tt.want) {
				t.Errorf("%d bytes, %v; want %v", n, err, tt.want)
			}
			// The line is as good as before.
			write(t, peer, []byte{1, 2, 3, 4})
			if n, err := serial.ReadFull(context.Background(), p, buf, patience); n != 4 || err != nil {
				t.Errorf("then %d bytes, %v", n, err)
			}
		})
	}
}

func TestReadFullTellsHowMuchCame(t *testing.T) {
	p, peer := open(t)
	write(t, peer, []byte{0x3B, 0x02})
	buf := make([]byte, 4)
	n, err := serial.ReadFull(context.Background(), p, buf, 50*time.Millisecond)
	if n != 2 || !errors.Is(err, device.ErrTimeout) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// Close ends a read, and gives the line back.
func TestClose(t *testing.T) {
	peer, path := serialtest.Pty(t)
	p, err := serial.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := serial.Open(path); !errors.Is(err, device.ErrBusy) {
		t.Errorf("a second open: %v", err)
	}
	failed := make(chan error)
	go func() {
		_, err := p.Read(context.Background(), make([]byte, 1), patience)
		failed <- err
	}()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, device.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	for what, err := range map[string]error{
		"write": p.Write(context.Background(), []byte{1}),
		"flush": p.Flush(serial.Both),
		"set":   p.Set(serial.Default),
	} {
		if !errors.Is(err, device.ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := p.Close(); err != nil {
		t.Errorf("again: %v", err)
	}
	select {
	case <-p.Gone():
		t.Error("a closed line is not a pulled one")
	default:
	}
	again, err := serial.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, peer, []byte{7})
	if n, err := again.Read(context.Background(), make([]byte, 1), patience); n != 1 || err != nil {
		t.Error(n, err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenFails(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, path string
		want       error
	}{
		{"nothing there", filepath.Join(dir, "ttyUSB9"), device.ErrNotFound},
		{"a file", plain, device.ErrNotFound},
		{"another device", "/dev/null", device.ErrNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := serial.Open(tt.path); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

// hold has this test's program open a line and keep it, as another process.
const hold = "SERIAL_TEST_HOLD"

func TestMain(m *testing.M) {
	if path := os.Getenv(hold); path != "" {
		if _, err := serial.Open(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("held")
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test is over
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Who has the line is named.
func TestBusy(t *testing.T) {
	_, path := serialtest.Pty(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), hold+"="+path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "held\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_, err = serial.Open(path)
	if want := fmt.Sprintf("%s: open: device is in use by serial.test (pid %d)", path, cmd.Process.Pid); err == nil || err.Error() != want || !errors.Is(err, device.ErrBusy) {
		t.Errorf("%v, want %s", err, want)
	}
}

// A peer that takes nothing does not hold a write for longer than the line
// would need and a second.
func TestWriteEnds(t *testing.T) {
	p, _ := open(t)
	if err := p.Set(serial.Params{Speed: 16_000_000}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	err := p.Write(context.Background(), make([]byte, 1<<20))
	if took := time.Since(begin); !errors.Is(err, device.ErrTimeout) || took > patience {
		t.Errorf("after %v: %v", took, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := p.Write(ctx, make([]byte, 1<<20)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}
	if err := p.Flush(serial.Out); err != nil {
		t.Error(err)
	}
}

func TestFlush(t *testing.T) {
	p, peer := open(t)
	ctx := context.Background()
	write(t, peer, []byte{1, 2, 3})
	if n, err := p.Read(ctx, make([]byte, 1), patience); n != 1 || err != nil { // so that it has come
		t.Fatal(n, err)
	}
	if err := p.Flush(serial.In); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Read(ctx, make([]byte, 1), time.Millisecond); n != 0 || !errors.Is(err, device.ErrTimeout) {
		t.Errorf("%d bytes are left, %v", n, err)
	}
}

// A pseudo-terminal has no modem lines, and a break does nothing to it.
func TestWithoutModemLines(t *testing.T) {
	p, _ := open(t)
	if err := p.SetLines(false, true); err != nil {
		t.Error(err)
	}
	if _, err := p.Lines(); !errors.Is(err, serial.ErrNoLines) {
		t.Error(err)
	}
	if err := p.Break(context.Background(), time.Millisecond); err != nil {
		t.Error(err)
	}
}

// A change of the speed waits as long as the line takes for what was written: an adapter
// keeps what the kernel has given away.
func TestDrain(t *testing.T) {
	p, _ := open(t)
	if err := p.Set(serial.Params{Speed: 1200}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := p.Write(context.Background(), make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	if err := p.Set(serial.Params{Speed: 9600}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 100*time.Millisecond {
		t.Errorf("12 bytes at 1200 bit/s took %v", took)
	}
}
