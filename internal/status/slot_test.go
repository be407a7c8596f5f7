package status

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestClaimOrder(t *testing.T) {
	tests := []struct {
		name string
		live []int
		want int
	}{
		{"empty file", nil, 0},
		{"first hole", []int{0, 2, 3}, 1},
		{"hole at the start", []int{1}, 0},
		{"last one", []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, 15},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := mustOpen(t, initDir(t))
			var all [Entries]*Slot
			for n := range all {
				all[n] = mustClaim(t, f)
				if all[n].Index() != n {
					t.Fatalf("claim %d took entry %d", n, all[n].Index())
				}
			}
			if _, err := Claim(f, Detail{}); !errors.Is(err, ErrNoFreeSlot) {
				t.Fatalf("the 17th: %v, want ErrNoFreeSlot", err)
			}
			for n, s := range all {
				if !slices.Contains(tt.live, n) {
					if err := s.Release(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if got := mustClaim(t, f).Index(); got != tt.want {
				t.Errorf("claimed %d, want %d", got, tt.want)
			}
		})
	}
}

func TestClaimAtOnce(t *testing.T) {
	dir := initDir(t)
	f := mustOpen(t, dir)
	const goroutines, processes = 32, 4
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		taken []int
		full  int
	)
	won := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		taken = append(taken, n)
	}
	lost := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(err.Error(), ErrNoFreeSlot.Error()) {
			full++
		} else {
			t.Error(err)
		}
	}
	start := make(chan struct{})
	for range goroutines {
		wg.Add(1)
		go func() {
			defer wg.Done()
			own := mustOpen(t, dir)
			<-start
			s, err := Claim(own, Detail{})
			if err != nil {
				lost(err)
				return
			}
			t.Cleanup(func() { s.Release() })
			won(s.Index())
		}()
	}
	for range processes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			<-start
			d := startHandler(t, dir)
			if n, err := strconv.Atoi(d.line); err == nil {
				won(n)
			} else {
				lost(errors.New(d.line))
			}
		}()
	}
	close(start)
	wg.Wait()
	slices.Sort(taken)
	if want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; !slices.Equal(taken, want) {
		t.Errorf("entries taken: %v", taken)
	}
	if full != goroutines+processes-Entries {
		t.Errorf("%d times no free slot, want %d", full, goroutines+processes-Entries)
	}
	if _, err := f.Entries(); err != nil {
		t.Error(err)
	}
}

func TestProcessesClaimInOrder(t *testing.T) {
	dir := initDir(t)
	f := mustOpen(t, dir)
	var handlers []*handler
	for n := range 3 {
		d := startHandler(t, dir)
		if d.line != strconv.Itoa(n) {
			t.Fatalf("handler %d got %q", n, d.line)
		}
		if got := mustEntry(t, f, n).PID; got != d.Process.Pid {
			t.Fatalf("entry %d has pid %d, want %d", n, got, d.Process.Pid)
		}
		handlers = append(handlers, d)
	}
	handlers[0].kill(t)
	if e := mustEntry(t, f, 0); e.PID != handlers[0].Process.Pid || e.InUse() {
		t.Errorf("after kill -9: %+v, want the dead pid", e)
	}
	handlers[1].end(t)
	if e := mustEntry(t, f, 1); e != (Entry{Index: 1}) {
		t.Errorf("after a clean end: %+v, want a free entry", e)
	}
	for n := range 2 {
		if got := mustClaim(t, f).Index(); got != n {
			t.Errorf("claimed %d, want %d", got, n)
		}
	}
	if got := mustClaim(t, f).Index(); got != 3 {
		t.Errorf("claimed %d, want 3: entry 2 has a living handler", got)
	}
}

func TestWhatCountsAsInUse(t *testing.T) {
	tests := []struct {
		name string
		pid  func(t *testing.T) int
		make func(t *testing.T, dir string)
		want int // entry that is claimed
	}{
		{"dead pid", deadPID, nil, 0},
		{"pid that another program has now", func(*testing.T) int { return os.Getppid() }, nil, 0},
		{"our own pid from an earlier life", func(*testing.T) int { return os.Getpid() }, nil, 0},
		{"negative pid", func(*testing.T) int { return -1 }, nil, 0},
		{"another program has the pid, a stranger the socket", func(*testing.T) int { return os.Getppid() },
			func(t *testing.T, dir string) { listen(t, dir, 0) }, 0},
		{"lock held, entry cleared", func(*testing.T) int { return 0 },
			func(t *testing.T, dir string) {
				d := startHandler(t, dir)
				if d.line != "0" {
					t.Fatal(d.line)
				}
			}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := initDir(t)
			f := mustOpen(t, dir)
			if tt.make != nil {
				tt.make(t, dir)
			}
			fake(t, f, Entry{Name: "Stale", Slots: 2, Cards: [8]uint32{7}, PID: tt.pid(t)})
			s := mustClaim(t, f)
			if s.Index() != tt.want {
				t.Errorf("claimed %d, want %d", s.Index(), tt.want)
			}
			if diff := cmp.Diff(Entry{Index: tt.want, PID: os.Getpid()}, mustEntry(t, f, tt.want)); diff != "" {
				t.Errorf("fresh entry (-want +got):\n%s", diff)
			}
		})
	}
}

