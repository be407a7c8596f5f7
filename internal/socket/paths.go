package socket

import (
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// DefaultDir is where sockets and the status file are (C OpenCT's path.c).
const DefaultDir = "/run/openct"

// EnvDir is the environment variable that names another directory.
const EnvDir = "OPENCT_SOCKETDIR"

// Dir returns the directory of sockets and status file: $OPENCT_SOCKETDIR if
// it is set, even to nothing, else DefaultDir. A process that runs with more
// rights than its caller (setuid, setgid, file capabilities) pays no heed to
// the variable.
func Dir() string { return dir(os.LookupEnv, elevated()) }

func dir(lookup func(string) (string, bool), elevated bool) string {
	if d, ok := lookup(EnvDir); ok && !elevated {
		return d
	}
	return DefaultDir
}

// Path returns the path of file in dir. An empty dir is the root directory,
// as it is to libopenct.
func Path(dir, file string) string {
	if dir == "" {
		dir = "/"
	}
	return filepath.Join(dir, file)
}

// ReaderPath returns the socket of reader n, its index in the status file.
func ReaderPath(dir string, n int) string { return Path(dir, strconv.Itoa(n)) }

// atSecure is AT_SECURE of the auxiliary vector (getauxval(3)): the kernel
// says that the program was started with elevated rights.
const atSecure = 23

func elevated() bool {
	if os.Getuid() != os.Geteuid() || os.Getgid() != os.Getegid() {
		return true
	}
	aux, err := unix.Auxv()
	if err != nil {
		return false
	}
	for _, kv := range aux {
		if kv[0] == atSecure {
			return kv[1] != 0
		}
	}
	return false
}
