package machine

import (
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a process other than this one.
type Process struct {
	PID  int
	Name string // empty where that is not to be seen

	dir string // in /proc
}

// Processes lists the processes in the order of their numbers.
func (r Root) Processes() []Process {
	entries, err := os.ReadDir(r.Path("proc"))
	if err != nil {
		return nil
	}
	var list []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join(r.Path("proc"), e.Name())
		list = append(list, Process{PID: pid, Name: Attribute(dir, "comm"), dir: dir})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].PID < list[j].PID })
	return list
}

// Open lists the files that the process has open, as far as this process may see
// that. A file is named once.
func (p Process) Open() []string {
	fds, err := os.ReadDir(filepath.Join(p.dir, "fd"))
	if err != nil {
		return nil // another user's, or gone
	}
	var files []string
	for _, fd := range fds {
		if file, err := os.Readlink(filepath.Join(p.dir, "fd", fd.Name())); err == nil && !slices.Contains(files, file) {
			files = append(files, file)
		}
	}
	return files
}

// Args is the command line of the process; empty where that is not to be seen.
func (p Process) Args() []string {
	line, err := os.ReadFile(filepath.Join(p.dir, "cmdline"))
	if err != nil || len(line) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
}

// Capabilities that open every directory (capabilities(7)).
const capDAC = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH

// ShutOut says whether the process may not enter a directory, by what its status
// file says (proc_pid_status(5)). Where that is not to be seen, it may.
func (p Process) ShutOut(dir string) bool {
	info, err := os.Stat(dir)
	text, err2 := os.ReadFile(filepath.Join(p.dir, "status"))
	if err != nil || err2 != nil {
		return false
	}
	st := info.Sys().(*syscall.Stat_t)
	uid, groups := -1, []string(nil)
	for l := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(l, ":")
		values := strings.Fields(value)
		switch {
		case key == "CapEff" && len(values) == 1:
			if caps, err := strconv.ParseUint(values[0], 16, 64); err != nil || caps&capDAC != 0 {
				return false
			}
		case key == "Uid" && len(values) == 4: // real, effective, saved, file system
			if uid, err = strconv.Atoi(values[3]); err != nil {
				return false
			}
		case key == "Gid" && len(values) == 4:
			groups = append(groups, values[3])
		case key == "Groups":
			groups = append(groups, values...)
		}
	}
	shift := 0
	switch {
	case uid < 0:
		return false
	case uid == int(st.Uid):
		shift = 6
	case slices.Contains(groups, strconv.Itoa(int(st.Gid))):
		shift = 3
	}
	return info.Mode().Perm()>>shift&0o1 == 0
}
