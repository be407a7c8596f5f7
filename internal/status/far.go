package status

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
)

// farPrefix begins the name of the file that the handler of a far reader has locked. As
// long as the reader is not there the handler has no entry, and nothing else tells of it.
const farPrefix = ".far."

// FarLock says that this process is the handler of a far reader.
type FarLock struct{ file *lockFile }

// LockFar makes this process the handler of the far reader at device, until it ends.
// When there is another one, it returns ErrBusy.
func LockFar(dir, device string) (*FarLock, error) {
	hash := fnv.New64a()
	hash.Write([]byte(device))
	file, err := openLockNamed(rooted(dir), fmt.Sprintf("%s%016x", farPrefix, hash.Sum64()))
	if err != nil {
		return nil, err
	}
	if err := file.lockAsProcess(); err != nil {
		return nil, err
	}
	return &FarLock{file}, nil
}

// Close lets another process be the handler.
func (l *FarLock) Close() error { return l.file.Close() }

// EndFar asks the handlers of far readers to end. One that cannot be asked does not
// keep the others.
func EndFar(dir string) ([]*Ending, error) {
	files, err := os.ReadDir(rooted(dir))
	if err != nil {
		return nil, err
	}
	var asked []*Ending
	var failed []error
	for _, file := range files {
		if !strings.HasPrefix(file.Name(), farPrefix) {
			continue
		}
		e, err := endHolder(filepath.Join(rooted(dir), file.Name()))
		if e != nil {
			asked = append(asked, e)
		}
		failed = append(failed, err)
	}
	return asked, errors.Join(failed...)
}
