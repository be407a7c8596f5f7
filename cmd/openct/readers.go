package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"openct/internal/control"
	"openct/internal/status"
)

// askEvery is how often a wait looks again, as C OpenCT's does.
const askEvery = time.Second

// list prints a line for each living reader.
func (t *tool) list() error {
	f, err := status.OpenReadOnly(t.dir)
	if err != nil {
		// C OpenCT prints an error for each of the 16 entries, with exit status 0.
		fmt.Fprintf(t.Err, "Error: %v\n", err)
		return nil
	}
	defer f.Close()
	entries, err := f.Entries()
	if err != nil {
		return err
	}
	some := false
	for _, e := range entries {
		if e.InUse() {
			some = true
			fmt.Fprintf(t.Out, " %2d %s\n", e.Index, readerLine(e))
		}
	}
	if !some {
		fmt.Fprintf(t.Err, "%s: %s\n", t.Name, control.NoReader)
	}
	return nil
}

// readerLine is the reader's name with what is special about it.
func readerLine(e status.Entry) string {
	var special []string
	if e.Slots != 1 {
		special = append(special, fmt.Sprintf("%d slots", e.Slots))
	}
	if e.Display {
		special = append(special, "display")
	}
	if e.Keypad {
		special = append(special, "keypad")
	}
	if len(special) == 0 {
		return e.Name
	}
	return fmt.Sprintf("%s (%s)", e.Name, strings.Join(special, ", "))
}

// waitReader waits for as long as it takes until the reader can be connected.
func (t *tool) waitReader() error {
	for {
		c, err := t.connect()
		switch {
		case err == nil:
			return c.close()
		case errors.Is(err, status.ErrAmbiguous):
			return err
		}
		time.Sleep(askEvery)
	}
}

// waitCard waits until the status file says that a card is in the slot.
func (t *tool) waitCard() error {
	f, _, err := t.entry()
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		e, err := f.Entry(t.reader)
		if err == nil && (!e.InUse() || t.slot >= e.Slots) {
			err = fmt.Errorf("reader %d has no slot %d", t.reader, t.slot)
		}
		if err != nil {
			return fmt.Errorf("failed to get card status: %w", err)
		}
		if e.Present(t.slot) {
			fmt.Fprintln(t.Out, "Card detected")
			return nil
		}
		time.Sleep(askEvery)
	}
}
