package monitor

import (
	"errors"
	"os"
	"strconv"

	"openct/internal/status"
)

// snapshot is what the status file and the files beside it say.
type snapshot struct {
	stopped bool // there is no status file
	readers [status.Entries]reader
	fault   status.Fault // the last one
}

// reader is an entry that a living process has; otherwise entry.PID is 0.
type reader struct {
	entry  status.Entry
	ready  bool
	detail status.Detail // empty where there is none
	died   int           // process that has left the entry without clearing it
}

// look reads all; socket says whether a reader has one. An error means that nothing
// can be seen.
func look(dir string, p *processes, socket func(dir string, n int) bool) (snapshot, error) {
	var s snapshot
	f, err := status.OpenReadOnly(dir)
	if errors.Is(err, status.ErrNotInitialised) || errors.Is(err, status.ErrSize) {
		s.stopped = true // C OpenCT's init makes an empty file first
		return s, nil
	}
	if err != nil {
		return s, err
	}
	defer f.Close()
	// A handler makes its socket when its entry is complete: look in the other order.
	var sockets [status.Entries]bool
	for n := range sockets {
		sockets[n] = socket(dir, n)
	}
	entries, err := f.Entries()
	if err != nil {
		return s, err
	}
	pids := map[int]bool{}
	for n, e := range entries {
		r := &s.readers[n]
		if e.PID <= 0 {
			continue
		}
		pids[e.PID] = true
		if r.detail, err = f.ReadDetail(e); err != nil {
			r.detail = status.Detail{} // the entry is all there is to know
		}
		if !p.lives(e.PID) {
			r.died = e.PID
			continue
		}
		r.entry = e
		r.ready = e.Name != "" && sockets[n]
	}
	p.keep(pids)
	s.fault, _ = status.ReadFault(dir) // none, or none that makes sense
	s.fault.Time = s.fault.Time.UTC()  // so that two can be compared
	return s, nil
}

// exists says whether a reader has a socket.
func exists(dir string, n int) bool {
	st, err := os.Lstat(dir + "/" + strconv.Itoa(n))
	return err == nil && st.Mode().Type() == os.ModeSocket
}
