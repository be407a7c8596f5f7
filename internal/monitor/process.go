package monitor

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"openct/internal/status"
)

// processes are the readers' handlers. One that is killed changes no file; its
// pidfd tells (pidfd_open(2)).
type processes struct {
	news func() // one has ended
	open map[int]*process
	wait sync.WaitGroup
}

type process struct {
	pidfd *os.File
	dead  atomic.Bool
}

// lives says whether a handler lives, and waits for its end from now on.
func (p *processes) lives(pid int) bool {
	if pid <= 0 {
		return false
	}
	if known, ok := p.open[pid]; ok {
		return !known.dead.Load()
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return false
	}
	if err == nil {
		err = unix.SetNonblock(fd, true) // for Go's poller
	}
	if err != nil { // a kernel that knows no pidfd: its end is seen at the next news
		return status.Alive(pid)
	}
	proc := &process{pidfd: os.NewFile(uintptr(fd), "pidfd")}
	p.open[pid] = proc
	p.wait.Add(1)
	go func() {
		defer p.wait.Done()
		proc.await(p.news)
	}()
	// It may have ended before, as a zombie does that nobody waits for.
	return !proc.ended(fd)
}

// await waits for the end of the process, or for Close of its pidfd.
func (p *process) await(news func()) {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return
	}
	if conn.Read(func(fd uintptr) bool { return p.ended(int(fd)) }) == nil {
		p.dead.Store(true)
		news()
	}
}

func (p *process) ended(fd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
}

// keep gives up all but the given ones.
func (p *processes) keep(pids map[int]bool) {
	for pid, proc := range p.open {
		if !pids[pid] {
			proc.pidfd.Close()
			delete(p.open, pid)
		}
	}
}

func (p *processes) close() {
	p.keep(nil)
	p.wait.Wait()
}
