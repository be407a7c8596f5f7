package driver

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"openct/internal/ifd"
	"openct/internal/usb"
)

// acr30USB is a reader on USB: messages go out in vendor requests and come in
// packets of the interrupt endpoint, which is where news of cards come as well.
// Between commands a read of it is under way.
type acr30USB struct {
	dev  usb.Device
	take func([]byte) // of what comes between commands

	mu      sync.Mutex
	busy    bool        // with a command
	timer   *time.Timer // runs listen; nil until the reader is set up
	stop    context.CancelFunc
	stopped chan struct{} // closed when listen has ended; nil: it does not run
}

// begin takes the endpoint for a command.
func (w *acr30USB) begin() error {
	w.mu.Lock()
	w.busy = true
	stopped := w.stopped
	if stopped != nil {
		w.stop()
	}
	if w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Unlock()
	if stopped != nil {
		<-stopped
	}
	return nil
}

func (w *acr30USB) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = false
	if w.timer != nil {
		w.timer.Reset(acr30Idle)
	}
}

// listen runs until a command begins, on the timer's goroutine.
func (w *acr30USB) listen() {
	w.mu.Lock()
	if w.busy || w.stopped != nil {
		w.mu.Unlock()
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	w.stop, w.stopped = stop, stopped
	w.mu.Unlock()
	listenInterrupt(ctx, w.dev, acr30Endpoint, w.take)
	stop()
	w.mu.Lock()
	w.stopped = nil
	w.mu.Unlock()
	close(stopped)
}

func (w *acr30USB) write(ctx context.Context, b []byte) error {
	return sendAll(ctx, w.dev, usb.Setup{RequestType: usb.VendorDeviceOut}, b, controlTimeout)
}

func (w *acr30USB) read(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	n, err := w.dev.Interrupt(ctx, acr30Endpoint, buf[:acsPacket])
	if errors.Is(err, usb.ErrStall) {
		_ = w.dev.ClearHalt(acr30Endpoint)
	}
	return n, err
}

func (w *acr30USB) gone() <-chan struct{} { return w.dev.Gone() }

func (w *acr30USB) close() error {
	_ = w.begin() // for good
	return w.dev.Close()
}

func openPertoSmart1030(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	r, _, err := openACR30(dev, o)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// openACR30U is openPertoSmart1030 for a reader that has the name it gives itself.
func openACR30U(dev usb.Device, o ifd.Options) (ifd.Reader, error) {
	r, status, err := openACR30(dev, o)
	if err != nil {
		return nil, err
	}
	model := strings.TrimSpace(strings.Map(printable, string(status[:acsModelLen])))
	if model != "" {
		r.name = model
	}
	return r, nil
}

// printable drops what is no ASCII character.
func printable(c rune) rune {
	if c < ' ' || c > '~' {
		return -1
	}
	return c
}

func openACR30(dev usb.Device, o ifd.Options) (r *acsNotifier, status []byte, err error) {
	if err := dev.Claim(0, 0); err != nil {
		return nil, nil, err
	}
	ctx := context.Background()
	r = newACSNotifier(o.Name)
	w := &acr30USB{dev: dev}
	p := &acr30{acr30Wire: w, card: r.tell}
	r.port = p
	w.take = p.listen
	if err = r.open1030(ctx, acr30NewsOn); err == nil {
		status, err = r.status(ctx)
	}
	if err != nil {
		return nil, nil, err
	}
	r.tell(status[acsCardState] != 0)
	w.timer = time.AfterFunc(acr30Idle, w.listen)
	return r, status, nil
}
