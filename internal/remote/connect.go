package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"openct/internal/cli"
	"openct/internal/devname"
	"openct/internal/ifd"
	"openct/internal/socket"
)

// near is a Connector to a socket of this machine.
type near struct {
	path string
	o    ifd.Options
}

// Unix is the way to the reader at another OpenCT's socket on this machine.
func Unix(path string, o ifd.Options) (ifd.Connector, error) {
	if err := devname.ParseSocket(path); err != nil {
		return nil, err
	}
	return &near{path, o}, nil
}

// Connect implements ifd.Connector.
func (n *near) Connect(ctx context.Context) (ifd.Reader, error) {
	dial := func(ctx context.Context) (*socket.Client, error) { return socket.Dial(ctx, n.path) }
	rd, err := open(ctx, path.Dir(n.path), dial, usual, n.o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.path, foreign(err))
	}
	return rd, nil
}

// Close implements ifd.Connector.
func (n *near) Close() error { return nil }

// machine is a Connector to a reader on another machine.
type machine struct {
	to  devname.Remote
	o   ifd.Options
	run *tunnel // nil: ssh does not run
}

// SSH is the way to a reader on another machine: ssh(1) lets this process talk to
// the far handler's socket by one in a directory of its own. ssh brings the keys,
// checks the far machine's, and has the network; it runs as long as it can, even
// while the far reader is not there.
func SSH(device string, o ifd.Options) (ifd.Connector, error) {
	to, err := devname.ParseRemote(device)
	if err != nil {
		return nil, err
	}
	return &machine{to: to, o: o}, nil
}

// Connect implements ifd.Connector.
func (m *machine) Connect(ctx context.Context) (_ ifd.Reader, err error) {
	if m.run != nil && m.run.ended() {
		m.o.Log.Info("ssh has ended", "error", explain(m.run.said.text(), m.to))
		m.drop()
	}
	if m.run == nil {
		if m.run, err = startTunnel(ctx, m.to); err != nil {
			return nil, fmt.Errorf("%v: %w", m.to, err)
		}
	}
	m.run.said.forget()
	rd, err := open(ctx, m.to.Host, m.run.dial, usual, m.o)
	if err == nil {
		return rd, nil
	}
	if why := m.run.why(ctx, m.to); why != nil {
		err = why
	}
	if m.run.ended() {
		m.drop()
	}
	return nil, fmt.Errorf("%v: %w", m.to, foreign(err))
}

// Close implements ifd.Connector.
func (m *machine) Close() error {
	if m.run == nil {
		return nil
	}
	return m.drop()
}

func (m *machine) drop() error {
	err := m.run.close()
	m.run = nil
	return err
}

// errNoSSH: there is no program of that name.
var errNoSSH = errors.New("ssh is not installed" + nextMark + getSSH)

const getSSH = "install OpenSSH's client (Debian: openssh-client)"

// Advice separates what to do next from why the far reader at device is not there. Of
// what the other end says, nothing is advice (see CutNext).
func Advice(said, device string) (why, next string) {
	to, err := devname.ParseRemote(device)
	if err != nil {
		return said, socket.EnvDir + "=" + cli.Quote(path.Dir(device)) + " openct-control status lists the readers there"
	}
	if why, ok := strings.CutSuffix(said, nextMark+getSSH); ok {
		return why, getSSH
	}
	why, next = CutNext(said, to)
	return why, cmp.Or(next, "openct-control status on the other machine lists its readers")
}
