package status

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/socket"
)

// Slot is an entry that this process has claimed. Its methods may be called
// concurrently and at any time, also after Release.
type Slot struct {
	f   *File
	n   int
	pid uint32

	mu   sync.Mutex
	lock *lockFile // byte n locked; nil once released
	seq  uint32    // last card sequence number given out
}

// Info is what a handler tells about its reader.
type Info struct {
	Name    string // cut to maxName bytes
	Slots   int    // more than MaxSlots are shown as MaxSlots
	Display bool
	Keypad  bool
}

// Claim takes the free entry with the lowest number for this process: from now on
// clients see our pid there, without a name until Publish. When all are in use it
// returns ErrNoFreeSlot. When f is no longer the file that new clients open (init
// or shutdown came in between) it returns ErrNotInitialised: open it again.
//
// An entry is in use as long as its handler holds the lock on it, whatever its pid
// field says. Without the lock it is free unless it belongs to a C OpenCT handler,
// which knows no such lock: then its pid lives and is the very process that
// listens on the reader's socket. So a pid that some other program got after a
// crash blocks nothing. (A C handler that has claimed an entry but not yet made its
// socket looks free. Starting both kinds at the same moment is not supported.)
//
// d is the reader's first side file, written before another process can claim. When
// another living handler's names the same device, Claim returns a *ServedError:
// a device that is attached twice gets one handler. An empty d.Device is not compared.
func Claim(f *File, d Detail) (*Slot, error) {
	lock, err := openLock(f.dir)
	if err != nil {
		return nil, err
	}
	n, err := f.claim(lock, d)
	if err != nil {
		lock.Close()
		return nil, err
	}
	now := time.Now()
	pid := uint32(unix.Getpid())
	// A client that keeps its own copy of a sequence number must see a change
	// when the handler was restarted in between: start at a number that an
	// earlier handler has hardly reached.
	s := &Slot{f: f, n: n, pid: pid, lock: lock, seq: uint32(now.Unix())<<8 | pid&0xff}
	return s, nil
}

func (f *File) claim(lock *lockFile, d Detail) (int, error) {
	if err := lock.lockAlloc(); err != nil {
		return 0, err
	}
	defer lock.unlock(allocByte)
	if !f.Current() {
		return 0, wrap("use", f.path(), fmt.Errorf("the status file was replaced: %w", ErrNotInitialised))
	}
	free := -1
	for n := range Entries {
		used, err := f.inUse(n, lock)
		if err != nil {
			return 0, err
		}
		if !used {
			if free < 0 {
				free = n
			}
			continue
		}
		if d.Device == "" {
			continue
		}
		// An entry that shutdown has cleared belongs to a handler that ends: it
		// does not keep its device from another handler.
		e, err := f.Entry(n)
		if err != nil {
			return 0, err
		}
		if other, err := f.ReadDetail(e); err == nil && other.Device == d.Device {
			return 0, &ServedError{Device: d.Device, Reader: n, PID: other.PID}
		}
	}
	if free < 0 {
		return 0, wrap("claim an entry of", f.path(), ErrNoFreeSlot)
	}
	// The lock on the byte is free and nobody takes it without the allocation
	// lock, which we have.
	if ok, err := lock.try(free); err != nil || !ok {
		return 0, errors.Join(err, wrap("claim an entry of", f.path(), ErrBusy))
	}
	d.PID = unix.Getpid()
	if err := writeDetail(f.dir, free, d); err != nil {
		return 0, err
	}
	return free, f.access(func(words []uint32) {
		entry := entryOf(words, free)
		clearEntry(entry)
		atomic.StoreUint32(&entry[wordPID], uint32(unix.Getpid()))
	})
}

// inUse is the rule given at Claim.
func (f *File) inUse(n int, lock *lockFile) (bool, error) {
	if held, err := lock.held(n); held || err != nil {
		return held, err
	}
	e, err := f.Entry(n)
	if err != nil || e.PID == unix.Getpid() || !Alive(e.PID) {
		return false, err
	}
	return listener(f.dir, n) == e.PID, nil
}

// listener is the pid of the process that listens on a reader's socket; 0 when
// there is none or it is not to be learned. Connecting does not wait: a handler
// whose backlog is full listens, but does not say who it is. A link in the
// socket's place, to another program's socket, is not followed.
func listener(dir string, n int) int {
	file, err := socket.OpenFile(dir, n)
	if err != nil {
		return 0
	}
	defer file.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	if unix.Connect(fd, &unix.SockaddrUnix{Name: file.Addr()}) != nil {
		return 0
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0
	}
	return int(cred.Pid)
}

// Index is the reader number, and the name of the reader's socket.
func (s *Slot) Index() int { return s.n }

