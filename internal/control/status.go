package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"openct/internal/cli"
	"openct/internal/socket"
	"openct/internal/status"
)

// Status prints the readers and what is in them, in C OpenCT's layout, which
// scripts parse; of one reader, if name is its number or its name in openct.conf.
// Without a reader there is nothing on standard output, as with C OpenCT: scripts
// take what is there for readers.
func (c *Control) Status(name string) error {
	n, err := c.list(name)
	if err == nil && n == 0 {
		c.say("openct-control: %s", NoReader)
	}
	return err
}

// NoReader is for people who ask for the readers where there is none.
const NoReader = "no reader is served; openct-control doctor says what to do next"

// list prints the readers and returns how many there are.
func (c *Control) list(name string) (int, error) {
	f, entries, err := c.entries(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for i, e := range entries {
		if i == 0 {
			fmt.Fprintf(c.Out, "No.   Name                         Info\n%s\n", strings.Repeat("=", 51))
		}
		fmt.Fprintf(c.Out, " %2d   %-28.28s %s\n", e.Index, e.Name, strings.Join(info(e), ", "))
	}
	return len(entries), nil
}

func info(e status.Entry) []string {
	var parts []string
	if e.Slots > 1 {
		parts = append(parts, fmt.Sprintf("%d slots", e.Slots))
	}
	if e.Display {
		parts = append(parts, "display")
	}
	if e.Keypad {
		parts = append(parts, "keypad")
	}
	for i := range e.Slots {
		card := "empty"
		if e.Present(i) {
			card = "card present"
		}
		parts = append(parts, fmt.Sprintf("slot%d: %s", i, card))
	}
	return parts
}

// entries are the living readers, or the one with that name or number.
func (c *Control) entries(name string) (*status.File, []status.Entry, error) {
	f, err := status.OpenReadOnly(c.Dir)
	if err != nil {
		c.say("Error: %v", err)
		c.say("Unable to get reader status")
		return nil, nil, cli.ErrExit(1)
	}
	if name != "" {
		e, err := f.Find(name)
		if err != nil {
			f.Close()
			if r, rerr := findReleased(status.AllReleased(c.Dir, string(c.Root)), name); rerr == nil {
				err = &cli.Hint{Err: fmt.Errorf("reader %s: %w", released(r), errReleased), Hint: fmt.Sprintf("openct-control take %d", r.Reader)}
			}
			return nil, nil, err
		}
		return f, []status.Entry{e}, nil
	}
	live, err := living(f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, live, nil
}

// living are the entries of readers that are served.
func living(f *status.File) ([]status.Entry, error) {
	all, err := f.Entries()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(e status.Entry) bool { return !e.InUse() }), nil
}

// readerJSON is a reader as "status --json" prints it.
type readerJSON struct {
	Reader  int            `json:"reader"`
	Name    string         `json:"name"`
	Socket  string         `json:"socket"`
	Display bool           `json:"display"`
	Keypad  bool           `json:"keypad"`
	Slots   []slotJSON     `json:"slots"`
	PID     int            `json:"pid"`
	Detail  *status.Detail `json:"detail,omitempty"`
}

type slotJSON struct {
	Slot int  `json:"slot"`
	Card bool `json:"card"`
}

// StatusJSON prints an array of all readers, or of one, for programs.
func (c *Control) StatusJSON(name string) error {
	f, entries, err := c.entries(name)
	if err != nil {
		return err
	}
	defer f.Close()
	readers := []readerJSON{}
	for _, e := range entries {
		r := readerJSON{
			Reader: e.Index, Name: e.Name, Socket: socket.ReaderPath(c.Dir, e.Index),
			Display: e.Display, Keypad: e.Keypad, PID: e.PID, Slots: []slotJSON{},
		}
		for i := range e.Slots {
			r.Slots = append(r.Slots, slotJSON{Slot: i, Card: e.Present(i)})
		}
		d, err := f.ReadDetail(e)
		switch {
		case err == nil:
			d.Events = nil // openct-control monitor tells them
			r.Detail = &d
		case !errors.Is(err, fs.ErrNotExist):
			c.say("Error: %v", err)
		}
		readers = append(readers, r)
	}
	out := json.NewEncoder(c.Out)
	out.SetIndent("", "  ")
	return out.Encode(readers)
}
