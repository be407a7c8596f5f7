package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"openct/internal/cli"
	"openct/internal/devname"
	"openct/internal/machine"
	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/verify"
)

// Times of a suspend. The clock's alarm must not go off before the machine sleeps,
// as nothing would wake it then: user processes, devices and processors are stopped
// first.
const (
	suspendTime = 15 * time.Second // from the alarm's setting until it wakes the machine
	suspendWait = 2 * time.Minute  // for systemd to suspend the machine and to tell of its resume
	answerWait  = 2 * time.Minute  // for the user's answer
)

// Times of what comes after the resume.
const (
	resumeWait   = time.Minute
	slowResume   = 10 * time.Second
	atrWait      = 10 * time.Second // for one try
	betweenTries = 20 * time.Millisecond
)

// Why the machine is not suspended.
var (
	errSuspendElsewhere = errors.New("not a device of this machine: a suspend would check nothing")
	errSuspendRoot      = errors.New("only root can suspend the machine")
	errSuspendState     = errors.New("this kernel cannot suspend the machine")
	errSuspendClock     = errors.New("no real-time clock of this machine can wake it")
	errSuspendAlarm     = errors.New("another program has set the alarm of the real-time clock")
	errSuspendAnswer    = errors.New("the answer is not yes")
	errSuspendFailed    = errors.New("the machine was not suspended")
)

// sleeper suspends the machine, has its real-time clock wake it, and finds a reader
// before and after.
type sleeper struct {
	state, word string // the kernel's file, and what is written there
	alarm       string // the clock's file
	systemd     bool   // it suspends the machine

	is func(status.Detail) bool // says whether a handler serves the reader

	// What the machine does.
	write func(file, text string) error
	run   func(ctx context.Context, name string, args ...string) error
	atr   func(ctx context.Context, dir string, reader int) ([]byte, error)
}

// newSleeper makes a sleeper for the checks of a device by a user, or says why the
// machine cannot be suspended.
func (c *Control) newSleeper(t devname.Target, uid int) (*sleeper, error) {
	without := "run the checks without --suspend"
	switch t.Type {
	case "virtual", devname.TypeRemote, devname.TypeUnix:
		return nil, &cli.Hint{Err: fmt.Errorf("%v: %w", t, errSuspendElsewhere), Hint: without}
	}
	if uid != 0 {
		return nil, &cli.Hint{Err: errSuspendRoot, Hint: "run it as root"}
	}
	s := &sleeper{
		state: c.Root.Path("sys/power/state"), systemd: c.Root.SystemdRuns(), is: c.samePlace(t),
		write: func(file, text string) error { return os.WriteFile(file, []byte(text), 0) },
		run:   runApart, atr: clientATR,
	}
	// The words are those of Documentation/admin-guide/pm/sleep-states.rst.
	states := strings.Fields(machine.Attribute(c.Root.Path("sys/power"), "state"))
	for _, word := range []string{"mem", "freeze"} {
		if s.word == "" && slices.Contains(states, word) {
			s.word = word
		}
	}
	if s.word == "" {
		return nil, &cli.Hint{Err: fmt.Errorf("%w: %s has neither mem nor freeze", errSuspendState, s.state), Hint: without}
	}
	// Only a clock that can wake the machine has the file (rtc_attr_is_visible in
	// drivers/rtc/sysfs.c).
	alarms, _ := filepath.Glob(c.Root.Path("sys/class/rtc/rtc*/wakealarm"))
	if len(alarms) == 0 {
		return nil, &cli.Hint{Err: fmt.Errorf("%w: there is no %s", errSuspendClock, c.Root.Path("sys/class/rtc/rtc0/wakealarm")), Hint: without}
	}
	s.alarm = alarms[0]
	if machine.Attribute(filepath.Dir(s.alarm), "wakealarm") != "" {
		return nil, &cli.Hint{Err: fmt.Errorf("%s: %w", s.alarm, errSuspendAlarm),
			Hint: "run the checks again when the alarm is over, or clear it: echo 0 >" + s.alarm}
	}
	return s, nil
}

// samePlace knows the handler of a device by where the device is plugged in: its
// node may be another one after a resume.
func (c *Control) samePlace(t devname.Target) func(status.Detail) bool {
	if dir := c.Root.USBDir(t.Bus, t.Dev); t.Type == "usb" && dir != "" {
		port := filepath.Base(dir)
		return func(d status.Detail) bool { return d.Port == port }
	}
	return func(d status.Detail) bool { return d.Device == t.Path }
}

