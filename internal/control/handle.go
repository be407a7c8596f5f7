// Package control is what the commands openct-control and ifdhandler do: start
// OpenCT, attach a device, serve it, tell how things are, stop.
package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/config"
	"openct/internal/daemon"
	"openct/internal/devname"
	"openct/internal/driver"
	"openct/internal/logging"
	"openct/internal/notify"
	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/usb"
)

// HandlerOptions say what to serve, and how to live.
type HandlerOptions struct {
	Target     devname.Target
	ConfigFile string
	Debug      int
	Foreground bool
	Syslog     bool
	Stderr     io.Writer
}

// readyFD is the variable that tells a detached handler where to report that
// it is ready. Its presence means that there is a parent waiting.
const readyFD = "OPENCT_READY_FD"

// readyWait is how long the parent of a detached handler waits for it: for
// openct-control init, and for a token that is slow to reset.
const readyWait = 60 * time.Second

// Handle serves a device in this process, or starts one that does and returns
// when clients can be served. A device that is served already is a success.
func Handle(o HandlerOptions) error {
	detached := os.Getenv(readyFD) != ""
	if !o.Foreground && !detached {
		return detach(o)
	}
	cfg, warnings, err := config.Load(o.ConfigFile)
	if err != nil {
		return err
	}
	to := logging.Options{Debug: max(o.Debug, cfg.Debug), Syslog: o.Syslog || detached, Stderr: o.Stderr, Ident: "ifdhandler"}
	if detached {
		to.Stderr = io.Discard // where there is no syslog either; what is fatal is told below
	}
	log := logging.New(to)
	for _, w := range warnings {
		log.Warn(w.String())
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()
	run := daemon.Options{Target: o.Target, Dir: socket.Dir(), Config: cfg, Log: log, Notify: notify.FromEnv(log)}
	if detached {
		run.Ready = reportReady
	}
	err = daemon.Run(ctx, run)
	var served *status.ServedError
	if errors.As(err, &served) {
		// To systemd, a service that ends before it is ready has failed.
		run.Notify.Ready(err.Error())
		log.Info(err.Error())
		return nil
	}
	if err != nil && detached {
		log.Error(err.Error(), "device", o.Target.Path)
	}
	return explain(err)
}

// detach starts this program again as a session of its own, and waits until it
// serves clients or gives up. It says why it gave up by itself.
func detach(o HandlerOptions) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	ready, report, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(exe, o.args()...)
	cmd.Args[0] = "ifdhandler"
	cmd.Env = append(os.Environ(), readyFD+"=3")
	cmd.ExtraFiles = []*os.File{report}
	cmd.Stderr = o.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	report.Close()
	if err != nil {
		return err
	}
	if err := ready.SetReadDeadline(time.Now().Add(readyWait)); err != nil {
		return err
	}
	switch _, err = io.ReadFull(ready, make([]byte, 1)); {
	case err == nil:
		return cmd.Process.Release()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("%s: not ready after %v", o.Target.Path, readyWait)
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	// It ended before it was ready: with success, if the device is served
	// already.
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.Exited():
		return cli.ErrExit(1)
	}
	return fmt.Errorf("%s: handler: %w", o.Target.Path, err)
}

// args is the command line of a handler with these options.
func (o HandlerOptions) args() []string {
	var args []string
	if o.Debug > 0 {
		args = append(args, "-"+strings.Repeat("d", o.Debug))
	}
	if o.ConfigFile != cli.ConfigFile {
		args = append(args, "-f", o.ConfigFile)
	}
	return append(args, o.Target.Driver, o.Target.Type, o.Target.Path)
}

// reportReady lets the parent end, and cuts what ties this process to where it
// was started.
func reportReady() {
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
}

// explain adds what to do next to the errors people meet.
func explain(err error) error {
	hint := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, status.ErrNotInitialised):
		hint = "start OpenCT with: openct-control init (or: systemctl start openct.service)"
	case errors.Is(err, usb.ErrAccess):
		hint = "the device node must be readable and writable for this user; see: openct-control doctor"
	case errors.Is(err, fs.ErrPermission):
		hint = "run it as root, or as the owner of OpenCT's directory; see: openct-control doctor"
	case errors.Is(err, usb.ErrBusy):
		hint = "stop the program that uses the device, or keep it off with a udev rule; see: openct-control doctor"
	case errors.Is(err, driver.ErrNoDriver):
		hint = "if it is a sibling of a supported device, add its id to openct.conf: driver NAME { ids = { usb:VVVV/PPPP, }; };"
	case errors.Is(err, usb.ErrNotFound):
		hint = "lsusb shows what is plugged in, and where"
	}
	if hint == "" {
		return err
	}
	return &cli.Hint{Err: err, Hint: hint}
}
