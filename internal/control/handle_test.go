package control

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/devname"
)

// As a detached handler, which starts the program again, the test program plays
// the device that its command line names.
func TestMain(m *testing.M) {
	if os.Getenv(readyFD) != "" {
		os.Exit(play(os.Args[len(os.Args)-1]))
	}
	os.Exit(m.Run())
}

func play(device string) int {
	switch device {
	case "ready":
		reportReady()
	case "fails":
		os.Stderr.WriteString("ifdhandler: it fails\n")
		return 1
	case "killed":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	case "served":
	default:
		return 2
	}
	return 0
}

func TestDetach(t *testing.T) {
	tests := []struct {
		device string
		says   string // the handler, itself
		err    string
	}{
		{device: "ready"},
		{device: "served"}, // by another handler: ends well, and is not ready
		{device: "fails", says: "ifdhandler: it fails\n", err: cli.ErrExit(1).Error()},
		{device: "killed", err: "killed: handler: signal: killed"},
	}
	for _, tt := range tests {
		t.Run(tt.device, func(t *testing.T) {
			// A file, as standard error is: it goes to the handler as it is.
			file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			err = Handle(HandlerOptions{
				Target: devname.Target{Driver: "etoken64", Type: "virtual", Path: tt.device}, Stderr: file,
			})
			if got := errorText(err); got != tt.err {
				t.Errorf("error %q, want %q", got, tt.err)
			}
			said, err := os.ReadFile(file.Name())
			if err != nil || string(said) != tt.says {
				t.Errorf("said %q (%v), want %q", said, err, tt.says)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A directory that init cannot use comes with what to do.
func TestInitHint(t *testing.T) {
	tests := []struct {
		name string
		err  error
		hint string
	}{
		{"missing", unix.ENOENT, "systemd-tmpfiles --create"},
		{"forbidden", unix.EACCES, "run it as root"},
		{"read-only", unix.EROFS, "must be writable"},
		{"full", unix.ENOSPC, "make room"},
		{"something else", unix.EIO, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &Control{Dir: "/run/openct"}
			err := c.explainInit(tt.err)
			var hint *cli.Hint
			if got := errors.As(err, &hint); got != (tt.hint != "") {
				t.Fatalf("hint: %v", got)
			}
			if hint != nil && !strings.Contains(hint.Hint, tt.hint) {
				t.Errorf("%q does not say %q", hint.Hint, tt.hint)
			}
			if !errors.Is(err, tt.err) {
				t.Errorf("lost the error: %v", err)
			}
		})
	}
}
