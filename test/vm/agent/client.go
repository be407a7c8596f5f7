package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// ErrTimeout is the error of a script that was killed because its time was up.
var ErrTimeout = errors.New("script killed: its time was up")

// Result is what a script printed and how it ended.
type Result struct {
	Stdout string
	Stderr string
	Exit   int // exit code; 128+n when signal n ended it
}

// Client drives the agent at the other end of rw. Its methods may be called
// concurrently.
type Client struct {
	rw io.ReadWriter

	wmu sync.Mutex // one line at a time

	mu      sync.Mutex
	next    uint64
	pending map[uint64]chan reply
	err     error // why the reader ended
}

// NewClient starts reading from rw; it ends when rw is closed.
func NewClient(rw io.ReadWriter) *Client {
	c := &Client{rw: rw, pending: make(map[uint64]chan reply)}
	go c.read()
	return c
}

func (c *Client) read() {
	r := bufio.NewReader(c.rw)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			c.mu.Lock()
			c.err = fmt.Errorf("guest agent is gone: %w", err)
			for _, ch := range c.pending {
				close(ch)
			}
			c.pending = nil
			c.mu.Unlock()
			return
		}
		var rep reply
		// A line cut off by a reboot is no message; its request is lost
		// with the agent that wrote it.
		if json.Unmarshal(line, &rep) != nil {
			continue
		}
		c.mu.Lock()
		ch := c.pending[rep.ID]
		if rep.Done {
			delete(c.pending, rep.ID)
		}
		c.mu.Unlock()
		if ch != nil {
			ch <- rep
		}
	}
}

// do sends a request and gathers its replies until the last one.
func (c *Client) do(ctx context.Context, req request) (Result, reply, error) {
	ch := make(chan reply, 64)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return Result{}, reply{}, c.err
	}
	c.next++
	req.ID = c.next
	c.pending[req.ID] = ch
	c.mu.Unlock()

	line, err := json.Marshal(req)
	if err != nil {
		return Result{}, reply{}, err
	}
	c.wmu.Lock()
	_, err = c.rw.Write(append(line, '\n'))
	c.wmu.Unlock()
	if err != nil {
		return Result{}, reply{}, fmt.Errorf("guest agent: %w", err)
	}

	var stdout, stderr bytes.Buffer
	for {
		select {
		case rep, ok := <-ch:
			if !ok {
				c.mu.Lock()
				defer c.mu.Unlock()
				return Result{}, reply{}, c.err
			}
			stdout.Write(rep.Stdout)
			stderr.Write(rep.Stderr)
			if rep.Done {
				return Result{stdout.String(), stderr.String(), rep.Exit}, rep, nil
			}
		case <-ctx.Done():
			c.mu.Lock()
			delete(c.pending, req.ID)
			c.mu.Unlock()
			go drain(ch)
			return Result{stdout.String(), stderr.String(), -1}, reply{},
				fmt.Errorf("no answer from the guest agent: %w", context.Cause(ctx))
		}
	}
}

// drain takes what the reader may be handing over to a request given up.
func drain(ch chan reply) {
	for {
		select {
		case _, ok := <-ch:
			if !ok {
				return
			}
		case <-time.After(time.Second):
			return
		}
	}
}

// Sync waits until an agent answers: after boot, and after a reboot.
func (c *Client) Sync(ctx context.Context) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		_, _, err := c.do(attempt, request{Op: opPing})
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		if gone := c.Err(); gone != nil {
			return gone
		}
	}
}

// Err tells why nothing more is heard from the agent, and is nil until then.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Run runs a script with /bin/sh in the guest, as root. The error says that
// it could not be run to its end (ErrTimeout: killed after timeout); an exit
// code other than 0 is no error here.
func (c *Client) Run(ctx context.Context, script string, stdin []byte, timeout time.Duration) (Result, error) {
	// The guest kills the script; the host's own patience only has to
	// notice a machine that hangs.
	ctx, cancel := context.WithTimeout(ctx, timeout+30*time.Second)
	defer cancel()
	res, rep, err := c.do(ctx, request{Op: opRun, Script: script, Stdin: stdin, Timeout: timeout})
	switch {
	case err != nil:
		return res, err
	case rep.Error != "":
		return res, fmt.Errorf("guest agent: %s", rep.Error)
	case rep.TimedOut:
		return res, fmt.Errorf("%w (%v)", ErrTimeout, timeout)
	}
	return res, nil
}

// Put writes a file in the guest, making its folder where missing.
func (c *Client) Put(ctx context.Context, path string, mode uint32, data []byte) error {
	_, rep, err := c.do(ctx, request{Op: opPut, Path: path, Mode: mode, Data: data})
	if err == nil && rep.Error != "" {
		err = fmt.Errorf("guest agent: %s", rep.Error)
	}
	return err
}

// Unit waits until a systemd unit's ActiveState is one of states, and returns
// the last state seen, which after timeout is another.
func (c *Client) Unit(ctx context.Context, unit string, timeout time.Duration, states ...string) (state string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout+30*time.Second)
	defer cancel()
	_, rep, err := c.do(ctx, request{Op: opUnit, Unit: unit, States: states, Timeout: timeout})
	if err == nil && rep.Error != "" {
		err = fmt.Errorf("guest agent: %s", rep.Error)
	}
	return rep.State, err
}

// Line writes a line to a Unix socket in the guest and returns the line that is
// answered there, without its end.
func (c *Client) Line(ctx context.Context, socket, line string, timeout time.Duration) (answer string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout+30*time.Second)
	defer cancel()
	res, rep, err := c.do(ctx, request{Op: opLine, Path: socket, Data: []byte(line), Timeout: timeout})
	if err == nil && rep.Error != "" {
		err = fmt.Errorf("guest agent: %s", rep.Error)
	}
	return strings.TrimSuffix(res.Stdout, "\n"), err
}
