package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/printable"
)

// Detail is what people and tools want to know about a reader beyond its entry.
// The handler writes it, beside the status file, when something in it changes.
// It holds no secrets: every client can read it.
type Detail struct {
	PID       int       `json:"pid"`
	Driver    string    `json:"driver"`
	Type      string    `json:"type"`             // usb, serial, virtual ...
	Device    string    `json:"device"`           // /dev/bus/usb/001/004
	ID        string    `json:"id,omitempty"`     // usb:0529/0600
	Port      string    `json:"port,omitempty"`   // where it is plugged: 1-2.3
	Serial    string    `json:"serial,omitempty"` // the device's own
	Alias     string    `json:"alias,omitempty"`  // its name in openct.conf
	Unit      string    `json:"unit,omitempty"`   // systemd unit
	Since     time.Time `json:"since"`            // ready since
	Announces bool      `json:"announces"`        // the status file is touched when a card comes or goes
	Clients   int       `json:"clients"`          // connections open now
	LastError string    `json:"last_error,omitempty"`
	ErrorTime time.Time `json:"error_time,omitzero"`

	Connections []Connection `json:"connections,omitempty"` // oldest first
	Locks       []Lock       `json:"locks,omitempty"`
	Events      []Event      `json:"events,omitempty"` // the latest ones, oldest first
}

// Lock is one lock a client holds on a card slot.
type Lock struct {
	Slot      int       `json:"slot"`
	Exclusive bool      `json:"exclusive"`
	PID       int       `json:"pid"`
	UID       uint32    `json:"uid"`
	Since     time.Time `json:"since"`
}

const (
	maxDetail      = 256 << 10 // bytes of a side file that a reader accepts
	maxString      = 512       // bytes of one text in it
	maxLocks       = 256
	maxConnections = 272 // as many as package socket lets in, root's reserve included
)

func detailPath(dir string, n int) string {
	return filepath.Join(dir, fmt.Sprintf(".%d.json", n))
}

// WriteDetail makes d what readers of the side file see from now on. Release
// removes it. d.PID is filled in.
func (s *Slot) WriteDetail(d Detail) error {
	d.PID = int(s.pid)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return wrap("write", detailPath(s.f.dir, s.n), ErrLost)
	}
	return writeDetail(s.f.dir, s.n, d)
}

func writeDetail(dir string, n int, d Detail) error {
	path := detailPath(dir, n)
	d.Announces = true
	b, err := json.Marshal(d.clean())
	if err != nil {
		return wrap("write", path, err)
	}
	return wrap("write", path, writeAtomic(path, append(b, '\n'), fileMode))
}

// ReadDetail reads the side file of an entry. A file of another handler than the
// entry's, or none, is fs.ErrNotExist: the entry is all there is to know.
func (f *File) ReadDetail(e Entry) (Detail, error) {
	path := detailPath(f.dir, e.Index)
	d, err := readDetail(path)
	if err == nil && d.PID != e.PID {
		err = fmt.Errorf("left behind by process %d: %w", d.PID, os.ErrNotExist)
	}
	if err != nil {
		return Detail{}, wrap("read", path, err)
	}
	return d, nil
}

func readDetail(path string) (Detail, error) {
	fd, _, err := openPlain(path, unix.O_RDONLY)
	if err != nil {
		return Detail{}, err
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxDetail+1))
	if err != nil {
		return Detail{}, err
	}
	return DecodeDetail(b)
}

// DecodeDetail reads a side file's content. What it returns can be shown: texts
// are printable and of bounded length.
func DecodeDetail(b []byte) (Detail, error) {
	if len(b) > maxDetail {
		return Detail{}, fmt.Errorf("side file is longer than %d bytes", maxDetail)
	}
	var d Detail
	if err := json.Unmarshal(b, &d); err != nil {
		return Detail{}, fmt.Errorf("side file is not valid: %w", err)
	}
	return d.clean(), nil
}

func (d Detail) clean() Detail {
	for _, s := range []*string{&d.Driver, &d.Type, &d.Device, &d.ID, &d.Port, &d.Serial, &d.Alias, &d.Unit, &d.LastError} {
		*s = cut(printable.Line(*s), maxString)
	}
	d.Clients = max(d.Clients, 0)
	d.Locks = slices.Clip(d.Locks[:min(len(d.Locks), maxLocks)])
	d.Connections = slices.Clip(d.Connections[:min(len(d.Connections), maxConnections)])
	d.Events = cleanEvents(d.Events)
	return d
}

func removeDetail(dir string, n int) { os.Remove(detailPath(dir, n)) }

// writeAtomic replaces a file in one step; readers see the old or the new one.
func writeAtomic(path string, b []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp.*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}
