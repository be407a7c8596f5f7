package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// UnitWaiter waits until a systemd unit is in one of the states, or ctx is over,
// and returns the state that it is in then.
type UnitWaiter func(ctx context.Context, unit string, states []string) (state string, err error)

// Serve answers requests from rw until it ends. Scripts and waits run side by
// side.
func Serve(rw io.ReadWriter, wait UnitWaiter) error {
	s := &server{w: rw}
	// The host may have written half a line to an agent before this one.
	if _, err := rw.Write([]byte("\n")); err != nil {
		return err
	}
	r := bufio.NewReader(rw)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return err
		}
		var req request
		if json.Unmarshal(line, &req) != nil {
			continue
		}
		switch req.Op {
		case opPing:
			s.send(reply{ID: req.ID, Done: true})
		case opPut:
			s.send(put(req))
		case opRun:
			go s.run(req)
		case opUnit:
			go s.unit(req, wait)
		case opLine:
			go s.line(req)
		}
	}
}

type server struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *server) send(rep reply) {
	line, err := json.Marshal(rep)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w.Write(append(line, '\n')) // a lost host is noticed by the reader
}

func put(req request) reply {
	err := os.MkdirAll(filepath.Dir(req.Path), 0o755)
	if err == nil {
		err = os.WriteFile(req.Path, req.Data, os.FileMode(req.Mode))
	}
	if err == nil {
		err = os.Chmod(req.Path, os.FileMode(req.Mode)) // past the umask
	}
	if err != nil {
		return reply{ID: req.ID, Done: true, Error: err.Error()}
	}
	return reply{ID: req.ID, Done: true}
}

// run runs a script in a process group of its own, which is killed as a whole
// when the time is up. Output of what the script leaves running in the
// background is not waited for.
func (s *server) run(req request) {
	ctx, cancel := context.WithTimeout(context.Background(), req.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", req.Script)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "HOME=/root", "LC_ALL=C.UTF-8",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/e2e/bin")
	cmd.Stdin = bytes.NewReader(req.Stdin)
	cmd.Stdout = output(func(p []byte) { s.send(reply{ID: req.ID, Stdout: p}) })
	cmd.Stderr = output(func(p []byte) { s.send(reply{ID: req.ID, Stderr: p}) })
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second

	err := cmd.Run()
	rep := reply{ID: req.ID, Done: true, TimedOut: ctx.Err() != nil}
	if state := cmd.ProcessState; state != nil {
		rep.Exit = state.ExitCode()
		if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			rep.Exit = 128 + int(ws.Signal())
		}
	} else if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		rep.Error = err.Error()
	}
	s.send(rep)
}

func (s *server) unit(req request, wait UnitWaiter) {
	ctx, cancel := context.WithTimeout(context.Background(), req.Timeout)
	defer cancel()
	rep := reply{ID: req.ID, Done: true}
	var err error
	if rep.State, err = wait(ctx, req.Unit, req.States); err != nil {
		rep.Error = err.Error()
	}
	s.send(rep)
}

// line writes a line to a Unix socket and sends the line that is answered.
func (s *server) line(req request) {
	rep := reply{ID: req.ID, Done: true}
	err := func() error {
		conn, err := net.Dial("unix", req.Path)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(req.Timeout))
		if _, err := conn.Write(append(req.Data, '\n')); err != nil {
			return err
		}
		rep.Stdout, err = bufio.NewReader(conn).ReadBytes('\n')
		return err
	}()
	if err != nil {
		rep.Error = err.Error()
	}
	s.send(rep)
}

type output func([]byte)

func (o output) Write(p []byte) (int, error) {
	o(bytes.Clone(p))
	return len(p), nil
}
