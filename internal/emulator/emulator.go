// Package emulator opens devices of the type virtual. The program openct-vtoken
// is the device, in a process of its own: what serves real devices holds none of
// the virtual ones. Both speak USB/IP (Linux, Documentation/usb/usbip_protocol.rst),
// as vhci_hcd does with openct-vtoken; the host's side of it is in host.go.
package emulator

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/devname"
	"openct/internal/usb"
)

// Program is the executable that has the virtual devices. It lies beside this one.
const Program = "openct-vtoken"

const (
	// openWait is how long a device may take to describe itself.
	openWait = 30 * time.Second

	// endWait is how long the program may take to end when its connection has.
	endWait = 2 * time.Second

	maxSaid = 4096 // bytes of what it says on standard error
)

// Open starts openct-vtoken for the driver and the card that a target names, and
// opens the device that it is.
func Open(t devname.Target, log *slog.Logger) (usb.Device, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return open(filepath.Join(filepath.Dir(exe), Program), t, log)
}

func open(program string, t devname.Target, log *slog.Logger) (usb.Device, error) {
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	said := &said{}
	cmd := exec.Command(program, "serve", t.Driver, t.Path)
	cmd.Stdin, cmd.Stderr = theirs, said
	// A terminal's ^C is for the handler, which then ends the device.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = endWait
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		conn.Close()
		return nil, &cli.Hint{
			Err:  &os.PathError{Op: "run", Path: program, Err: err},
			Hint: Program + " serves the devices of type virtual; install it beside ifdhandler",
		}
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		if err := cmd.Wait(); err != nil {
			log.Debug("the virtual device has ended", "error", err)
		}
	}()
	h := newHost(t.String(), conn, p.end)
	conn.SetReadDeadline(time.Now().Add(openWait))
	err = h.enumerate()
	conn.SetReadDeadline(time.Time{})
	if err != nil {
		h.Close()
		<-p.ended
		if text := said.String(); text != "" {
			return nil, fmt.Errorf("%s", text)
		}
		return nil, usb.Wrap("open", t.String(), err)
	}
	return h, nil
}

// process is openct-vtoken at work.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it was waited for
}

// end waits until the program has ended, whose connection is closed.
func (p *process) end() {
	grace := time.NewTimer(endWait)
	defer grace.Stop()
	select {
	case <-p.ended:
	case <-grace.C:
		_ = p.cmd.Process.Kill()
	}
}

// said keeps the beginning of what the program says.
type said struct{ buf bytes.Buffer }

func (s *said) Write(p []byte) (int, error) {
	s.buf.Write(p[:min(len(p), maxSaid-s.buf.Len())])
	return len(p), nil
}

// String is its error without its name.
func (s *said) String() string {
	return strings.TrimPrefix(strings.TrimSpace(s.buf.String()), Program+": ")
}

// socketPair makes the connection.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "usbip device")
	file := os.NewFile(uintptr(fds[0]), "usbip host")
	defer file.Close() // FileConn has its own copy
	if ours, err = net.FileConn(file); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}
