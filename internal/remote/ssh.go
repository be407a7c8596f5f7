package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"openct/internal/devname"
	"openct/internal/printable"
	"openct/internal/socket"
)

// SSHDir is where the handlers' ssh finds what it needs, in place of the .ssh
// folder of their user: config, known_hosts, and keys by ssh's names for them. A
// user who may not read it has his own.
const SSHDir = "/etc/openct/ssh"

// keyNames are private keys by the names that ssh gives them (ssh(1), FILES).
var keyNames = []string{"id_ed25519", "id_ecdsa", "id_rsa"}

// Times that ssh has.
const (
	connectTimeout = 15 * time.Second // for the network
	startTimeout   = 30 * time.Second // for that and for the keys
	aliveInterval  = 10 * time.Second // of silence, before it asks the far machine
	aliveCount     = 3                // questions without an answer

	saidTimeout = 250 * time.Millisecond // for what it has to say of a connection that failed
	endTimeout  = 2 * time.Second        // to end when it is told to
)

// tunnel is an ssh that runs, and the socket by which it is used.
type tunnel struct {
	dir  string // of the socket, for this process alone
	cmd  *exec.Cmd
	said *tail
	done chan struct{} // closed when ssh has ended
}

func (t *tunnel) socket() string { return filepath.Join(t.dir, "s") }

// args are what ssh is told, but for where its files are. to has nothing that ssh
// could take for an option.
func args(to devname.Remote, local string) []string {
	a := []string{
		"-N", "-T", "-a", "-x", // the sockets alone
		"-o", "BatchMode=yes", // nobody is asked
		"-o", "ExitOnForwardFailure=yes",
		"-o", "ConnectTimeout=" + seconds(connectTimeout),
		"-o", "ServerAliveInterval=" + seconds(aliveInterval),
		"-o", "ServerAliveCountMax=" + strconv.Itoa(aliveCount),
		"-o", "ControlMaster=no", "-o", "ControlPath=none", // a process of its own
		"-o", "PermitLocalCommand=no",
		"-o", "UpdateHostKeys=no",
		"-o", "StreamLocalBindMask=0177",
		"-L", local + ":" + to.Socket,
	}
	if to.Port != 0 {
		a = append(a, "-p", strconv.Itoa(to.Port))
	}
	if to.User != "" {
		a = append(a, "-l", to.User)
	}
	return append(a, "--", to.Host)
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// files are the arguments that name what is in dir; none if it may not be read.
func files(dir string) []string {
	if _, err := os.ReadDir(dir); err != nil {
		return nil
	}
	a := []string{"-o", "UserKnownHostsFile=" + filepath.Join(dir, "known_hosts")}
	if config := filepath.Join(dir, "config"); exists(config) {
		a = append(a, "-F", config)
	}
	for _, name := range keyNames {
		if key := filepath.Join(dir, name); exists(key) {
			a = append(a, "-i", key)
		}
	}
	return a
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// startTunnel starts ssh and waits until it has logged in.
func startTunnel(ctx context.Context, to devname.Remote) (*tunnel, error) {
	program, err := exec.LookPath("ssh")
	if err != nil {
		return nil, errNoSSH
	}
	dir, err := os.MkdirTemp("", "openct-")
	if err != nil {
		return nil, err
	}
	t := &tunnel{dir: dir, said: newTail(), done: make(chan struct{})}
	t.cmd = exec.Command(program, append(files(SSHDir), args(to, t.socket())...)...)
	t.cmd.Stderr = t.said
	t.cmd.WaitDelay = endTimeout
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := t.cmd.Start(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	go func() {
		_ = t.cmd.Wait()
		close(t.done)
	}()
	if err := t.ready(ctx); err != nil {
		_ = t.close()
		if said := explain(t.said.text(), to); said != nil {
			err = said
		}
		return nil, err
	}
	return t, nil
}

// ready waits for the socket, which ssh makes when it has logged in.
func (t *tunnel) ready(ctx context.Context) error {
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		if exists(t.socket()) {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-t.done:
			return fmt.Errorf("ssh has ended: %v", t.cmd.ProcessState)
		case <-limit.C:
			return fmt.Errorf("ssh has not logged in within %v", startTimeout)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (t *tunnel) dial(ctx context.Context) (*socket.Client, error) {
	return socket.Dial(ctx, t.socket())
}

func (t *tunnel) ended() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// close ends ssh and removes its socket.
func (t *tunnel) close() error {
	_ = t.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-t.done:
	case <-time.After(endTimeout):
		_ = t.cmd.Process.Kill()
		<-t.done
	}
	return os.RemoveAll(t.dir)
}

// why is what ssh has to say of a connection that failed; nil: nothing.
func (t *tunnel) why(ctx context.Context, to devname.Remote) error {
	select {
	case <-t.said.news:
	case <-t.done:
	case <-time.After(saidTimeout):
	case <-ctx.Done():
	}
	return explain(t.said.text(), to)
}

// hints are what to do next about what ssh says (OpenSSH's sshconnect.c,
// sshconnect2.c and channels.c).
var hints = []struct{ says, next string }{
	{"Host key verification failed", "compare the key that ssh-keyscan HOST prints with that of the machine, and put it into DIR/known_hosts"},
	{"Permission denied (", "put the public key of DIR into authorized_keys of that user there"},
	{"administratively prohibited", "sshd there must allow it: AllowStreamLocalForwarding and AllowTcpForwarding in sshd_config(5), see openct(7)"},
	{"open failed", "look there whether openct-control status lists the reader, whether the user is in group scard, and what sshd logs; see openct(7)"},
}

// explain makes an error of what ssh has said; nil if that is nothing.
func explain(said string, to devname.Remote) error {
	said = strings.TrimSpace(said)
	if said == "" {
		return nil
	}
	// The last line is why ssh has ended; what comes before may be a banner.
	line := strings.TrimSpace(said[strings.LastIndexByte(said, '\n')+1:])
	line = "ssh: " + strings.TrimPrefix(printable.Line(line), "ssh: ")
	for _, h := range hints {
		if strings.Contains(line, h.says) {
			return errors.New(line + nextMark + fill(h.next, to))
		}
	}
	return errors.New(line)
}

// nextMark stands between what ssh says and what to do next.
const nextMark = "; "

func fill(next string, to devname.Remote) string {
	return strings.NewReplacer("HOST", to.Host, "DIR", SSHDir).Replace(next)
}

// CutNext separates what to do next from an error of a connection to a machine;
// empty: nothing is known. The far machine can have ssh say anything, so only what
// this package says counts.
func CutNext(text string, to devname.Remote) (why, next string) {
	for _, h := range hints {
		next := fill(h.next, to)
		if why, ok := strings.CutSuffix(text, nextMark+next); ok {
			return why, next
		}
	}
	return text, ""
}

// tail keeps the end of what ssh says.
type tail struct {
	news chan struct{} // holds an element after something was said

	mu sync.Mutex
	b  []byte
}

const maxTail = 2048

func newTail() *tail { return &tail{news: make(chan struct{}, 1)} }

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	t.b = append(t.b, b...)
	if len(t.b) > maxTail {
		t.b = bytes.Clone(t.b[len(t.b)-maxTail:])
	}
	t.mu.Unlock()
	select {
	case t.news <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

func (t *tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = nil
	select {
	case <-t.news:
	default:
	}
}
