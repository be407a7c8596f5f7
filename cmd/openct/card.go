package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"openct/internal/cli"
	"openct/internal/socket"
	"openct/internal/status"
)

// Deadlines of single requests. The handler bounds them by itself; these are
// for a handler that hangs.
const (
	quick = 30 * time.Second
	long  = 10 * time.Minute // a card may make a key
)

// insertTimeout is how long a reader that can wait is told to wait for a card.
const insertTimeout = 5 * time.Second

// card is a connection to a reader, with the card of one slot.
type card struct {
	client *socket.Client
	file   *status.File
	entry  status.Entry
	slot   int
	atr    []byte
}

func (t *tool) connect() (*card, error) {
	f, e, err := t.find()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), quick)
	defer cancel()
	client, err := socket.DialReader(ctx, t.dir, t.reader)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &card{client: client, file: f, entry: e, slot: t.slot}, nil
}

func (c *card) close() error { return errors.Join(c.client.Close(), c.file.Close()) }

// withCard connects, locks, resets the card, and runs f.
func (t *tool) withCard(ctx context.Context, f func(context.Context, *card) error) error {
	c, err := t.connect()
	if err != nil {
		return t.unknown(err)
	}
	defer c.close() // gives back the lock as well

	fmt.Fprintf(t.Out, "Detected %s\n", readerLine(c.entry))
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	if _, err := c.client.Lock(ctx, c.slot, false); err != nil {
		return t.failed("ct_card_lock", err)
	}
	reset := c.client.Reset
	if c.entry.Present(c.slot) {
		// To a fresh connection, every card is a new one.
		fmt.Fprintln(t.Out, "Card present, status changed")
	} else {
		fmt.Fprintln(t.Out, "Card not present")
		reset = func(ctx context.Context, slot int) ([]byte, error) {
			return c.client.Request(ctx, slot, insertTimeout, "Please insert card")
		}
	}
	if c.atr, err = reset(ctx, c.slot); err != nil {
		return fmt.Errorf("failed to reset card: %w", err)
	}
	return f(ctx, c)
}

// failed reports an error the way scripts know it from C OpenCT.
func (t *tool) failed(what string, err error) error {
	var code socket.Code
	if errors.As(err, &code) {
		fmt.Fprintf(t.Err, "%s: err=%d (%v)\n", what, int(code), code)
	} else {
		fmt.Fprintf(t.Err, "%s: %v\n", what, err)
	}
	return cli.ErrExit(1)
}

func (t *tool) atr(_ context.Context, c *card) error {
	if len(c.atr) == 0 {
		fmt.Fprintln(t.Out, "ATR:<empty>")
	} else {
		fmt.Fprintf(t.Out, "ATR: % x\n", c.atr)
	}
	if kind := memoryCard(c.atr); kind != "" {
		fmt.Fprintf(t.Out, "Memory card, %s\n", kind)
	}
	return nil
}

func (t *tool) selectMF(ctx context.Context, c *card) error {
	apdu := []byte{0x00, 0xA4, 0x00, 0x00, 0x02, 0x3F, 0x00, 0x00}
	resp, err := c.client.Transact(ctx, c.slot, apdu)
	if err == nil && bytes.Equal(resp, []byte{0x6A, 0x86}) {
		apdu[0] = 0xC0 // GSM and old Schlumberger cards
		resp, err = c.client.Transact(ctx, c.slot, apdu)
	}
	if err != nil {
		return t.failed("card communication failure", err)
	}
	fmt.Fprintln(t.Out, "Selected MF, response:")
	dump(t.Out, 0, resp)
	return nil
}

// apdus sends each APDU and prints its response as one line of hexadecimal.
func (t *tool) apdus(ctx context.Context, c *card, apdus [][]byte) error {
	for _, apdu := range apdus {
		resp, err := c.client.Transact(ctx, c.slot, apdu)
		if err != nil {
			return t.failed("card communication failure", err)
		}
		fmt.Fprintf(t.Out, "%x\n", resp)
	}
	return nil
}

// hexArgs reads APDUs, each an argument; blanks and colons in one are ignored.
func hexArgs(args []string) ([][]byte, error) {
	if len(args) == 0 {
		return nil, errors.New("apdu needs an APDU in hexadecimal, such as 00a40000023f00")
	}
	apdus := make([][]byte, len(args))
	for i, a := range args {
		b, err := unhex(a)
		switch {
		case err != nil:
			return nil, err
		case len(b) < 4:
			return nil, fmt.Errorf("APDU %d has %d bytes; the shortest one has 4", i+1, len(b))
		case len(b) > socket.MaxAPDU:
			return nil, fmt.Errorf("APDU %d has %d bytes; at most %d can be sent", i+1, len(b), socket.MaxAPDU)
		}
		apdus[i] = b
	}
	return apdus, nil
}

// unhex does not repeat its argument in an error: it may hold a PIN.
func unhex(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", ":", "").Replace(s))
	if err != nil {
		return nil, errors.New("not a string of hexadecimal bytes")
	}
	return b, nil
}

// dump prints bytes 16 to a line, as C OpenCT does; scripts read it.
func dump(w io.Writer, addr int, b []byte) {
	for first := true; first || len(b) > 0; first = false {
		line := b[:min(16, len(b))]
		b = b[len(line):]
		var text strings.Builder
		for _, c := range line {
			if c < 0x20 || c > 0x7E {
				c = '.'
			}
			text.WriteByte(c)
		}
		var codes string
		if len(line) > 0 {
			codes = fmt.Sprintf(" % x", line)
		}
		fmt.Fprintf(w, "%04x:%-48s   %s\n", addr, codes, text.String())
		addr += 16
	}
}