// A C OpenCT handler holds no lock; its pid listens on the socket. The test
// process plays it, and another process must keep off its entry.
func TestEntryOfACHandler(t *testing.T) {
	dir := initDir(t)
	f := mustOpen(t, dir)
	l := listen(t, dir, 0)
	fake(t, f, Entry{Name: "C", Slots: 1, PID: os.Getpid()})
	if d := startHandler(t, dir); d.line != "1" {
		t.Errorf("claimed %q beside a living C handler, want 1", d.line)
	}
	l.Close()
	if d := startHandler(t, dir); d.line != "0" {
		t.Errorf("claimed %q after the C handler's socket went, want 0", d.line)
	}
}

// The owner of the directory can put a link to another program's socket there,
// but not make that program a reader's handler, which shutdown would end.
func TestListener(t *testing.T) {
	dir := initDir(t)
	listen(t, dir, 0)
	if err := os.Symlink(filepath.Join(dir, "0"), filepath.Join(dir, "1")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "2"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		n    int
		want int
	}{
		{"socket", 0, os.Getpid()},
		{"link to one", 1, 0},
		{"file", 2, 0},
		{"nothing", 3, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if pid := listener(dir, tt.n); pid != tt.want {
				t.Errorf("got %d, want %d", pid, tt.want)
			}
		})
	}
}

func TestOneDeviceOneEntry(t *testing.T) {
	dir := initDir(t)
	f := mustOpen(t, dir)
	token := Detail{Device: "/dev/bus/usb/001/004"}
	s, err := Claim(f, token)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Release() })
	var served *ServedError
	if _, err := Claim(f, token); !errors.As(err, &served) {
		t.Fatalf("second claim for one device: %v, want a ServedError", err)
	}
	if want := (ServedError{Device: token.Device, Reader: 0, PID: os.Getpid()}); *served != want {
		t.Errorf("got %+v, want %+v", *served, want)
	}
	other, err := Claim(f, Detail{Device: "/dev/bus/usb/001/005"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Release() })

	// Service restart: the old handler has not ended yet, its entry is cleared.
	if err := errors.Join(Retire(dir), Init(dir, mine)); err != nil {
		t.Fatal(err)
	}
	next, err := Claim(f, token)
	if err != nil {
		t.Fatalf("claim after shutdown and init: %v", err)
	}
	t.Cleanup(func() { next.Release() })
	if next.Index() != 2 {
		t.Errorf("claimed %d, want 2: the old handlers still have their sockets", next.Index())
	}
}

func TestClaimAfterReplacement(t *testing.T) {
	dir := initDir(t)
	f := mustOpen(t, dir)
	old := mustClaim(t, f)
	if err := os.Remove(f.path()); err != nil { // C OpenCT's init does that
		t.Fatal(err)
	}
	if _, err := Claim(f, Detail{}); !errors.Is(err, ErrNotInitialised) {
		t.Fatalf("claim in a file nobody sees: %v, want ErrNotInitialised", err)
	}
	if err := Init(dir, mine); err != nil {
		t.Fatal(err)
	}
	if err := old.SetCard(0, true, false); err != nil {
		t.Errorf("the old handler's mapping: %v", err)
	}
	if s := mustClaim(t, mustOpen(t, dir)); s.Index() != 1 {
		t.Errorf("claimed %d, want 1: the old handler still serves socket 0", s.Index())
	}
}

