package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/config"
	"openct/internal/devname"
	"openct/internal/logging"
	"openct/internal/notify"
	"openct/internal/printable"
	"openct/internal/remote"
	"openct/internal/socket"
	"openct/internal/status"
)

// Process is a handler process: what it serves, and how it lives. Its name is
// ifdhandler, whichever command it was started by.
type Process struct {
	Target     devname.Target
	Config     *config.Config // for Serve
	ConfigFile string         // where Config is from
	Debug      int
	Syslog     bool
	Openers    map[string]Opener // by device type
	Stderr     io.Writer
}

const processName = "ifdhandler"

// readyFD is the environment variable that tells a process that Detach has
// started it, and by which descriptor to report that it is ready.
const readyFD = "OPENCT_READY_FD"

// readyWait is how long Detach waits for a process to be ready: for
// openct-control init, and for a token that is slow to reset.
const readyWait = 60 * time.Second

// Started says whether Detach started this process.
func Started() bool { return os.Getenv(readyFD) != "" }

// Serve serves the device in this process until it is unplugged. A device that
// is served already is a success.
func (p *Process) Serve() error {
	started := Started()
	Economise()
	// The process may have been started by a link to the executable, by the
	// executable itself, or as openct-control. It does as well without the name.
	_ = os.WriteFile("/proc/self/comm", []byte(processName), 0)
	to := logging.Options{Debug: max(p.Debug, p.Config.Debug), Syslog: p.Syslog || started, Stderr: p.Stderr, Ident: processName}
	if started {
		to.Stderr = io.Discard // where there is no syslog either; the error that ends it is returned
	}
	log := logging.New(to)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()
	run := Options{
		Target: p.Target, Dir: socket.Dir(), Config: p.Config, Log: log, Notify: notify.FromEnv(log), Openers: p.Openers,
	}
	if started {
		run.Ready, run.Waits = ReportReady, p.sayWaits
	}
	err := Run(ctx, run)
	var served *status.ServedError
	waits := errors.Is(err, errFarWaits)
	if waits && started {
		fmt.Fprintf(p.Stderr, "%s: %s\n", processName, printable.Line(err.Error()))
	}
	if waits || errors.As(err, &served) {
		// To systemd, a service that ends before it is ready has failed.
		run.Notify.Ready(err.Error())
		log.Info(err.Error())
		return nil
	}
	if err != nil && started {
		log.Error(err.Error(), "device", p.Target.Path)
	}
	return Explain(err, p.Target.Type)
}

// sayWaits tells the process that has started this one that there is no reader yet. That
// is no failure: the handler serves the reader when it is there, and a service
// manager that took it for one would end the handler.
func (p *Process) sayWaits(err error) {
	why, next := remote.Advice(err.Error(), p.Target.Path)
	fmt.Fprintf(p.Stderr, "%s: the handler waits for the far reader, which is not there: %s\nnext: %s\n",
		processName, printable.Line(why), printable.Line(next))
}

// Economise keeps a process small that sleeps most of the time and has one thing
// to do.
func Economise() {
	// Commands leave little garbage: the heap need not grow to 4 MB before it is
	// collected (runtime/debug, SetGCPercent).
	debug.SetGCPercent(25)
	// There is one card, and so one command at a time. More threads would hand
	// the work to each other.
	runtime.GOMAXPROCS(1)
}

// Start starts a process that serves the device, as a session of its own, and
// waits until it serves clients or gives up. Why it gave up it says by itself.
// credential is who the process runs as; nil: as this one.
func (p *Process) Start(credential *syscall.Credential) error {
	child, err := p.StartChild(credential)
	if child != nil {
		return child.Release()
	}
	return err
}

// StartChild is Start for a caller that waits for the end of the process, which it
// must. There is none if the device is served already.
func (p *Process) StartChild(credential *syscall.Credential) (*os.Process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, p.args()...)
	cmd.Args[0] = processName
	cmd.Stderr = p.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	child, err := Detach(cmd)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return child, nil
	case errors.As(err, &exit) && exit.Exited():
		return nil, cli.ErrExit(1)
	case errors.As(err, &exit):
		return nil, fmt.Errorf("%s: handler: %w", p.Target.Path, err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("%s: the handler is not ready after %v: %w", p.Target.Path, readyWait, err)
	}
	return nil, err
}

// Detach starts a process as a session of its own, and waits until it reports that
// it is ready (ReportReady). There is none if it ends with success before.
func Detach(cmd *exec.Cmd) (*os.Process, error) {
	ready, report, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	cmd.Env = append(os.Environ(), readyFD+"=3")
	cmd.ExtraFiles = []*os.File{report}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	err = cmd.Start()
	report.Close()
	if err != nil {
		return nil, err
	}
	if err := ready.SetReadDeadline(time.Now().Add(readyWait)); err != nil {
		return nil, err
	}
	switch _, err = io.ReadFull(ready, make([]byte, 1)); {
	case err == nil:
		return cmd.Process, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	// It ended before it was ready.
	return nil, cmd.Wait()
}

// Args is the command line of C OpenCT's ifdhandler for this process.
func (p *Process) Args() []string {
	var args []string
	if p.Debug > 0 {
		args = append(args, "-"+strings.Repeat("d", p.Debug))
	}
	if p.ConfigFile != cli.ConfigFile {
		args = append(args, "-f", p.ConfigFile)
	}
	return append(args, p.Target.Driver, p.Target.Type, p.Target.Path)
}

// args is the command line of our ifdhandler, which also asks whether the device
// is still the one that was meant.
func (p *Process) args() []string {
	args := p.Args()
	if !p.Target.ID.IsZero() {
		args = append([]string{"--id", p.Target.ID.String()}, args...)
	}
	return args
}

// ReportReady lets Detach return, and cuts what ties this process to where it
// was started.
func ReportReady() {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err == nil {
		for fd := range 3 {
			_ = unix.Dup3(int(null.Fd()), fd, 0)
		}
		null.Close()
	}
	f := os.NewFile(3, "ready")
	_, _ = f.Write([]byte{1}) // a parent that died meanwhile is no loss
	f.Close()
	_ = os.Unsetenv(readyFD) // it is nothing to processes that this one starts
}
