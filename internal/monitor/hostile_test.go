package monitor

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/status"
	"openct/internal/status/statustest"
)

// The files beside the status file are an unprivileged user's, and root runs monitor:
// whatever lies in their place, the status file is followed all the same.
func TestWhatLiesInPlaceOfSideFiles(t *testing.T) {
	for _, tt := range []struct {
		name string
		put  func(path string) error
	}{
		{"FIFO", func(path string) error { return unix.Mkfifo(path, 0o644) }},
		{"symbolic link to a device that never ends", func(path string) error { return os.Symlink("/dev/zero", path) }},
		{"symbolic link to itself", func(path string) error { return os.Symlink(path, path) }},
		{"directory", func(path string) error { return os.Mkdir(path, 0o755) }},
		{"socket", func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o644, 0) }},
		{"1 TB", func(path string) error {
			return errors.Join(os.WriteFile(path, []byte("{"), 0o644), os.Truncate(path, 1<<40))
		}},
		{"deep JSON", func(path string) error {
			return os.WriteFile(path, []byte(strings.Repeat("[", 200<<10)), 0o644)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := run(t, func(w *world) { w.usb("0529", 3); w.init() })
			<-w.events // the device, once the monitor has begun
			h := w.serve("")
			w.sees(described(Ready, ""))
			for _, name := range []string{".0.json", ".fault.json"} {
				path := filepath.Join(w.dir, name)
				if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				w.must(tt.put(path))
			}
			w.must(h.SetCard(0, true, false))
			w.sees(at(CardIn, func(e *Event) { e.Slot = ptr(0) }))
		})
	}
}

// flooded is a monitor that is not running, with what it emits.
func flooded(t *testing.T) (m *monitor, emitted *[]Event, lookups *int) {
	t.Helper()
	var told []Event
	lookups = new(int)
	lookup := func(uid string) (*user.User, error) {
		*lookups++
		return &user.User{Username: "\x1b]0;" + uid}, nil
	}
	m = &monitor{
		Options: Options{Emit: func(e Event) error { told = append(told, e); return nil }},
		now:     time.Now, devices: map[string]device{}, names: &names{root: "/nowhere", users: map[uint32]string{}, lookup: lookup},
	}
	return m, &told, lookups
}

// However much a handler tells, and however little sense it makes, each look costs
// a bounded number of lines and nothing stays behind.
func TestFlood(t *testing.T) {
	m, told, lookups := flooded(t)
	var s snapshot
	for n := range s.readers {
		s.readers[n] = reader{entry: status.Entry{Index: n, Name: "token", PID: 1, Slots: status.MaxSlots}, ready: true}
	}
	m.compare(s)
	seq := uint64(0)
	for look := range 50 {
		*told = nil
		for n := range s.readers {
			d := status.Detail{PID: 1}
			for i := range status.MaxEvents {
				d.Events = append(d.Events, status.Event{
					Seq: seq + uint64(100+i), Event: status.Connected, Client: status.Client{Connection: seq + uint64(i), PID: i, UID: uint32(look<<16 + n<<8 + i)},
				})
			}
			s.readers[n].detail = d
		}
		seq += 1000
		m.compare(s)
		if want := status.Entries * (status.MaxEvents + 1); len(*told) != want { // one line says how many were missed
			t.Fatalf("%d events in one look, want %d", len(*told), want)
		}
	}
	for n, f := range m.readers {
		if len(f.who) > 0 {
			t.Errorf("reader %d: %d clients are remembered that are not connected", n, len(f.who))
		}
	}
	if *lookups != maxUsers {
		t.Errorf("%d users were looked up, want %d", *lookups, maxUsers)
	}
	if name := m.names.user(0); name == "" || strings.Contains(name, "\x1b") {
		t.Errorf("name %q", name)
	}
}

// A process that serves a reader anew while nobody looks counts its events from 1.
func TestSameProcessAgain(t *testing.T) {
	m, told, _ := flooded(t)
	look := func(since int64, seq ...uint64) []Kind {
		*told = nil
		r := reader{entry: status.Entry{Name: "token", PID: 1}, ready: true}
		if since > 0 {
			r.detail = status.Detail{PID: 1, Since: time.Unix(since, 0)}
		}
		for _, n := range seq {
			r.detail.Events = append(r.detail.Events, status.Event{Seq: n, Event: status.Failed})
		}
		var s snapshot
		s.readers[0] = r
		m.compare(s)
		var kinds []Kind
		for _, e := range *told {
			kinds = append(kinds, e.Event)
		}
		return kinds
	}
	for _, tt := range []struct {
		name string
		got  []Kind
		want []Kind
	}{
		{"first life", look(1, 1, 2, 3), []Kind{Ready, Failed, Failed, Failed}},
		{"a side file that cannot be read", look(0), nil},
		{"the same life", look(1, 1, 2, 3, 4), []Kind{Failed}},
		{"second life", look(2, 1, 2), []Kind{Stopped, Ready, Failed, Failed}},
	} {
		if !slices.Equal(tt.got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, tt.got, tt.want)
		}
	}
}

// A device that a side file names outside /dev is not looked for.
func TestIsNode(t *testing.T) {
	for device, want := range map[string]bool{
		"/dev/bus/usb/001/004": true, "/dev/ttyUSB0": true, "/dev/../root/x": false, "/dev//x": false, "/dev/": false, "/net/x": false, "remote": false, "": false,
	} {
		if isNode(device) != want {
			t.Errorf("%q: got %v", device, !want)
		}
	}
}

// A handler makes its socket when its entry is complete, cards and all. One that does
// that while the files are read is told as it is then, or at the next look.
func TestReadyDuringLook(t *testing.T) {
	dir := t.TempDir()
	w := &world{t: t, dir: dir}
	w.init()
	s := statustest.Serve(t, dir, status.Detail{}, status.Info{Name: "token", Slots: 1})
	p := newFiles().processes
	defer p.close()
	got, err := look(dir, p, func(_ string, n int) bool {
		if n == 0 {
			w.must(s.SetCard(0, true, false))
		}
		return n == 0
	})
	w.must(err)
	if r := got.readers[0]; r.ready && !r.entry.Present(0) {
		t.Error("the reader is ready, and its card is not in it")
	} else if !r.ready {
		t.Error("the reader is not ready, and has a socket")
	}
}

// A directory that may not be read is told once, whatever fails in it.
func TestBlindOnce(t *testing.T) {
	m, _, _ := flooded(t)
	var told []error
	m.Blind = func(err error) { told = append(told, err) }
	denied := &fs.PathError{Op: "watch", Path: "/run/openct", Err: unix.EACCES}
	m.cannotSee(denied)
	m.cannotSee(&fs.PathError{Op: "open", Path: "/run/openct/status", Err: unix.EACCES})
	m.cannotSee(status.ErrNotRegular)
	m.cannotSee(denied)
	if len(told) != 3 {
		t.Errorf("told: %v", told)
	}
}
