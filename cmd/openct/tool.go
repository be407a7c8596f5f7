package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"openct/internal/cli"
	"openct/internal/socket"
	"openct/internal/status"
)

const toolUsage = `usage: openct-tool [options] command [argument...]

Lists the smart card readers and tokens of OpenCT, and tests their cards.

commands:
  list                 list the readers
  rwait                wait until a handler serves the reader
  wait                 wait until a card is inserted in the slot
  atr                  reset the card and print its answer to reset
  mf                   select the card's master file
  apdu HEX...          reset the card, send APDUs, print a response a line
  read [ADDR [COUNT]]  dump a memory card (default: 1024 bytes from 0)
  write ADDR HEX...    write bytes to a memory card

options:
  -r, --reader READER  the reader's number, or its name in openct.conf (default 0)
  -s, --slot N         slot number (default 0)
      --psc            read, write: read the PSC of a memory card from standard
                       input, in hexadecimal, and present it to the card first
  -d, -f FILE          accepted and ignored
  -h, --help           print this text
  -v, --version        print the version

Numbers may be written as in C: 16, 0x10, 020.
`

// tool is one run of openct-tool, which looks at readers and cards: it lists
// readers, waits for them, prints ATRs, sends APDUs, reads and writes memory
// cards.
type tool struct {
	*cli.Program
	dir    string
	named  string // the reader as the user names it
	reader int    // its number, set by find
	slot   int
	psc    bool
}

func runTool(args []string, stdout, stderr io.Writer) int {
	t := &tool{Program: cli.New("openct-tool", toolUsage, stdout, stderr), dir: socket.Dir()}
	t.Flags.StringVarP(&t.named, "reader", "r", "0", "")
	t.Flags.IntVarP(&t.slot, "slot", "s", 0, "")
	t.Flags.BoolVar(&t.psc, "psc", false, "")
	t.Flags.CountP("debug", "d", "")
	t.Flags.StringP("config", "f", "", "")
	return t.Exit(t.run(args))
}

func (t *tool) run(args []string) error {
	operands, err := t.Parse(args)
	if err != nil {
		return err
	}
	if len(operands) == 0 {
		return t.Misuse()
	}
	verb, rest := operands[0], operands[1:]
	if t.psc && verb != "read" && verb != "write" {
		return t.Mistake("--psc belongs to read and write")
	}
	ctx := context.Background()
	switch verb {
	case "list":
		return t.list()
	case "rwait":
		return t.waitReader()
	case "wait":
		return t.waitCard()
	case "atr":
		return t.withCard(ctx, t.atr)
	case "mf":
		return t.withCard(ctx, t.selectMF)
	case "apdu":
		apdus, err := hexArgs(rest)
		if err != nil {
			return err
		}
		return t.withCard(ctx, func(ctx context.Context, c *card) error { return t.apdus(ctx, c, apdus) })
	case "read":
		addr, count, err := readArgs(rest)
		if err != nil {
			return err
		}
		return t.withMemory(ctx, func(ctx context.Context, c *card) error { return t.read(ctx, c, addr, count) })
	case "write":
		addr, data, err := writeArgs(rest)
		if err != nil {
			return err
		}
		return t.withMemory(ctx, func(ctx context.Context, c *card) error { return t.write(ctx, c, addr, data) })
	}
	fmt.Fprintf(t.Err, "Unknown command %q\nnext: %s --help\n", verb, t.Name)
	return cli.ErrExit(1)
}

// entry finds the reader in the status file, or says that there is none.
func (t *tool) entry() (*status.File, status.Entry, error) {
	f, e, err := t.find()
	if err != nil {
		return nil, e, t.unknown(err)
	}
	return f, e, nil
}

// find opens the status file and finds the reader there, by its number or its name.
func (t *tool) find() (*status.File, status.Entry, error) {
	f, err := status.OpenReadOnly(t.dir)
	if err != nil {
		return nil, status.Entry{}, err
	}
	var e status.Entry
	if n, isNumber := status.ReaderNumber(t.named); isNumber {
		e, err = f.Entry(n)
		if err == nil && !e.InUse() {
			err = fmt.Errorf("reader %d: %w", n, status.ErrNoReader)
		}
	} else {
		e, err = f.Find(t.named)
	}
	if err != nil {
		f.Close()
		return nil, e, err
	}
	t.reader = e.Index
	return f, e, nil
}

// unknown says why the reader is not found: of one that is given by its number, as
// C OpenCT does.
func (t *tool) unknown(err error) error {
	n, isNumber := status.ReaderNumber(t.named)
	if !isNumber {
		return err
	}
	if !errors.Is(err, status.ErrNoReader) {
		fmt.Fprintf(t.Err, "Error: %v\n", err)
	}
	fmt.Fprintf(t.Err, "Unknown reader #%d\n", uint32(n))
	return cli.ErrExit(1)
}

// number reads a number as strtoul with base 0 does.
func number(what, s string, bits int) (uint64, error) {
	n, err := strconv.ParseUint(s, 0, bits)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("%s %q: more than %d", what, s, uint64(1)<<bits-1)
	case err != nil:
		return 0, fmt.Errorf("%s %q: not a number", what, s)
	}
	return n, nil
}
