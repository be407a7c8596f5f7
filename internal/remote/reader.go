// Package remote is the driver of readers that another OpenCT serves, on this
// machine or, over ssh(1), on another one: a client of that handler, "the far
// one", which serves the same reader here. The far handler does all that has to
// do with the card. What it says is foreign, and bounded as a device's.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/printable"
	"openct/internal/proto"
	"openct/internal/socket"
)

// maxSlots is what the status file can show (OPENCT_MAX_SLOTS in C OpenCT's openct.h).
const maxSlots = 8

// waits are how long the far handler may take. One that takes longer hangs, or the
// way to it is broken: the reader has left then.
type waits struct {
	answer time.Duration // that needs no card
	card   time.Duration // that needs the card, which may make a key meanwhile
}

// usual are the waits of everybody but tests. Before a command is refused because
// of a lock, the far handler waits for that as long as its openct.conf says, 5
// minutes at most.
var usual = waits{answer: 10 * time.Second, card: 10 * time.Minute}

// Times between two WATCH commands, for a far end that answers too often.
const (
	newsPause = 50 * time.Millisecond // after news
	idlePause = time.Second           // after none
)

// dialer makes one more connection to the far handler.
type dialer func(context.Context) (*socket.Client, error)

// reader is the reader of a far handler. Each slot has a connection for its commands,
// to which its locks belong, so that no slot waits for what the user does at another
// one, and a connection for news of its card.
type reader struct {
	name  string
	info  socket.ReaderInfo
	slots []*slot
	log   *slog.Logger
	waits waits

	gone chan struct{}
	once sync.Once // closes gone
	why  error     // there is no reader any more; set before gone is closed

	ctx    context.Context // of the watchers
	cancel context.CancelFunc
	work   sync.WaitGroup
	events chan ifd.Event
	closed sync.Once
}

// watching is a reader whose far handler tells of cards.
type watching struct{ *reader }

var (
	_ ifd.Notifier  = watching{}
	_ ifd.Displayer = (*reader)(nil)
	_ ifd.Keypad    = (*reader)(nil)
)

