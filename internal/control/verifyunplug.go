package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"openct/internal/devname"
	"openct/internal/status"
	"openct/internal/uevent"
	"openct/internal/verify"
)

// unplugWait is how long the user may take to unplug the device, or to plug it in.
const unplugWait = 2 * time.Minute

// unplug has the device unplugged and plugged in again while it is served, and
// measures how long OpenCT takes: from the kernel's news until the handler is gone,
// and until the new one is ready.
func (c *Control) unplug(ctx context.Context, t devname.Target, r *verify.Report) {
	show := newShow(c.Out, c.Err)
	add := show.adder(r, "unplug")
	gone, ready, err := c.measureUnplug(ctx, t, show.ask)
	switch {
	case errors.Is(err, errNotServed):
		add(verify.Odd, "not done: no handler serves the device")
	case errors.Is(err, errNoNews):
		add(verify.Odd, "not done: the device was not unplugged and plugged in within %v", unplugWait)
	case err != nil:
		show.note("note: " + err.Error())
		add(verify.Wrong, "the handler does not end or start within %v", pauseWait)
	default:
		add(verify.OK, "the handler ended %d ms after the unplug; the next one was ready %d ms after the plug", gone.Milliseconds(), ready.Milliseconds())
	}
}

// Why nothing was measured.
var (
	errNotServed = errors.New("no handler serves the device")
	errNoNews    = errors.New("the kernel reported no unplug or plug of the device")
)

// measureUnplug does what unplug says.
func (c *Control) measureUnplug(ctx context.Context, t devname.Target, ask func(string)) (gone, ready time.Duration, err error) {
	f, err := status.OpenReadOnly(c.Dir)
	if err != nil {
		return 0, 0, errNotServed
	}
	defer f.Close()
	if err := waitServing(ctx, f, t.Path, true, pauseWait); err != nil {
		return 0, 0, errNotServed
	}
	events, err := uevent.Listen()
	if err != nil {
		return 0, 0, err
	}
	defer events.Close()
	limit, cancel := context.WithTimeout(ctx, unplugWait)
	defer cancel()
	defer context.AfterFunc(limit, func() { events.Close() })()

	ask("unplug the device")
	if _, err := nextNode(events, "remove", strings.TrimPrefix(t.Path, "/dev/")); err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	if err := waitServing(ctx, f, t.Path, false, pauseWait); err != nil {
		return 0, 0, err
	}
	gone = time.Since(begin)
	ask("plug the device in again")
	node, err := nextNode(events, "add", "")
	if err != nil {
		return 0, 0, err
	}
	begin = time.Now()
	if err := waitServing(ctx, f, "/dev/"+node, true, pauseWait); err != nil {
		return 0, 0, err
	}
	return gone, time.Since(begin), nil
}

// nextNode waits for the kernel's news of a node; empty: of any USB device or tty.
func nextNode(events *uevent.Listener, action, node string) (string, error) {
	for {
		e, err := events.Next()
		switch {
		case errors.Is(err, uevent.ErrOverflow):
			continue
		case err != nil:
			return "", fmt.Errorf("%w: %w", errNoNews, err)
		case e.Action != action || e.Node == "":
		case node != "" && e.Node == node, node == "" && (e.DevType == "usb_device" || e.Subsystem == "tty"):
			return e.Node, nil
		}
	}
}