// runApart runs a program that no key of the terminal interrupts.
func runApart(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// clientATR resets the card in a reader's first slot, as programs do. Where none is
// in there is no ATR.
func clientATR(ctx context.Context, dir string, reader int) ([]byte, error) {
	client, err := socket.DialReader(ctx, dir, reader)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	present, _, err := client.CardStatus(ctx, 0)
	if err != nil || !present {
		return nil, err
	}
	return client.Reset(ctx, 0)
}

// sleep suspends the machine, and returns when it has resumed. Once begun, the user
// does not end it: a machine that sleeps after its alarm was cleared would stay so.
func (s *sleeper) sleep() (err error) {
	// A number after + counts from now, 0 clears the alarm (wakealarm_store in
	// drivers/rtc/sysfs.c).
	if err := s.write(s.alarm, fmt.Sprintf("+%d", int(suspendTime.Seconds()))); err != nil {
		return fmt.Errorf("%w: set the alarm: %w", errSuspendFailed, err)
	}
	defer func() {
		if cerr := s.write(s.alarm, "0"); cerr != nil {
			err = errors.Join(err, fmt.Errorf("clear the alarm: %w", cerr))
		}
	}()
	if s.systemd {
		ctx, cancel := context.WithTimeout(context.Background(), suspendWait)
		defer cancel()
		// The service ends after the resume; sleep.target, which comes with it,
		// tells the units that want to know (systemd-suspend.service(8)).
		err = s.run(ctx, "systemctl", "start", "systemd-suspend.service")
	} else {
		err = s.write(s.state, s.word) // ends after the resume
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errSuspendFailed, err)
	}
	return nil
}

// served is a reader that has answered to a client.
type served struct {
	node, unit string
	pid        int
	atr        []byte // none without a card
}

// waitATR waits until a client gets the card's ATR, or is told that no card is in.
func (c *Control) waitATR(ctx context.Context, f *status.File, s *sleeper, patience time.Duration) (served, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(betweenTries)
	defer tick.Stop()
	last := errNotServed
	for {
		if e, d, is := servingAs(f, s.is); is {
			try, stop := context.WithTimeout(ctx, atrWait)
			atr, err := s.atr(try, c.Dir, e.Index)
			stop()
			if err == nil {
				return served{node: d.Device, unit: d.Unit, pid: e.PID, atr: atr}, nil
			}
			last = fmt.Errorf("reader %d: %w", e.Index, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return served{}, fmt.Errorf("%w: %w", ctx.Err(), last)
		}
	}
}

// suspend has the machine suspended while the device is served, and measures how
// long it takes from the resume until a client gets the ATR.
func (c *Control) suspend(ctx context.Context, s *sleeper, r *verify.Report) {
	show := newShow(c.Out, c.Err)
	add := show.adder(r, "suspend")
	note := func(err error) { show.note("note: " + err.Error()) }
	f, err := status.OpenReadOnly(c.Dir)
	if err != nil {
		add(verify.Odd, "not done: no handler serves the device")
		return
	}
	defer f.Close()
	before, err := c.waitATR(ctx, f, s, pauseWait)
	if err != nil {
		note(err)
		add(verify.Odd, "not done: no client gets an answer before it")
		return
	}
	question := fmt.Sprintf("the machine will be suspended, and its clock wakes it after %v; save your work first. Suspend it? [y/N] ", suspendTime)
	if err := c.confirm(ctx, question); err != nil {
		note(err)
		add(verify.Odd, "not done: the user did not agree")
		return
	}
	switch err := s.sleep(); {
	case errors.Is(err, errSuspendFailed):
		note(err)
		add(verify.Odd, "not done: the machine was not suspended")
		return
	case err != nil:
		note(err)
	}
	begin := time.Now()
	after, err := c.waitATR(ctx, f, s, resumeWait)
	took := time.Since(begin)
	gets := "the ATR"
	if len(after.atr) == 0 {
		gets = "an answer"
	}
	found := fmt.Sprintf("a client gets %s %d ms after the resume; %s", gets, took.Milliseconds(), compare(before, after))
	switch {
	case err != nil:
		note(err)
		add(verify.Wrong, "no client gets an answer within %v after the resume", resumeWait)
	case !bytes.Equal(before.atr, after.atr):
		add(verify.Odd, "the ATR is not the one before the suspend; %s", found)
	case took > slowResume:
		add(verify.Odd, "slow: %s", found)
	default:
		add(verify.OK, "%s", found)
	}
}

// compare tells what of a reader has changed.
func compare(before, after served) string {
	word := func(same bool) string {
		if same {
			return "same"
		}
		return "another"
	}
	text := word(before.node == after.node) + " node, " + word(before.pid == after.pid) + " handler"
	if before.unit != "" || after.unit != "" {
		text += ", " + word(before.unit == after.unit) + " unit"
	}
	return text
}

// confirm asks the user a question, and waits for a line that says yes.
func (c *Control) confirm(ctx context.Context, question string) error {
	if c.In == nil {
		return errSuspendAnswer
	}
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	// A terminal has no deadlines: the end of ctx is the end of a pipe.
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	defer context.AfterFunc(ctx, func() { w.Close() })()
	fmt.Fprint(c.Err, question)
	fds := []unix.PollFd{{Fd: int32(c.In.Fd()), Events: unix.POLLIN}, {Fd: int32(r.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return os.NewSyscallError("poll", err)
		case fds[1].Revents != 0:
			fmt.Fprintln(c.Err)
			return fmt.Errorf("%w: %w", errSuspendAnswer, ctx.Err())
		}
		break
	}
	var line [64]byte
	n, _ := c.In.Read(line[:]) // without an answer there is none
	if TerminalOf(c.In) == nil {
		fmt.Fprintln(c.Err) // a terminal shows the end of the line that was typed
	}
	if answer := strings.ToLower(strings.TrimSpace(string(line[:max(n, 0)]))); answer == "y" || answer == "yes" {
		return nil
	}
	return errSuspendAnswer
}
