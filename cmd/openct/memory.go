package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/socket"
)

// memoryCard is the kind of the memory card that has this ATR, empty for a card
// that takes APDUs. An I2C card has none. The header of the others begins with
// the kind (ISO/IEC 7816-10), an ATR of ISO/IEC 7816-3 with 3B or 3F.
func memoryCard(atr []byte) string {
	switch {
	case len(atr) == 0:
		return "I2C"
	case len(atr) != 4 || atr[0] == 0x3B || atr[0] == 0x3F:
		return ""
	case atr[0]>>4 == 0x9:
		return "3-wire"
	case atr[0]>>4 == 0xA:
		return "2-wire"
	}
	return "of another kind"
}

// withMemory is withCard for a memory card, which sees its PSC first if the user
// wants that. The card is reset at the end, so that the next program has to present the PSC as well.
func (t *tool) withMemory(ctx context.Context, f func(context.Context, *card) error) error {
	if !t.psc {
		return t.withCard(ctx, f)
	}
	psc, err := readPSC(os.Stdin, t.Err)
	if err != nil {
		return err
	}
	defer clear(psc)
	return t.withCard(ctx, func(ctx context.Context, c *card) error {
		if err := c.present(ctx, psc); err != nil {
			return err
		}
		err := f(ctx, c)
		if _, rerr := c.client.Reset(ctx, c.slot); rerr != nil {
			err = errors.Join(err, fmt.Errorf("the card could not be reset, and may still be writable without its PSC: %w", rerr))
		}
		return err
	})
}

// maxPSC is the most bytes that fit a command APDU.
const maxPSC = 255

// readPSC reads a line of hexadecimal. A terminal does not show it.
func readPSC(in *os.File, prompt io.Writer) ([]byte, error) {
	fd := int(in.Fd())
	if before, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
		hidden := *before
		hidden.Lflag &^= unix.ECHO
		if err := unix.IoctlSetTermios(fd, unix.TCSETS, &hidden); err != nil {
			return nil, fmt.Errorf("PSC: %w", err)
		}
		restore := func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }
		defer restore()
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
		defer close(ended)
		defer signal.Stop(ended)
		go func() {
			if _, ok := <-ended; ok {
				restore()
				os.Exit(1)
			}
		}()
		fmt.Fprint(prompt, "PSC in hexadecimal: ")
		defer fmt.Fprintln(prompt)
	}
	line, err := bufio.NewReader(io.LimitReader(in, 4*maxPSC)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("PSC: %w", err)
	}
	psc, err := unhex(strings.TrimSpace(line))
	switch {
	case err != nil:
		return nil, fmt.Errorf("PSC: %w", err)
	case len(psc) == 0 || len(psc) > maxPSC:
		return nil, fmt.Errorf("the PSC has %d bytes; a card's PSC has 1 to %d", len(psc), maxPSC)
	}
	return psc, nil
}

// present presents the PSC, once (ISO/IEC 7816-4, 7.5.6).
func (c *card) present(ctx context.Context, psc []byte) error {
	apdu := append([]byte{0x00, 0x20, 0x00, 0x00, byte(len(psc))}, psc...)
	defer clear(apdu)
	resp, err := c.client.Transact(ctx, c.slot, apdu)
	if err == nil && len(resp) != 2 {
		err = fmt.Errorf("answer of %d bytes", len(resp))
	}
	switch {
	case errors.Is(err, socket.NotSupported):
		return &cli.Hint{
			Err:  fmt.Errorf("the card does not accept a PSC: %w", err),
			Hint: "leave out --psc for a card without a PSC, such as SLE 4432, SLE 4418 or an I2C card",
		}
	case err != nil:
		return fmt.Errorf("failed to present the PSC: %w", err)
	}
	return pscError(uint16(resp[0])<<8 | uint16(resp[1]))
}

// pscError says what a card answers to its PSC (ISO/IEC 7816-4, 5.6).
func pscError(sw uint16) error {
	switch tries := sw & 0x000F; {
	case sw == 0x9000:
		return nil
	case sw == 0x63C0:
		return errors.New("wrong PSC: no try is left, the card is permanently blocked")
	case sw == 0x63C1:
		return errors.New("wrong PSC: one try is left; another wrong PSC blocks the card permanently")
	case sw&0xFFF0 == 0x63C0:
		return fmt.Errorf("wrong PSC: %d tries are left", tries)
	case sw == 0x6983:
		return errors.New("the card is permanently blocked: no try is left for its PSC")
	case sw == 0x6700:
		return errors.New("the PSC was not tried: the card's PSC has another length")
	}
	return fmt.Errorf("the card answers the PSC with status word %04x", sw)
}

// memoryError says what went wrong, and what to do next where that is known.
func (c *card) memoryError(doing string, err error) error {
	failed := fmt.Errorf("failed to %s memory card: %w", doing, err)
	switch {
	case errors.Is(err, socket.NotSupported) && memoryCard(c.atr) == "":
		return &cli.Hint{Err: failed, Hint: "the card is a processor card, not a memory card: use openct-tool apdu"}
	case errors.Is(err, socket.InvalidArg):
		return &cli.Hint{Err: failed, Hint: "use a smaller address: the card's memory ends before this one"}
	case errors.Is(err, socket.Generic) && doing == "write":
		return &cli.Hint{Err: failed, Hint: "use --psc if the card has a PSC; otherwise these bytes are write-protected"}
	}
	return failed
}

// maxRead is the most bytes read prints.
const maxRead = 8192

func (t *tool) read(ctx context.Context, c *card, addr uint16, count int) error {
	var data []byte
	count = min(count, math.MaxUint16+1-int(addr))
	for len(data) < count {
		want := min(count-len(data), socket.MaxResponse)
		part, err := c.client.ReadMemory(ctx, c.slot, addr+uint16(len(data)), want)
		if err != nil {
			return c.memoryError("read", err)
		}
		data = append(data, part...)
		if len(part) < want {
			break // the card ends here
		}
	}
	fmt.Fprintf(t.Out, "Read %d bytes at address 0x%04x\n", len(data), addr)
	dump(t.Out, int(addr), data)
	return nil
}

func (t *tool) write(ctx context.Context, c *card, addr uint16, data []byte) error {
	if err := c.client.WriteMemory(ctx, c.slot, addr, data); err != nil {
		return c.memoryError("write", err)
	}
	fmt.Fprintf(t.Out, "Wrote %d bytes at address 0x%04x\n", len(data), addr)
	return nil
}

func readArgs(args []string) (addr uint16, count int, err error) {
	n, m := uint64(0), uint64(1024)
	if len(args) > 0 {
		n, err = number("address", args[0], 16)
	}
	if len(args) > 1 && err == nil {
		m, err = number("count", args[1], 31)
	}
	return uint16(n), int(min(m, maxRead)), err
}

func writeArgs(args []string) (addr uint16, data []byte, err error) {
	if len(args) < 2 {
		return 0, nil, errors.New("write needs an address and the bytes to write")
	}
	n, err := number("address", args[0], 16)
	if err != nil {
		return 0, nil, err
	}
	data, err = unhex(strings.Join(args[1:], ""))
	return uint16(n), data, err
}
