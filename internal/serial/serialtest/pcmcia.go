package serialtest

import (
	"context"
	"time"

	"openct/internal/pcmcia"
)

// nodeReplay is a Replay as a PCMCIA reader's character device.
type nodeReplay struct{ r *Replay }

var _ pcmcia.Node = nodeReplay{}

// Node is the Replay as a PCMCIA reader's character device.
func (r *Replay) Node() pcmcia.Node { return nodeReplay{r} }

func (n nodeReplay) Name() string          { return n.r.Name() }
func (n nodeReplay) Gone() <-chan struct{} { return n.r.Gone() }
func (n nodeReplay) Close() error          { return n.r.Close() }

// Ioctl implements pcmcia.Node. The step has what goes to the kernel, and nothing
// where the argument is what the kernel leaves there.
func (n nodeReplay) Ioctl(ctx context.Context, q pcmcia.Request, arg []byte, timeout time.Duration) error {
	n.r.t.Helper()
	if q.Direction&pcmcia.Read == 0 {
		return n.r.send(ctx, q.String(), arg)
	}
	if err := n.r.send(ctx, q.String(), nil); err != nil {
		return err
	}
	_, err := n.r.readPipe(ctx, q.String(), arg, timeout, false)
	return err
}

// Write implements pcmcia.Node. It drops what was not read.
func (n nodeReplay) Write(ctx context.Context, b []byte, _ time.Duration) error {
	n.r.t.Helper()
	n.r.mu.Lock()
	n.r.in = nil
	n.r.mu.Unlock()
	return n.r.send(ctx, "", b)
}

// Read implements pcmcia.Node.
func (n nodeReplay) Read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	return n.r.readPipe(ctx, "", buf, timeout, false)
}
