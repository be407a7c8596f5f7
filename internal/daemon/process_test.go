package daemon

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/devname"
)

// As a process that Start has started, the test program plays the device that
// its command line names.
func TestMain(m *testing.M) {
	if os.Getenv(readyFD) != "" {
		if want := "ifdhandler --id usb:0529/0600/0100 -f  ccid serial "; !strings.HasPrefix(strings.Join(os.Args, " "), want) {
			os.Stderr.WriteString(strings.Join(os.Args, " "))
			os.Exit(2)
		}
		os.Exit(play(os.Args[len(os.Args)-1]))
	}
	os.Exit(m.Run())
}

func play(device string) int {
	switch device {
	case "ready":
		ReportReady()
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

func TestStart(t *testing.T) {
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
			p := Process{
				Target: devname.Target{Driver: "ccid", Type: "serial", Path: tt.device, ID: devname.USBID(0x0529, 0x0600, 0x0100)},
				Stderr: file,
			}
			err = p.Start(nil)
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

func TestEconomise(t *testing.T) {
	cpus, gc := runtime.GOMAXPROCS(0), debug.SetGCPercent(100)
	defer func() {
		runtime.GOMAXPROCS(cpus)
		debug.SetGCPercent(gc)
	}()
	Economise()
	if n := runtime.GOMAXPROCS(0); n != 1 {
		t.Errorf("%d CPUs", n)
	}
	if n := debug.SetGCPercent(100); n != 25 {
		t.Errorf("heap may grow by %d %%", n)
	}
}
