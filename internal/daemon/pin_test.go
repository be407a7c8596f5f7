package daemon

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/vusb"
)

// paper is a log, and whatever else is written down.
type paper struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (p *paper) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.Write(b)
}

func (p *paper) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(p, &slog.HandlerOptions{Level: slog.LevelDebug - 100}))
}

// keep copies the files of a directory.
func (p *paper) keep(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, ".*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, filepath.Join(dir, "status")) {
		b, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a reader has left
			t.Fatal(err)
		}
		_, _ = p.Write(b)
	}
}

func (p *paper) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.String()
}

// forms are the ways in which a program may write bytes down.
func forms(secret []byte) []string {
	var decimal []string
	for _, c := range secret {
		decimal = append(decimal, fmt.Sprint(c))
	}
	upper, spaced := strings.ToUpper(hex.EncodeToString(secret)), fmt.Sprintf("% x", secret)
	return []string{
		string(secret), hex.EncodeToString(secret), upper, spaced, strings.ToUpper(spaced), strings.ReplaceAll(spaced, " ", ":"),
		base64.StdEncoding.EncodeToString(secret), strings.Join(decimal, " "), strings.Join(decimal, ","),
	}
}

// A PIN is written down nowhere, at any level of the log, on its way through a handler
// and through one whose reader another handler serves, whatever comes of the command.
func TestPINIsWrittenDownNowhere(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pin := []byte("7Q3Z91XK")
	verify := append([]byte{0x00, 0x20, 0x00, 0x80, byte(len(pin))}, pin...)
	var log paper
	farDir := initialised(t)
	far := start(t, farDir, newPINCard(), func(o *Options) { quick(o); o.Log = log.logger() })
	near := relayed(t, farDir, func(o *Options) { o.Log = log.logger() })
	near.await("served", status.Entry.InUse)

	transact := func(c *socket.Client, apdu []byte) { _, _ = c.Transact(ctx, 0, apdu) }
	for _, s := range []*served{far, near} {
		c, other := s.client(0), s.client(0)
		transact(c, verify) // before a reset
		if _, err := c.Reset(ctx, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Transact(ctx, 0, verify); err != nil {
			t.Fatal(err)
		}
		for _, apdu := range [][]byte{pin, pin[:4], verify[4:], verify[:len(verify)-1], append(bytes.Clone(verify), pin...), append([]byte{0x00, 0x24, 0x01, 0x80, byte(len(pin))}, pin...)} {
			transact(c, apdu)
			_, _ = c.TransactOld(ctx, 0, apdu)
			_ = c.WriteMemory(ctx, 0, 0, apdu)
			_, _ = c.Verify(ctx, 0, socket.PINRequest{APDU: apdu})
			_, _ = c.ChangePIN(ctx, 0, socket.PINRequest{APDU: apdu})
			_, _ = c.Keypad(ctx, socket.CmdVerify, 0, 0, "", apdu)
		}
		if _, err := c.Lock(ctx, 0, true); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Transact(ctx, 0, verify); !errors.Is(err, socket.Locked) {
			t.Fatalf("beside a lock: %v", err)
		}
		far.port.Inject(vusb.Fault{On: vusb.Transfer{Control: true, Code: 0x86}, Stall: true})
		if _, err := c.Transact(ctx, 0, verify); !errors.Is(err, socket.CommError) {
			t.Fatalf("with a stall: %v", err)
		}
		s.detail(func(d status.Detail) bool { return d.LastError != "" })
		log.keep(t, s.dir)
		c.Close()
		other.Close()
	}
	c := near.client(0)
	far.port.Inject(vusb.Fault{On: vusb.Transfer{Control: true, Code: 0x86}, Unplug: true})
	if _, err := c.Transact(ctx, 0, verify); !errors.Is(err, socket.DeviceDisconnected) {
		t.Fatalf("while it is pulled: %v", err)
	}
	far.wait()
	near.stop()
	near.wait()
	log.keep(t, farDir)
	log.keep(t, near.dir)

	text := log.text()
	if !strings.Contains(text, "00 20 00 80 VERIFY, 8 bytes of data") {
		t.Errorf("APDUs are not in the log, so nothing is proven:\n%s", text)
	}
	for _, form := range forms(pin) {
		if i := strings.Index(text, form); i >= 0 {
			t.Errorf("the PIN is written down: %q", text[max(0, i-200):min(len(text), i+200)])
		}
	}
}
