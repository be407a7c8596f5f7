//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// tracing is the kernel's own count of the system calls of a process
// (Documentation/trace/events.rst). Unlike strace it neither stops threads, which
// makes transfers late, nor wakes those that sleep.
type tracing struct {
	dir     string
	threads []string
}

// callsBuffer is room for the calls of some seconds, on each processor, in KiB.
const callsBuffer = 32768

// trace begins to count the calls of the threads that the process has.
func trace(pid int) (*tracing, error) {
	t := &tracing{dir: "/sys/kernel/tracing"}
	if err := unix.Mount("tracefs", t.dir, "tracefs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("mount %s: %w", t.dir, err)
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(tasks) == 0 {
		return nil, fmt.Errorf("process %d: no threads, %w", pid, err)
	}
	var filter []string
	for _, task := range tasks {
		t.threads = append(t.threads, filepath.Base(task))
		filter = append(filter, "common_pid=="+filepath.Base(task))
	}
	return t, errors.Join(
		t.write("tracing_on", "0"),
		t.write("trace", ""),
		t.write("buffer_size_kb", strconv.Itoa(callsBuffer)),
		t.write("events/raw_syscalls/sys_enter/filter", strings.Join(filter, "||")),
		t.write("events/raw_syscalls/sys_enter/enable", "1"),
		t.write("tracing_on", "1"),
	)
}

func (t *tracing) write(name, value string) error {
	return os.WriteFile(filepath.Join(t.dir, name), []byte(value+"\n"), 0o644)
}

func (t *tracing) stop() error {
	return errors.Join(t.write("tracing_on", "0"), t.write("events/raw_syscalls/sys_enter/enable", "0"))
}

// A line of the file trace: "ifdhandler-431 [001] ..... 62.145: sys_enter: NR 16 (...)".
var callLine = regexp.MustCompile(`-([0-9]+) +\[.*sys_enter: NR ([0-9]+) `)

// count puts the calls that were made since trace into r.
func (t *tracing) count(r *result) error {
	if err := t.stop(); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(t.dir, "trace"))
	if err != nil {
		return err
	}
	byThread := make(map[string]map[int]int)
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		m := callLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		if byThread[m[1]] == nil {
			byThread[m[1]] = make(map[int]int)
		}
		number, _ := strconv.Atoi(m[2])
		byThread[m[1]][number]++
	}
	err = errors.Join(t.write("trace", ""), t.write("buffer_size_kb", "4"))
	if len(byThread) == 0 {
		return fmt.Errorf("no calls counted, %w", err)
	}
	r.ByName = make(map[string]float64)
	for _, numbers := range byThread {
		each := make(map[string]float64)
		for number, n := range numbers {
			each[callName(number)] += float64(n) / float64(max(r.APDUs, 1))
		}
		for name, n := range each {
			// Go's own monitor thread, the one that calls nanosleep, works by the clock
			// and not for an APDU.
			if each["nanosleep"] > 0 {
				r.Monitor += n
				continue
			}
			r.Calls += n
			r.ByName[name] += n
		}
	}
	return err
}

// callName names the calls that a handler makes while it serves; of others it
// gives the number.
func callName(number int) string {
	switch number {
	case unix.SYS_IOCTL:
		return "ioctl"
	case unix.SYS_PPOLL:
		return "ppoll"
	case unix.SYS_READ:
		return "read"
	case unix.SYS_WRITE:
		return "write"
	case unix.SYS_EPOLL_PWAIT:
		return "epoll_pwait"
	case unix.SYS_NANOSLEEP:
		return "nanosleep"
	case unix.SYS_FUTEX:
		return "futex"
	case unix.SYS_RT_SIGRETURN:
		return "rt_sigreturn"
	}
	return strconv.Itoa(number)
}
