package status

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var sample = Detail{
	Announces: true,
	Driver:    "etoken64", Type: "usb", Device: "/dev/bus/usb/001/004", ID: "usb:0529/0600",
	Port: "1-2.3", Unit: "openct-handler@001-004.service", Since: time.Unix(1700000000, 0).UTC(), Clients: 2,
	Locks: []Lock{{Slot: 0, Exclusive: true, PID: 42, UID: 1000, Since: time.Unix(1700000100, 0).UTC()}},
}

func TestDetail(t *testing.T) {
	dir := initDir(t)
	f := mustOpen(t, dir)
	s := mustClaim(t, f)
	if _, err := f.ReadDetail(Entry{Index: 1}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a free entry: %v", err)
	}
	for range 2 {
		if err := s.WriteDetail(sample); err != nil {
			t.Fatal(err)
		}
	}
	got, err := f.ReadDetail(mustEntry(t, f, 0))
	if err != nil {
		t.Fatal(err)
	}
	want := sample
	want.PID = os.Getpid()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("detail (-want +got):\n%s", diff)
	}
	if _, err := f.ReadDetail(Entry{PID: 1}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("somebody else's file: %v", err)
	}
	if err := s.Release(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{".lock", "status"}) {
		t.Errorf("left behind: %v", got)
	}
	if err := s.WriteDetail(sample); !errors.Is(err, ErrLost) {
		t.Errorf("after release: %v, want ErrLost", err)
	}
}

func TestDetailOfACrashedHandlerGoes(t *testing.T) {
	dir := initDir(t)
	f := mustOpen(t, dir)
	if err := os.WriteFile(detailPath(dir, 0), []byte(`{"pid":1,"serial":"old"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	mustClaim(t, f)
	d, err := f.ReadDetail(mustEntry(t, f, 0))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Detail{PID: os.Getpid(), Announces: true}, d); diff != "" {
		t.Errorf("side file after claim (-want +got):\n%s", diff)
	}
}

func TestHostileDetail(t *testing.T) {
	tests := []struct {
		name string
		make func(path string) error
	}{
		{"not JSON", func(p string) error { return os.WriteFile(p, []byte("{"), 0o644) }},
		{"wrong types", func(p string) error { return os.WriteFile(p, []byte(`{"pid":"x"}`), 0o644) }},
		{"endless", func(p string) error { return os.WriteFile(p, make([]byte, maxDetail+1), 0o644) }},
		{"FIFO that nobody writes", func(p string) error { return unix.Mkfifo(p, 0o644) }},
		{"symbolic link", func(p string) error {
			target := filepath.Join(filepath.Dir(p), "elsewhere")
			return errors.Join(os.WriteFile(target, []byte(`{"pid":5}`), 0o644), os.Symlink(target, p))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := initDir(t)
			f := mustOpen(t, dir)
			if err := tt.make(detailPath(dir, 3)); err != nil {
				t.Fatal(err)
			}
			if d, err := f.ReadDetail(Entry{Index: 3, PID: 5}); err == nil {
				t.Errorf("accepted: %+v", d)
			}
		})
	}
}

// The longest side file that a handler writes is one that readers accept.
func TestLongestDetail(t *testing.T) {
	long := strings.Repeat("<", 10_000) // six bytes each in JSON
	since := time.Date(2026, 11, 26, 11, 0, 0, 123456789, time.FixedZone("", 3600))
	c := Client{Connection: 1<<64 - 1, PID: 1<<31 - 1, UID: 1<<32 - 1}
	d := Detail{Driver: long, Type: long, Device: long, ID: long, Port: long, Serial: long, Unit: long, LastError: long, Since: since, ErrorTime: since}
	for range 1000 {
		d.Connections = append(d.Connections, Connection{c, since})
		d.Locks = append(d.Locks, Lock{Slot: MaxSlots, Exclusive: true, PID: c.PID, UID: c.UID, Since: since})
		d.Events = append(d.Events, Event{Seq: 1<<64 - 1, Time: since, Event: Failed, Slot: MaxSlots, Client: c, Holder: c, Error: long})
	}
	f := mustOpen(t, initDir(t))
	s := mustClaim(t, f)
	if err := s.WriteDetail(d); err != nil {
		t.Fatal(err)
	}
	got, err := f.ReadDetail(mustEntry(t, f, 0))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Connections) != maxConnections || len(got.Events) != MaxEvents {
		t.Errorf("%d connections, %d events", len(got.Connections), len(got.Events))
	}
}

func FuzzDecodeDetail(f *testing.F) {
	f.Add([]byte(`{"pid":42,"driver":"etoken64","device":"/dev/bus/usb/001/004","clients":1}`))
	f.Add([]byte(`{"pid":-1,"driver":"\u001b[2J","locks":[{"slot":0,"exclusive":true,"pid":1,"uid":0}]}`))
	f.Add([]byte(`{"since":"2024-02-30T00:00:00Z","clients":1e99}`))
	f.Add([]byte(`{"connections":[{"connection":1,"pid":5,"uid":0,"since":"2026-11-26T11:00:00Z"}],"events":[{"seq":1,"event":"\u001b[2J","error":"x"}]}`))
	f.Add([]byte(`{"events":[` + strings.Repeat(`{"seq":1},`, 100) + `{"seq":18446744073709551615}]}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"last_error":"` + strings.Repeat("x", 1000) + `"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := DecodeDetail(b)
		if err != nil {
			return
		}
		for _, s := range []string{d.Driver, d.Type, d.Device, d.ID, d.Port, d.Serial, d.Unit, d.LastError} {
			if len(s) > maxString || strings.ContainsFunc(s, unicode.IsControl) {
				t.Errorf("text %q is not for showing", s)
			}
		}
		if d.Clients < 0 || len(d.Locks) > maxLocks || len(d.Connections) > maxConnections || len(d.Events) > MaxEvents {
			t.Errorf("%d clients, %d locks, %d connections, %d events", d.Clients, len(d.Locks), len(d.Connections), len(d.Events))
		}
		for _, e := range d.Events {
			if s := string(e.Event) + e.Error; len(s) > 2*maxEventText || strings.ContainsFunc(s, unicode.IsControl) {
				t.Errorf("text %q is not for showing", s)
			}
		}
	})
}
