//go:build vhci

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"openct/internal/usb"
	"openct/internal/usb/usbfs"
)

// lines hands on each line the command prints.
type lines chan []byte

func (l lines) Write(p []byte) (int, error) {
	l <- bytes.Clone(p)
	return len(p), nil
}

// The whole command on a kernel with vhci_hcd, see test/vm/tiera.
func TestRealKernel(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "ctl")
	out, status := make(lines, 8), make(chan int, 1)
	go func() {
		status <- run([]string{"plug", "--card", "echo", "--serial", "42", "--control", sock}, out, os.Stderr)
	}()
	var seen []string
	for range 3 {
		var as plugged
		if err := json.Unmarshal(<-out, &as); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, as.DevNode)
		w, err := usbfs.Look(as.DevNode)
		if err != nil {
			t.Fatal(err)
		}
		desc, err := usb.ParseDescriptors(w.Descriptors)
		if err != nil || desc.ID() != "0529:0600" {
			t.Errorf("%v, %v", desc, err)
		}
		serial, err := os.ReadFile(filepath.Join("/sys/bus/usb/devices", as.BusID, "serial"))
		if err != nil || string(serial) != "42\n" {
			t.Errorf("serial %q, %v", serial, err)
		}
		start := time.Now()
		if _, err := call(sock, "unplug"); err != nil {
			t.Fatal(err)
		}
		<-w.Gone()
		gone := time.Since(start)
		w.Close()
		start = time.Now()
		if _, err := call(sock, "plug"); err != nil {
			t.Fatal(err)
		}
		t.Logf("gone after %v, back after %v", gone, time.Since(start))
	}
	if seen[0] == seen[1] || seen[1] == seen[2] {
		t.Errorf("a replugged token has its old node: %v", seen)
	}
	var as plugged
	if err := json.Unmarshal(<-out, &as); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if s := <-status; s != 0 {
		t.Errorf("status %d after SIGTERM", s)
	}
	if _, err := os.Stat(as.DevNode); !os.IsNotExist(err) {
		t.Errorf("node after the end: %v", err)
	}
	if _, err := os.Stat(sock); !os.IsNotExist(err) {
		t.Errorf("control socket after the end: %v", err)
	}
}