// Publish fills the entry. The name's first bytes come last: a client that sees
// a name sees everything else as well (C OpenCT's ct_reader_info, client.c, looks at the pid first).
func (s *Slot) Publish(info Info) error {
	var b [entrySize]byte
	order := hostOrder()
	Entry{Name: info.Name, Slots: info.Slots, Display: info.Display, Keypad: info.Keypad}.encode(b[:], order)
	return s.write(func(entry []uint32) {
		store := func(word int) { atomic.StoreUint32(&entry[word], order.Uint32(b[4*word:])) }
		atomic.StoreUint32(&entry[0], 0)
		store(wordSlots)
		store(wordFlags)
		for word := nameSize/4 - 1; word >= 0; word-- {
			store(word)
		}
	})
}

// SetCard tells what a card slot holds. The entry gets a new sequence number when
// a card is there that was not before (changed says that it is another one),
// 0 when there is none, and is not touched otherwise. A reset is no change. Slots
// from MaxSlots on cannot be shown and are ignored.
func (s *Slot) SetCard(slot int, present, changed bool) error {
	if slot < 0 || slot >= MaxSlots {
		return nil
	}
	return s.write(func(entry []uint32) {
		card := &entry[wordCards+slot]
		old := atomic.LoadUint32(card)
		switch {
		case !present && old != 0:
			atomic.StoreUint32(card, 0)
		case present && (changed || old == 0):
			atomic.StoreUint32(card, s.nextSeq())
		}
	})
}

// nextSeq skips 0, which means "no card".
func (s *Slot) nextSeq() uint32 {
	if s.seq++; s.seq == 0 {
		s.seq++
	}
	return s.seq
}

// write runs fn on the entry while it is ours. After a shutdown that did not wait
// for us the entry stays cleared: ErrLost.
func (s *Slot) write(fn func(entry []uint32)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return wrap("write entry in", s.f.path(), ErrLost)
	}
	ours := false
	err := s.f.access(func(words []uint32) {
		entry := entryOf(words, s.n)
		if ours = atomic.LoadUint32(&entry[wordPID]) == s.pid; ours {
			fn(entry)
		}
	})
	if err == nil && !ours {
		err = wrap("write entry in", s.f.path(), ErrLost)
	}
	if err == nil {
		s.f.announce()
	}
	return err
}

// announce wakes programs that watch the file: a store to the mapping raises no
// event, a change of its times does (inotify(7), IN_ATTRIB). Whoever does not
// watch looks now and then, as clients always had to.
func (f *File) announce() {
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, f.path(), now, unix.AT_SYMLINK_NOFOLLOW)
}

// Release clears the entry, the pid first, removes the side file and lets others
// have the number. Remove the reader's socket before: the next handler may bind it
// at once. Further calls do nothing; an entry that shutdown has cleared is no error.
func (s *Slot) Release() error {
	err := s.write(clearEntry)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return nil
	}
	removeDetail(s.f.dir, s.n)
	s.lock.Close()
	s.lock = nil
	if errors.Is(err, ErrLost) {
		return nil
	}
	return err
}

// Terminate asks the handler of an entry to end with SIGTERM. The file is writable
// by the handlers' user, so root must not signal whatever pid it finds there:
// Terminate returns ErrNotHandler unless IsHandler.
func (f *File) Terminate(n int) (*Ending, error) {
	pidfd, pid, err := f.handler(n)
	if err != nil {
		return nil, err
	}
	e, err := ask(pidfd, pid)
	return e, wrap("terminate", fmt.Sprintf("reader %d", n), err)
}

// IsHandler says whether the process that entry n names serves that reader: it holds
// the entry's lock or listens on its socket and, where the file is not root's, runs
// as the file's owner. What the file says alone proves nothing: its owner can write
// any number there.
func (f *File) IsHandler(n int) bool {
	pidfd, _, err := f.handler(n)
	if err != nil {
		return false
	}
	return unix.Close(pidfd) == nil
}

// handler opens the process of entry n, or says in the error that it is no handler. The
// descriptor stands for this very process: should the pid be reused after the
// checks, a signal goes nowhere.
func (f *File) handler(n int) (pidfd, pid int, err error) {
	e, err := f.Entry(n)
	if err != nil {
		return -1, 0, err
	}
	fail := func(err error) (int, int, error) {
		if pidfd >= 0 {
			unix.Close(pidfd)
		}
		return -1, 0, wrap("terminate", fmt.Sprintf("process %d of reader %d", e.PID, n), err)
	}
	pidfd = -1
	if e.PID <= 1 || e.PID == unix.Getpid() {
		return fail(ErrNotHandler)
	}
	pidfd, err = unix.PidfdOpen(e.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		err = ErrNotHandler
	}
	if err != nil {
		return fail(err)
	}
	if listener(f.dir, n) != e.PID {
		lock, err := openLock(f.dir)
		if err != nil {
			return fail(err)
		}
		defer lock.Close()
		if held, err := lock.held(n); err != nil || !held {
			return fail(errors.Join(ErrNotHandler, err))
		}
	}
	if f.uid != 0 && processOwner(e.PID) != f.uid {
		return fail(ErrNotHandler)
	}
	return pidfd, e.PID, nil
}

// processOwner is the user a process runs as; -1 when that is not to be learned.
func processOwner(pid int) int {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", pid), &st); err != nil {
		return -1
	}
	return int(st.Uid)
}
