package status

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	fileName = "status"
	keepName = ".status.keep"
	fileMode = 0o644 // readable for every client
)

// words of an entry: every access to the mapping is one aligned 32-bit load or
// store, so no reader sees half a number.
const entryWords = entrySize / 4

// File is a mapped status file. It is safe for concurrent use. It stays valid,
// if no longer looked at by new clients, when the file is moved or replaced.
type File struct {
	dir      string
	dev, ino uint64
	uid      int // owner

	mu    sync.RWMutex // guards the mapping's existence, not its content
	data  []byte       // nil once closed
	words []uint32     // data again, in words
}

// Open maps the status file of dir for a handler, for reading and writing. A
// missing file is ErrNotInitialised, one of the wrong size ErrSize.
func Open(dir string) (*File, error) {
	return open(filepath.Join(rooted(dir), fileName), unix.O_RDWR)
}

// OpenReadOnly maps the status file of dir for looking at it.
func OpenReadOnly(dir string) (*File, error) {
	return open(filepath.Join(rooted(dir), fileName), unix.O_RDONLY)
}

// rooted is dir as clients understand it: they put a slash behind it, so that an
// empty OPENCT_SOCKETDIR is the root directory (C OpenCT's path.c).
func rooted(dir string) string {
	if dir == "" {
		return "/"
	}
	return dir
}

func open(path string, mode int) (*File, error) {
	fd, st, err := openPlain(path, mode)
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w: %w", err, ErrNotInitialised)
	}
	if errors.Is(err, unix.EACCES) {
		err = fmt.Errorf("%w; only root and the group of %s may use the readers, see \"openct-control doctor\"", err, filepath.Dir(path))
	}
	if err != nil {
		return nil, wrap("open", path, err)
	}
	defer unix.Close(fd) // the mapping keeps the file
	if st.Size != Size {
		return nil, wrap("open", path, fmt.Errorf("%w: %d bytes, not %d", ErrSize, st.Size, Size))
	}
	f, err := mapFile(filepath.Dir(path), fd, st, mode)
	return f, wrap("map", path, err)
}

// openPlain opens a file in a directory that an unprivileged user may own: no
// symbolic link is followed, no FIFO waited for, nothing but a plain file taken.
func openPlain(path string, mode int) (int, *unix.Stat_t, error) {
	fd, err := unix.Open(path, mode|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%w: symbolic link", ErrNotRegular)
	}
	if err != nil {
		return -1, nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = ErrNotRegular
	}
	if err != nil {
		unix.Close(fd)
		return -1, nil, err
	}
	return fd, &st, nil
}

func mapFile(dir string, fd int, st *unix.Stat_t, mode int) (*File, error) {
	prot := unix.PROT_READ
	if mode&unix.O_ACCMODE == unix.O_RDWR {
		prot |= unix.PROT_WRITE
	}
	data, err := unix.Mmap(fd, 0, Size, prot, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return &File{
		dir: dir, dev: uint64(st.Dev), ino: st.Ino, uid: int(st.Uid),
		data:  data,
		words: unsafe.Slice((*uint32)(unsafe.Pointer(&data[0])), Size/4),
	}, nil
}

// Close gives the mapping back. Entries claimed through it must be released
// before; afterwards their methods fail with ErrClosed.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.data == nil {
		return nil
	}
	data := f.data
	f.data, f.words = nil, nil
	return wrap("unmap", f.path(), unix.Munmap(data))
}

// Entries copies all sixteen entries, free ones too. An entry that changes hands
// during the copy is copied again.
func (f *File) Entries() ([]Entry, error) {
	entries := make([]Entry, Entries)
	err := f.access(func(words []uint32) {
		for n := range entries {
			entries[n] = loadEntry(n, words)
		}
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// Entry copies the entry of one reader. A number out of range is a free entry.
func (f *File) Entry(n int) (Entry, error) {
	if n < 0 || n >= Entries {
		return Entry{Index: n}, nil
	}
	var e Entry
	err := f.access(func(words []uint32) { e = loadEntry(n, words) })
	return e, err
}

func (f *File) path() string { return filepath.Join(f.dir, fileName) }

// Current says whether the mapped file is the one that clients open now.
func (f *File) Current() bool {
	var st unix.Stat_t
	err := unix.Lstat(f.path(), &st)
	return err == nil && uint64(st.Dev) == f.dev && st.Ino == f.ino
}

// access runs fn on the mapping. Somebody with write access to the file may
// truncate it under us; the kernel then raises SIGBUS for the first touch, which
// is fatal by default. Here it costs this one operation: the fault becomes
// ErrSize, the handler goes on serving its socket. (Comparing the size before each
// access would leave a gap between the look and the touch.)
func (f *File) access(fn func(words []uint32)) (err error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.words == nil {
		return wrap("use", f.path(), ErrClosed)
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case faultError:
			err = wrap("use", f.path(), ErrSize)
		default:
			panic(r)
		}
	}()
	fn(f.words)
	return nil
}

// faultError is what the runtime panics with for a memory fault under
// debug.SetPanicOnFault, and for nothing else.
type faultError interface {
	runtime.Error
	Addr() uintptr
}

// Positions of fields in an entry's words.
const (
	wordSlots = offSlots / 4
	wordCards = offCards / 4
	wordFlags = offFlags / 4
	wordPID   = offPID / 4
)

func entryOf(words []uint32, n int) []uint32 {
	return words[n*entryWords : (n+1)*entryWords : (n+1)*entryWords]
}

func loadEntry(n int, words []uint32) Entry {
	var b [entrySize]byte
	entry := entryOf(words, n)
	for range 4 { // a hostile writer cannot keep us here
		pid := atomic.LoadUint32(&entry[wordPID])
		for i := range entry {
			binary.NativeEndian.PutUint32(b[4*i:], atomic.LoadUint32(&entry[i]))
		}
		if binary.NativeEndian.Uint32(b[offPID:]) == pid && atomic.LoadUint32(&entry[wordPID]) == pid {
			break
		}
	}
	return decodeEntry(n, b[:], hostOrder())
}

// clearEntry frees an entry: the pid first, so that no client sees a living
// reader without a name (C OpenCT's ct_reader_info, client.c, looks at the pid first).
func clearEntry(entry []uint32) {
	atomic.StoreUint32(&entry[wordPID], 0)
	for i := range entry[:wordPID] {
		atomic.StoreUint32(&entry[i], 0)
	}
}

// Alive says whether a process has the pid, as clients ask it: only "no such
// process" means no. Numbers that kill(2) would take for a group are not alive, nor
// is a process that has ended, of which its parent has not taken note.
func Alive(pid int) bool {
	if pid <= 0 || errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return false
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return !errors.Is(err, unix.ESRCH)
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err != nil || n == 0
}
