package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"openct/internal/cli"
	"openct/internal/daemon"
	"openct/internal/readerunit"
	"openct/internal/status"
)

// shutdownWait is how long shutdown waits for the end of all processes together. A
// handler ends within TimeoutStopSec of openct-handler@.service, watch within
// handlersEnd.
const shutdownWait = handlersEnd + time.Second

// ending is a process that shutdown has asked to end.
type ending struct {
	*status.Ending
	what string
}

// Shutdown asks all handlers and the process that watches for devices to end, waits
// for that, so that an init may follow at once, and takes the status file away, which
// is how other programs know that OpenCT is stopped.
func (c *Control) Shutdown() error { return c.shutdown(shutdownWait) }

func (c *Control) shutdown(patience time.Duration) error {
	f, err := status.OpenReadOnly(c.Dir)
	if err != nil {
		c.await(c.askWatch(), patience)
		c.say("Error: %v", err)
		c.say("cannot access status file; no readers killed")
		return nil
	}
	defer f.Close()
	// All are asked before the first one is waited for.
	all := c.askHandlers(f)
	killed := len(all)
	c.await(append(all, c.askWatch()...), patience)
	err = status.Retire(c.Dir)
	if killed == 1 {
		fmt.Fprintln(c.Out, "1 process killed.")
	} else {
		fmt.Fprintf(c.Out, "%d processes killed.\n", killed)
	}
	return daemon.Explain(err, "")
}

// askHandlers asks all handlers to end.
func (c *Control) askHandlers(f *status.File) []ending {
	var all []ending
	for n := status.Entries - 1; n >= 0; n-- {
		switch e, err := f.Terminate(n); {
		case err == nil:
			all = append(all, ending{e, fmt.Sprintf("the handler of reader %d", n)})
		case !errors.Is(err, status.ErrNotHandler):
			c.say("Error: %v", err)
		}
	}
	// Some handlers of far readers have no entry. They come last: however many files
	// of theirs there are, the others have been asked.
	far, err := status.EndFar(c.Dir)
	c.complain("far readers", err)
	for _, e := range far {
		if slices.ContainsFunc(all, func(a ending) bool { return a.PID == e.PID }) {
			e.Close()
			continue
		}
		all = append(all, ending{e, "the handler of a far reader"})
	}
	return all
}

// askWatch asks the process that watches for devices to end, if there is one.
func (c *Control) askWatch() []ending {
	e, err := status.EndWatch(c.Dir)
	c.complain("hotplug", err)
	if e == nil {
		return nil
	}
	return []ending{{e, "openct-control watch"}}
}

// await waits until all have ended, and names those that have not.
func (c *Control) await(all []ending, patience time.Duration) {
	end := time.Now().Add(patience)
	for _, e := range all {
		if !e.Wait(end) {
			c.say("Error: %s, process %d (%s), has not ended within %v", e.what, e.PID, c.commandLine(e.PID), patience)
			next := fmt.Sprintf("kill -KILL %d", e.PID)
			if unit := readerunit.OfProcess(c.Root, e.PID); unit != "" {
				next = "systemctl stop " + cli.Quote(unit) // systemd would start it again
			}
			c.say("next: %s", next)
		}
		e.Close()
	}
}

// maxCommandLine is how much of a command line a message has: its device is in it.
const maxCommandLine = 200

// commandLine is that of a process, for people.
func (c *Control) commandLine(pid int) string {
	for _, p := range c.Root.Processes() {
		if p.PID == pid {
			line := strings.Join(p.Args(), " ")
			return line[:min(len(line), maxCommandLine)]
		}
	}
	return "unknown"
}
