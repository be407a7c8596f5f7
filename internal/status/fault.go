package status

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/printable"
)

// Fault is why a handler could not serve a device, or could not go on. The last one
// is kept in a file beside the status file, for the programs that say why there is no reader.
type Fault struct {
	Time   time.Time `json:"time"`
	PID    int       `json:"pid"`
	Device string    `json:"device,omitempty"`
	Driver string    `json:"driver,omitempty"`
	Unit   string    `json:"unit,omitempty"`
	Error  string    `json:"error"`
}

const (
	faultName = ".fault.json"
	maxFault  = 16 << 10 // bytes that a reader accepts
)

// WriteFault writes the error with which this handler ends. f.PID is filled in.
func WriteFault(dir string, f Fault) error {
	path := filepath.Join(rooted(dir), faultName)
	f.PID = os.Getpid()
	b, err := json.Marshal(f.clean())
	if err != nil {
		return wrap("write", path, err)
	}
	return wrap("write", path, writeAtomic(path, append(b, '\n'), fileMode))
}

// ReadFault is the last fault; fs.ErrNotExist when there was none.
func ReadFault(dir string) (Fault, error) {
	path := filepath.Join(rooted(dir), faultName)
	fd, _, err := openPlain(path, unix.O_RDONLY)
	if err != nil {
		return Fault{}, wrap("open", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFault+1))
	if err != nil {
		return Fault{}, wrap("read", path, err)
	}
	f, err := decodeFault(b)
	return f, wrap("read", path, err)
}

// decodeFault reads the content of the file. What it returns can be shown.
func decodeFault(b []byte) (Fault, error) {
	if len(b) > maxFault {
		return Fault{}, fmt.Errorf("file of the last fault is longer than %d bytes", maxFault)
	}
	var f Fault
	if err := json.Unmarshal(b, &f); err != nil {
		return Fault{}, fmt.Errorf("file of the last fault is not valid: %w", err)
	}
	return f.clean(), nil
}

func (f Fault) clean() Fault {
	for _, s := range []*string{&f.Device, &f.Driver, &f.Unit, &f.Error} {
		*s = cut(printable.Line(*s), maxString)
	}
	return f
}
