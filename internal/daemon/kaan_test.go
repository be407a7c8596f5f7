package daemon

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"openct/internal/socket"
	"openct/internal/vusb/card"
	"openct/internal/vusb/kaan"
)

// onTerminal runs a daemon for a terminal at the other end of a pseudo-terminal.
func onTerminal(t *testing.T, driver string, c card.Card) (*served, *sync.Mutex, *kaan.Terminal) {
	t.Helper()
	terminal := kaan.New(c)
	terminal.AnyLine, terminal.B1 = true, driver == "b1"
	s, mu, _ := onPty(t, driver, terminal, nil)
	return s, mu, terminal
}

// Clients reach a terminal's cards, display and keypad, from the socket to the
// line.
func TestTerminal(t *testing.T) {
	for _, driver := range []string{"kaan", "b1"} {
		t.Run(driver, func(t *testing.T) {
			piv, err := card.New("piv", nil)
			if err != nil {
				t.Fatal(err)
			}
			s, mu, terminal := onTerminal(t, driver, piv)
			if e := entry(t, s.dir, 0); e.Slots != 1 || !e.Display || !e.Keypad {
				t.Errorf("entry %+v", e)
			}
			c, ctx := s.client(0), context.Background()
			if atr, err := c.Reset(ctx, 0); err != nil || !bytes.Equal(atr, piv.ATR()) {
				t.Fatalf("ATR %x, %v", atr, err)
			}
			resp, err := c.Transact(ctx, 0, []byte{0x00, 0xA4, 0x04, 0x00, 0x05, 0xA0, 0x00, 0x00, 0x03, 0x08, 0x00})
			if err != nil || len(resp) < 3 || !bytes.HasSuffix(resp, []byte{0x90, 0x00}) {
				t.Fatalf("select: %x, %v", resp, err)
			}
			mu.Lock()
			terminal.Type(kaan.Keys{PIN: "123456"}, kaan.Keys{PIN: "000000"}, kaan.Keys{Cancel: true})
			terminal.Chip().RequestWTX(1)
			mu.Unlock()
			ask := socket.PINRequest{
				Message: "PIN, please", ASCII: true, Offset: 5,
				APDU: []byte{0x00, 0x20, 0x00, 0x80, 0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF},
			}
			for _, want := range []struct {
				resp string
				err  error
			}{{"9000", nil}, {"63c2", nil}, {"", socket.UserAbort}} {
				if resp, err := c.Verify(ctx, 0, ask); hex.EncodeToString(resp) != want.resp || !errors.Is(err, want.err) {
					t.Errorf("PIN entry: %x, %v; want %s, %v", resp, err, want.resp, want.err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if n := terminal.Entries(); n != 3 {
				t.Errorf("%d PINs were asked for", n)
			}
		})
	}
}

// What a program for CT-API does, through libopenctapi.so: it asks for a card,
// selects a file, reads 256 bytes, ejects the card.
func TestTerminalCTAPI(t *testing.T) {
	program := ctapiProgram(t)
	counting := make([]byte, 256)
	for i := range counting {
		counting[i] = byte(i)
	}
	memory := card.New24C(256)
	for _, tt := range []struct {
		name, driver string
		card         card.Card
		commands     []string
		want         []string
	}{
		{
			"card with a protocol", "kaan", card.NewEchoATR(card.T0ATR("x")),
			[]string{"1:2012010100", "0:00a40000023f00", "0:00b0010000", "1:20150100"},
			[]string{hex.EncodeToString(card.T0ATR("x")) + "9000", "9000", hex.EncodeToString(counting) + "9000", "9000"},
		},
		{
			"the same at a B1", "b1", card.NewEcho(),
			[]string{"1:2012010100", "0:00a40000023f00", "0:00b0010000", "1:20150100"},
			[]string{hex.EncodeToString(card.NewEcho().ATR()) + "9000", "9000", hex.EncodeToString(counting) + "9000", "9000"},
		},
		{
			"2-wire card", "kaan", card.NewSLE4432(),
			[]string{"1:2012010100", "0:00b0000000", "1:20150100"},
			[]string{"a21310919000", hex.EncodeToString(card.NewSLE4432().Bytes()) + "9000", "9000"},
		},
		{
			"time and text", "kaan", memory,
			[]string{"1:2012010109500443617264800105", "1:20150100078001055002" + "4f4b"},
			[]string{"9000", "9000"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, mu, terminal := onTerminal(t, tt.driver, tt.card)
			cmd := exec.Command(program, append([]string{"0"}, tt.commands...)...)
			cmd.Env = append(os.Environ(), "OPENCT_SOCKETDIR="+s.dir)
			out, err := cmd.CombinedOutput()
			want := strings.Join(append(append([]string{"init 0"}, tt.want...), "close 0", ""), "\n")
			if err != nil || string(out) != want {
				t.Errorf("%v\n got %s\nwant %s", err, out, want)
			}
			mu.Lock()
			defer mu.Unlock()
			if terminal.Powered(0) {
				t.Error("an ejected card has power")
			}
		})
	}
}

// Keypad and display through libopenctapi.so: PERFORM VERIFICATION, MODIFY
// VERIFICATION, OUTPUT.
func TestTerminalCTAPIKeypad(t *testing.T) {
	program := ctapiProgram(t)
	piv, err := card.New("piv", nil)
	if err != nil {
		t.Fatal(err)
	}
	selectPIV := []byte{0x00, 0xA4, 0x04, 0x00, 0x05, 0xA0, 0x00, 0x00, 0x03, 0x08, 0x00}
	selected := piv.Transmit(selectPIV) // before the terminal has the card
	s, mu, terminal := onTerminal(t, "kaan", piv)
	mu.Lock()
	terminal.Type(kaan.Keys{PIN: "123456"}, kaan.Keys{PIN: "000000"}, kaan.Keys{Cancel: true}, kaan.Keys{Nothing: true},
		kaan.Keys{Mismatch: true}, kaan.Keys{PIN: "123456", New: "654321"}, kaan.Keys{PIN: "654321"}, kaan.Keys{PIN: "654321"})
	mu.Unlock()
	const (
		verify = "1:2018010011" + "520f" + "0106" + "0020008008ffffffffffffffff"
		modify = "1:201901001a" + "5218" + "01060e" + "0024008010ffffffffffffffffffffffffffffffff"
	)
	commands := [][2]string{
		{"1:2012010100", hex.EncodeToString(piv.ATR()) + "9000"},
		{"0:" + hex.EncodeToString(selectPIV), hex.EncodeToString(selected)},
		{"1:20174000045002" + "4869", "9000"},
		{verify, "9000"},
		{verify, "63c2"},
		{verify, "6401"},
		{"1:2018010014" + "80011e" + verify[len("1:2018010011"):], "6400"},
		{modify, "6402"},
		{modify, "9000"},
		{verify, "9000"},
		{"1:2018010011520f0103" + "0020008008ffffffffffffffff", "6b00"}, // the PIN has no place there, says the terminal
	}
	args, want := []string{"0"}, "init 0\n"
	for _, c := range commands {
		args, want = append(args, c[0]), want+c[1]+"\n"
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "OPENCT_SOCKETDIR="+s.dir)
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != want+"close 0\n" {
		t.Errorf("%v\n got %s\nwant %sclose 0", err, out, want)
	}
	mu.Lock()
	defer mu.Unlock()
	if terminal.Display() != "Hi" {
		t.Errorf("the display shows %q", terminal.Display())
	}
}

// ctapiProgram builds libopenctapi.so and a program that is linked with it.
func ctapiProgram(t *testing.T) string {
	t.Helper()
	const compat = "../../compat"
	dir := t.TempDir()
	lib, program := filepath.Join(dir, "libopenctapi.so"), filepath.Join(dir, "ctsequence")
	for _, args := range [][]string{
		{"make", "-s", "-C", compat, "BUILD=" + dir, lib},
		{"cc", "-o", program, "-I" + compat + "/ctapi", "-I" + compat + "/libopenct", compat + "/test/ctsequence.c", lib, "-Wl,-rpath," + dir},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	return program
}
