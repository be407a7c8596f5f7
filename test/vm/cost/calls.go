//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tracing is the kernel's own count of the system calls of a process
// (perf_event_open(2), tracepoint raw_syscalls:sys_enter). Unlike strace it neither
// stops threads, which makes transfers late, nor wakes those that sleep.
type tracing struct {
	pid     int
	threads map[string][]counter // by thread id
}

// counter counts the calls of one number, or all calls.
type counter struct {
	fd   int
	name string // empty: all
}

// errNewThread: a thread has started that was not counted. Go's runtime may leave the
// work to it.
var errNewThread = errors.New("a thread has started meanwhile")

// named are the calls that a handler makes while it serves.
var named = map[string]int{
	"ioctl": unix.SYS_IOCTL, "ppoll": unix.SYS_PPOLL, "read": unix.SYS_READ, "write": unix.SYS_WRITE,
	"epoll_pwait": unix.SYS_EPOLL_PWAIT, "nanosleep": unix.SYS_NANOSLEEP, "futex": unix.SYS_FUTEX, "rt_sigreturn": unix.SYS_RT_SIGRETURN,
}

// trace begins to count the calls of the threads that the process has.
func trace(pid int) (*tracing, error) {
	const dir = "/sys/kernel/tracing"
	if err := unix.Mount("tracefs", dir, "tracefs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "events/raw_syscalls/sys_enter/id"))
	if err != nil {
		return nil, err
	}
	event, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return nil, err
	}
	t := &tracing{pid: pid, threads: make(map[string][]counter)}
	for _, thread := range threadsOf(pid) {
		if err := t.add(thread, event, "", ""); err != nil {
			return nil, errors.Join(err, t.stop())
		}
		for name, number := range named {
			if err := t.add(thread, event, name, fmt.Sprintf("id==%d", number)); err != nil {
				return nil, errors.Join(err, t.stop())
			}
		}
	}
	if len(t.threads) == 0 {
		return nil, fmt.Errorf("process %d has no threads", pid)
	}
	return t, nil
}

// threadsOf are the ids of the threads that a process has.
func threadsOf(pid int) (ids []string) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		ids = append(ids, filepath.Base(task))
	}
	return ids
}

func (t *tracing) add(thread string, event uint64, name, filter string) error {
	id, err := strconv.Atoi(thread)
	if err != nil {
		return err
	}
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: event}
	attr.Size = uint32(unsafe.Sizeof(attr))
	fd, err := unix.PerfEventOpen(&attr, id, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("perf_event_open", err)
	}
	t.threads[thread] = append(t.threads[thread], counter{fd, name})
	if filter == "" {
		return nil
	}
	text, err := unix.BytePtrFromString(filter)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.PERF_EVENT_IOC_SET_FILTER, uintptr(unsafe.Pointer(text)))
	if errno != 0 {
		return os.NewSyscallError("PERF_EVENT_IOC_SET_FILTER", errno)
	}
	return nil
}

func (t *tracing) stop() (err error) {
	for _, counters := range t.threads {
		for _, c := range counters {
			err = errors.Join(err, unix.Close(c.fd))
		}
	}
	return err
}

// count puts the calls that were made since trace into r.
func (t *tracing) count(r *result) error {
	r.ByName = make(map[string]float64)
	for _, counters := range t.threads {
		each := make(map[string]float64)
		all, others := 0.0, 0.0
		for _, c := range counters {
			var b [8]byte
			if _, err := unix.Read(c.fd, b[:]); err != nil {
				return fmt.Errorf("read a counter: %w", err)
			}
			n := float64(binary.NativeEndian.Uint64(b[:])) / float64(max(r.APDUs, 1))
			if c.name == "" {
				all = n
				others += n
				continue
			}
			each[c.name] = n
			others -= n
		}
		// Go's own monitor thread, the one that calls nanosleep, works by the clock
		// and not for an APDU.
		if each["nanosleep"] > 0 {
			r.Monitor += all
			continue
		}
		r.Calls += all
		each["others"] = others
		for name, n := range each {
			r.ByName[name] += n
		}
	}
	for _, thread := range threadsOf(t.pid) {
		if t.threads[thread] == nil {
			return errNewThread
		}
	}
	return nil
}