func TestPublish(t *testing.T) {
	f := mustOpen(t, initDir(t))
	s := mustClaim(t, f)
	tests := []struct {
		name string
		info Info
		want Entry
	}{
		{"token", Info{Name: "Aladdin eToken PRO 64k", Slots: 1}, Entry{Name: "Aladdin eToken PRO 64k", Slots: 1}},
		{"reader", Info{Name: "Kobil Kaan PRO", Slots: 2, Display: true, Keypad: true},
			Entry{Name: "Kobil Kaan PRO", Slots: 2, Display: true, Keypad: true}},
		{"too many slots", Info{Name: "Hub", Slots: 9, Keypad: true}, Entry{Name: "Hub", Slots: 8, Keypad: true}},
		{"negative slots", Info{Slots: -1}, Entry{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := s.Publish(tt.info); err != nil {
				t.Fatal(err)
			}
			tt.want.PID = os.Getpid()
			if diff := cmp.Diff(tt.want, mustEntry(t, f, 0)); diff != "" {
				t.Errorf("entry (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSetCard(t *testing.T) {
	f := mustOpen(t, initDir(t))
	s := mustClaim(t, f)
	if s.seq == 0 {
		t.Error("sequence starts at 0 like every handler's")
	}
	s.seq = 41
	steps := []struct {
		name             string
		slot             int
		present, changed bool
		want             [MaxSlots]uint32
	}{
		{"empty stays empty", 0, false, false, [8]uint32{}},
		{"changed but gone again", 0, false, true, [8]uint32{}},
		{"inserted", 0, true, false, [8]uint32{42}},
		{"still there", 0, true, false, [8]uint32{42}},
		{"one counter for all slots", 7, true, true, [8]uint32{42, 7: 43}},
		{"exchanged", 0, true, true, [8]uint32{44, 7: 43}},
		{"removed", 0, false, true, [8]uint32{7: 43}},
		{"beyond what can be shown", 8, true, true, [8]uint32{7: 43}},
		{"negative", -1, true, true, [8]uint32{7: 43}},
	}
	for _, tt := range steps {
		t.Run(tt.name, func(t *testing.T) {
			if err := s.SetCard(tt.slot, tt.present, tt.changed); err != nil {
				t.Fatal(err)
			}
			if got := mustEntry(t, f, 0).Cards; got != tt.want {
				t.Errorf("cards %v, want %v", got, tt.want)
			}
		})
	}
	s.seq = ^uint32(0)
	if err := s.SetCard(1, true, true); err != nil {
		t.Fatal(err)
	}
	if got := mustEntry(t, f, 0).Cards[1]; got != 1 {
		t.Errorf("after 2^32-1 comes %d, want 1: 0 is no card", got)
	}
}

func TestRelease(t *testing.T) {
	f := mustOpen(t, initDir(t))
	s := mustClaim(t, f)
	if err := errors.Join(s.Publish(Info{Name: "x", Slots: 1}), s.SetCard(0, true, true)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if e := mustEntry(t, f, 0); e != (Entry{}) {
		t.Errorf("entry after release: %+v", e)
	}
	next := mustClaim(t, f)
	if next.Index() != 0 {
		t.Fatalf("claimed %d, want 0", next.Index())
	}
	if err := s.SetCard(0, true, true); !errors.Is(err, ErrLost) {
		t.Errorf("SetCard after release: %v, want ErrLost", err)
	}
	if err := s.Publish(Info{Name: "y"}); !errors.Is(err, ErrLost) {
		t.Errorf("Publish after release: %v, want ErrLost", err)
	}
	if err := s.Release(); err != nil {
		t.Error(err)
	}
	if e := mustEntry(t, f, 0); e != (Entry{PID: os.Getpid()}) {
		t.Errorf("the next handler's entry: %+v", e)
	}
}

func TestConcurrentUse(t *testing.T) {
	f := mustOpen(t, initDir(t))
	s := mustClaim(t, f)
	var wg sync.WaitGroup
	for slot := range MaxSlots {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 100 {
				if err := s.SetCard(slot, true, true); err != nil {
					t.Error(err)
				}
				s.Publish(Info{Name: fmt.Sprint(slot), Slots: 8})
			}
		}()
	}
	wg.Wait()
	seen := map[uint32]bool{}
	for _, seq := range mustEntry(t, f, 0).Cards {
		if seq == 0 || seen[seq] {
			t.Errorf("sequence number %d twice", seq)
		}
		seen[seq] = true
	}
}

func TestTerminate(t *testing.T) {
	dir := initDir(t)
	f := mustOpen(t, dir)
	d := startHandler(t, dir)
	refused := []struct {
		name string
		n    int
		pid  int
	}{
		{"free entry", 1, 0},
		{"everybody", 1, -1},
		{"init", 1, 1},
		{"ourselves", 1, os.Getpid()},
		{"some other process", 1, d.Process.Pid},
		{"nobody", 1, deadPID(t)},
		{"beyond the file", 16, 0},
	}
	for _, tt := range refused {
		t.Run(tt.name, func(t *testing.T) {
			fake(t, f, Entry{Index: 1, PID: tt.pid})
			if _, err := f.Terminate(tt.n); !errors.Is(err, ErrNotHandler) {
				t.Errorf("got %v, want ErrNotHandler", err)
			}
		})
	}
	e, err := f.Terminate(0)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if e.PID != d.Process.Pid || !e.Wait(time.Now().Add(watchPatience)) {
		t.Errorf("process %d has not ended", e.PID)
	}
	d.Wait()
	if st := d.ProcessState.Sys().(syscall.WaitStatus); st.Signal() != syscall.SIGTERM {
		t.Errorf("handler ended with %v, want SIGTERM", d.ProcessState)
	}
	if _, err := f.Terminate(0); !errors.Is(err, ErrNotHandler) {
		t.Errorf("a second time: %v, want ErrNotHandler", err)
	}
}