// open makes the reader of a far handler at a place that people know as at.
func open(ctx context.Context, at string, dial dialer, w waits, o ifd.Options) (_ ifd.Reader, err error) {
	limited, cancel := context.WithTimeout(ctx, w.answer)
	defer cancel()
	r := &reader{
		log: o.Log, waits: w,
		gone: make(chan struct{}), events: make(chan ifd.Event, maxSlots),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	var clients []*socket.Client
	dialOne := func() (*socket.Client, error) {
		c, err := dial(limited)
		if err == nil {
			clients = append(clients, c)
		}
		return c, err
	}
	defer func() {
		if err != nil {
			r.cancel()
			for _, c := range clients {
				c.Close()
			}
			if limited.Err() != nil && ctx.Err() == nil {
				err = fmt.Errorf("the far OpenCT does not answer within %v", w.answer)
			}
		}
	}()
	main, err := dialOne()
	if err != nil {
		return nil, err
	}
	if r.info, err = main.ReaderStatus(limited); err != nil {
		return nil, foreign(err)
	}
	if r.info.Slots == 0 {
		return nil, fmt.Errorf("%w: the far reader has no slot", ifd.ErrIncompatible)
	}
	r.name = name(r.info.Name, at)
	for i := range min(r.info.Slots, maxSlots) {
		if i > 0 {
			if main, err = dialOne(); err != nil {
				return nil, err
			}
		}
		s := &slot{r: r, index: i, main: main, turn: make(chan struct{}, 1), escape: o.Escape}
		if s.most, err = limits(limited, main, i); err != nil {
			return nil, foreign(err)
		}
		r.slots = append(r.slots, s)
	}
	var watchers []*socket.Client
	for i, s := range r.slots {
		c, err := dialOne()
		if err != nil {
			return nil, err
		}
		watchers = append(watchers, c)
		news, err := c.Watch(limited, i, nil)
		if errors.Is(err, socket.InvalidCmd) {
			// A handler before 0.8, or C OpenCT's. The core asks for the card then.
			for _, c := range watchers {
				c.Close()
			}
			for _, s := range r.slots {
				s.told = false
			}
			r.log.Info("the far OpenCT does not tell of cards: it is asked once a second")
			return r, nil
		}
		if err != nil {
			return nil, foreign(err)
		}
		s.told, s.news = true, news
	}
	for i, c := range watchers {
		r.work.Add(1)
		go func() {
			defer r.work.Done()
			r.watch(c, r.slots[i])
		}()
	}
	return watching{r}, nil
}

// maxName is the room for a reader's name in the status file, without its NUL
// (C OpenCT's openct.h).
const maxName = 63

// name is the far reader's name, and where it is, as far as there is room.
func name(far, at string) string {
	at = " at " + at
	far = printable.Line(far)
	at = cut(at, maxName/2)
	return cut(far, maxName-len(at)) + at
}

// cut is the beginning of s, of at most n bytes and whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// limits are the longest APDUs that the far handler carries to a slot.
func limits(ctx context.Context, c *socket.Client, slot int) (proto.Limits, error) {
	command, response, err := c.Limits(ctx, slot)
	switch {
	case errors.Is(err, socket.InvalidCmd):
		return proto.ShortAPDU, nil // it cannot tell
	case err != nil:
		return proto.Limits{}, err
	}
	// No reader carries less than a header and a status word.
	return proto.Limits{Command: max(command, 4), Response: max(response, 2)}, nil
}

func (r *reader) Name() string              { return r.name }
func (r *reader) Gone() <-chan struct{}     { return r.gone }
func (r *reader) HasKeypad() bool           { return r.info.Keypad }
func (r *reader) HasDisplay() bool          { return r.info.Display }
func (r watching) Events() <-chan ifd.Event { return r.events }

// Slots implements ifd.Reader.
func (r *reader) Slots() []ifd.Slot {
	slots := make([]ifd.Slot, len(r.slots))
	for i, s := range r.slots {
		slots[i] = s
	}
	return slots
}

// Display implements ifd.Displayer.
func (r *reader) Display(ctx context.Context, message string) error {
	s := r.slots[0]
	return s.call(ctx, r.waits.answer, func(ctx context.Context) error { return s.main.Output(ctx, message) })
}

// Close implements ifd.Reader: the far handler releases the locks.
func (r *reader) Close() error {
	r.leave(device.ErrClosed)
	r.closed.Do(func() {
		r.work.Wait()
		close(r.events)
	})
	return nil
}

// leave ends all connections: there is no reader any more.
func (r *reader) leave(why error) {
	r.once.Do(func() {
		r.why = why
		close(r.gone)
		r.cancel()
		for _, s := range r.slots {
			s.main.Close()
		}
	})
}

// lost is leave for a reader that has left by itself.
func (r *reader) lost(why error) error {
	r.leave(why)
	<-r.gone
	return fmt.Errorf("%w: %v", device.ErrUnplugged, r.why)
}

// watch passes the far handler's news of a slot on, until the reader leaves.
func (r *reader) watch(c *socket.Client, s *slot) {
	defer c.Close()
	known := s.card()
	for {
		news, err := c.Watch(r.ctx, s.index, &known)
		if r.ctx.Err() != nil {
			return
		}
		if err != nil {
			r.log.Info("the far reader has left", "error", r.lost(foreign(err)))
			return
		}
		wait := newsPause
		if news == known {
			wait = idlePause
		}
		// A card in the place of another one went and came.
		if news.Present && known.Present && news.Events != known.Events {
			r.tell(s, false)
		}
		s.setCard(news)
		if news != known {
			r.tell(s, news.Present)
		}
		known = news
		select {
		case <-time.After(wait):
		case <-r.ctx.Done():
			return
		}
	}
}

func (r *reader) tell(s *slot, present bool) {
	select {
	case r.events <- ifd.Event{Slot: s.index, Present: present}:
	case <-r.ctx.Done():
	}
}

// left says whether an error means that the far reader, the far handler or the way
// to it is not there any more, or cannot be talked to.
func left(err error) bool {
	return errors.Is(err, socket.DeviceDisconnected) || errors.Is(err, socket.NotConnected) ||
		errors.Is(err, socket.ErrNoReply) || errors.Is(err, socket.ErrProtocol)
}

// codes are what the far handler's answers mean here.
var codes = map[socket.Code]error{
	socket.NoCard:             ifd.ErrNoCard,
	socket.NoATR:              ifd.ErrNoATR,
	socket.InvalidATR:         ifd.ErrInvalidATR,
	socket.NotSupported:       ifd.ErrNotSupported,
	socket.InvalidCmd:         ifd.ErrNotSupported, // the far OpenCT is older
	socket.IncompatibleDevice: ifd.ErrIncompatible,
	socket.UserTimeout:        ifd.ErrUserTimeout,
	socket.UserAbort:          ifd.ErrUserAbort,
	socket.PINMismatch:        ifd.ErrPINMismatch,
}

// foreign is an error of the far handler's as one of a reader here.
func foreign(err error) error {
	var code socket.Code
	switch {
	case errors.Is(err, socket.DeviceDisconnected):
		return errors.New("the far reader was unplugged")
	case errors.Is(err, io.EOF), errors.Is(err, socket.ErrNoReply):
		return errors.New("the far OpenCT has closed the connection")
	case errors.Is(err, socket.ErrProtocol), errors.Is(err, socket.NotConnected):
		return fmt.Errorf("far OpenCT: %v", err) // without its code, which clients must not see
	case !errors.As(err, &code):
		return err
	}
	if is := codes[code]; is != nil {
		return is
	}
	switch code {
	case socket.Generic, socket.Timeout, socket.CommError, socket.Locked, socket.NoLock, socket.InvalidArg,
		socket.NoMemory, socket.BufferTooSmall:
		return fmt.Errorf("far OpenCT: %w", err)
	}
	return fmt.Errorf("%w: far OpenCT: %v", ifd.ErrComm, err)
}
