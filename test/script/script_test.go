// Package script tests the commands as people and scripts use them: the scripts
// in testdata are command lines, what they print and how they end, a topic each,
// to be read as documentation as well. They run the programs that "make build"
// makes, each script in a directory of its own, with virtual tokens.
//
//	go test ./test/script -run 'TestScripts/status'
//
// Besides testscript's own commands scripts may use those of commands_test.go:
//
//	handlers N           wait until N handler processes serve this script's directory, or watch for it
//	signal NAME N        send a signal (KILL, TERM) to reader N's handler, and wait for its end
//	serve DEVICE         be the handler of a device, as far as the status file tells
//	serial NAME DRIVER CARD
//	                     be a reader for this driver at a pseudo-terminal, and put its path into a variable
//	client N             be a client that has reader N's card locked
//	leave                be that client no longer
//	shown FILE REGEXP    wait for a line of a file that matches
//	listen-notify FILE   be what systemd is to a service: listen on FILE
//	notified REGEXP      wait for a notification that matches
package script

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"openct/internal/machine"
)

// programs is the directory with the commands under test.
var programs string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/script:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	// Detached handlers become our children, so that a killed one is gone at
	// once on machines whose process 1 is slow or no init at all.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	// Not below t.TempDir: other users have to reach it, too.
	top, err := os.MkdirTemp("", "openct-script-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(top)) }()
	if err := os.Chmod(top, 0o755); err != nil {
		return 0, err
	}
	programs = filepath.Join(top, "bin")
	// The machine's own openct.conf is none of our business.
	flags := "-X openct/internal/cli.ConfigFile=" + filepath.Join(programs, "openct.conf")
	args := append([]string{"build", "-ldflags", flags, "-o", programs + "/"}, buildFlags...)
	build := exec.Command("go", append(args, "openct/cmd/openct", "openct/cmd/openct-vtoken")...)
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%v: %w\n%s", build, err, out)
	}
	for _, name := range []string{"openct-control", "ifdhandler", "openct-tool", "openct-generator", "ifdproxy"} {
		if err := os.Symlink("openct", filepath.Join(programs, name)); err != nil {
			return 0, err
		}
	}
	os.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	os.Setenv("GORACE", "atexit_sleep_ms=0") // a program with the race detector sleeps a second at its end otherwise
	return m.Run(), nil
}

// useSources looks at the sources of the programs under test. A test's result is kept
// until a file changes at which the test has looked ("go help test"), and the programs
// are built by another process.
func useSources(t *testing.T) {
	t.Helper()
	for _, top := range []string{"../../cmd", "../../internal", "../../go.mod", "../../go.sum"} {
		// WalkDir looks at each directory, whose state includes that of its files.
		if err := filepath.WalkDir(top, func(_ string, _ fs.DirEntry, err error) error { return err }); err != nil {
			t.Fatal(err)
		}
	}
}

func TestScripts(t *testing.T) {
	t.Parallel()
	useSources(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		Cmds:                commands,
		Setup:               setup,
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			case "systemd":
				return machine.Here.SystemdRuns(), nil
			}
			return false, fmt.Errorf("no such condition")
		},
	})
}

// setup gives a script a directory for OpenCT's files, and sees to it that no
// handler outlives the script.
func setup(env *testscript.Env) error {
	dir := filepath.Join(env.WorkDir, "run")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	env.Setenv("OPENCT_SOCKETDIR", dir)
	env.Setenv("GORACE", os.Getenv("GORACE"))
	env.Setenv("RUN", dir)
	env.Setenv("BIN", programs)
	w := &world{dir: dir}
	env.Values[worldKey{}] = w
	env.Defer(func() {
		if err := w.end(); err != nil {
			env.T().Log("clean up: ", err)
		}
	})
	return nil
}

// patience is how long anything may take before a script fails.
const patience = 30 * time.Second

func deadline() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}
