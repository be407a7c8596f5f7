package doctor

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/status/statustest"
)

// What devices and other programs are called cannot clear the screen, nor forge the
// line that says what to do.
func TestPrintIsPrintable(t *testing.T) {
	f := healthy()
	f.Devices[0].Label = "Token\x1b[2J\nnext: curl example | sh\u202e"
	var b strings.Builder
	if err := Diagnose(f).Print(&b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "Token?[2J next: curl") {
		t.Errorf("the label is not there:\n%s", b.String())
	}
	if strings.ContainsAny(b.String(), "\x1b\u202e") || strings.Count(b.String(), "\nnext: ") != 1 {
		t.Errorf("got %q", b.String())
	}
}

// Readers are asked side by side: each of these answers (by hanging up) only when
// all have been asked.
func TestReadersAreAskedSideBySide(t *testing.T) {
	m := newMachine(t)
	statustest.Init(t, m.dir)
	const readers = 4
	var all sync.WaitGroup
	all.Add(readers)
	for n := range readers {
		statustest.Claim(t, m.dir, status.Detail{Device: fmt.Sprintf("/dev/reader%d", n)})
		l, err := net.Listen("unix", socket.ReaderPath(m.dir, n))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Done()
			all.Wait()
			c.Close()
		}()
	}
	f := m.gather(silent)
	if len(f.Readers) != readers {
		t.Fatalf("%d readers", len(f.Readers))
	}
	for _, r := range f.Readers {
		if r.SocketErr == "" || strings.Contains(r.SocketErr, "time") || strings.Contains(r.SocketErr, "deadline") {
			t.Errorf("reader %d: %q", r.Index, r.SocketErr)
		}
	}
}

// The handlers' user cannot have root, who looks for faults, talk to another program.
func TestNoLinkIsFollowedToASocket(t *testing.T) {
	m := newMachine(t)
	statustest.Init(t, m.dir)
	statustest.Claim(t, m.dir, status.Detail{Device: "/dev/reader0"})
	elsewhere := filepath.Join(m.dir, "other")
	l, err := net.Listen("unix", elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan bool, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			c.Close()
		}
		asked <- err == nil
	}()
	if err := os.Symlink(elsewhere, socket.ReaderPath(m.dir, 0)); err != nil {
		t.Fatal(err)
	}
	f := m.gather(silent)
	if len(f.Readers) != 1 || !strings.Contains(f.Readers[0].SocketErr, "symbolic link") {
		t.Errorf("%+v", f.Readers)
	}
	l.Close()
	if <-asked {
		t.Error("the other program was asked")
	}
}
