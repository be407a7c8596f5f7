package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/printable"
)

// Released is a released reader: its device is plugged in and left to other programs,
// and no handler serves it until it is taken or plugged in anew. It is kept in a file
// beside the status file.
type Released struct {
	Reader int       `json:"reader"` // number that it had
	Name   string    `json:"name"`
	Alias  string    `json:"alias,omitempty"`
	Driver string    `json:"driver"`
	Type   string    `json:"type"`
	Device string    `json:"device"`
	Unit   string    `json:"unit,omitempty"` // systemd unit that served it
	Inode  uint64    `json:"inode"`          // of the device's node: a device that is plugged in anew has another
	Time   time.Time `json:"time"`

	UID  int `json:"-"` // owner of the file
	file string
}

// File is the file that says so.
func (r Released) File() string { return r.file }

const maxReleased = 16 << 10 // bytes of a file that a reader accepts

// releasedFile is the file about the device at a node. Whichever link leads to the
// node, it is the same.
func releasedFile(dir, node string) (path string, inode uint64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(node, &st); err != nil {
		return "", 0, wrap("stat", node, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return "", 0, wrap("use", node, errors.New("not a device"))
	}
	return filepath.Join(rooted(dir), fmt.Sprintf(".released.%d.%d.json", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))), st.Ino, nil
}

// releasedFiles are what is called like files about released readers.
func releasedFiles(dir string) []string {
	entries, err := os.ReadDir(rooted(dir))
	if err != nil {
		return nil // the status file cannot be read either
	}
	var paths []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".released.") && strings.HasSuffix(e.Name(), ".json") {
			paths = append(paths, filepath.Join(rooted(dir), e.Name()))
		}
	}
	return paths
}

// WriteReleased notes that the device at a node is released.
func WriteReleased(dir, node string, r Released) error {
	path, inode, err := releasedFile(dir, node)
	if err != nil {
		return err
	}
	r.Inode, r.Time = inode, time.Now()
	b, err := json.Marshal(r.clean())
	if err != nil {
		return wrap("write", path, err)
	}
	return wrap("write", path, writeAtomic(path, append(b, '\n'), fileMode))
}

// RemoveReleased ends that state of the device at a node. That there was none is no
// error.
func RemoveReleased(dir, node string) error {
	path, _, err := releasedFile(dir, node)
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ReleasedAt says whether the device at a node is released.
func ReleasedAt(dir, node string) (Released, bool) {
	path, inode, err := releasedFile(dir, node)
	if err != nil {
		return Released{}, false
	}
	r, err := readReleased(path)
	return r, err == nil && r.Inode == inode
}

// AllReleased are the released readers and are still plugged in, by their
// numbers. root is the file system's.
func AllReleased(dir, root string) []Released {
	var all []Released
	for _, path := range releasedFiles(dir) {
		r, err := readReleased(path)
		if err != nil {
			continue
		}
		if is, inode, err := releasedFile(dir, filepath.Join(root, r.Device)); err == nil && is == path && inode == r.Inode {
			all = append(all, r)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Reader < all[j].Reader })
	return all
}

// ForgetReleased removes the files about devices that are gone.
func ForgetReleased(dir, root string) {
	current := AllReleased(dir, root)
	for _, path := range releasedFiles(dir) {
		if !slices.ContainsFunc(current, func(r Released) bool { return r.file == path }) {
			_ = os.Remove(path)
		}
	}
}

func readReleased(path string) (Released, error) {
	fd, st, err := openPlain(path, unix.O_RDONLY)
	if err != nil {
		return Released{}, wrap("open", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxReleased+1))
	if err != nil {
		return Released{}, wrap("read", path, err)
	}
	r, err := decodeReleased(b)
	r.UID, r.file = int(st.Uid), path
	return r, wrap("read", path, err)
}

// decodeReleased reads the content of such a file. What it returns can be shown.
func decodeReleased(b []byte) (Released, error) {
	if len(b) > maxReleased {
		return Released{}, fmt.Errorf("file of a released reader is longer than %d bytes", maxReleased)
	}
	var r Released
	if err := json.Unmarshal(b, &r); err != nil {
		return Released{}, fmt.Errorf("file of a released reader is not valid: %w", err)
	}
	return r.clean(), nil
}

func (r Released) clean() Released {
	for _, s := range []*string{&r.Name, &r.Alias, &r.Driver, &r.Type, &r.Device, &r.Unit} {
		*s = cut(printable.Line(*s), maxString)
	}
	return r
}
