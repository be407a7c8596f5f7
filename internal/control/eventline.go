package control

import (
	"fmt"
	"strings"

	"openct/internal/cli"
	"openct/internal/monitor"
	"openct/internal/printable"
)

// eventLine is an event for people: time, number of the reader, what has happened,
// the reader's name and the rest.
func eventLine(e monitor.Event) string {
	reader := "-"
	if e.Reader != nil {
		reader = fmt.Sprint(*e.Reader)
	}
	line := fmt.Sprintf("%s  %2s  %-12s  %s", e.Time.Format("15:04:05.000"), reader, e.Event, about(e))
	return strings.TrimRight(printable.Line(line), " ")
}

func about(e monitor.Event) string {
	parts := []string{}
	if text := details(e); text != "" {
		parts = append(parts, text)
	}
	if e.Name != "" {
		parts = append([]string{e.Name}, parts...)
	}
	return strings.Join(parts, ": ")
}

func details(e monitor.Event) string {
	slot := ""
	if e.Slot != nil {
		slot = fmt.Sprintf("slot %d", *e.Slot)
	}
	switch e.Event {
	case monitor.Present, monitor.Ready:
		return strings.Join(readerParts(e), ", ")
	case monitor.Plugged, monitor.Unplugged, monitor.Stopped:
		return strings.Join(deviceParts(e), ", ")
	case monitor.CardIn, monitor.CardOut:
		return slot
	case monitor.Connected, monitor.Disconnected:
		return whoText(e.Client)
	case monitor.Locked:
		return fmt.Sprintf("%s, %s lock of %s", whoText(e.Client), lockKind(e.Exclusive), slot)
	case monitor.Unlocked:
		return fmt.Sprintf("%s, %s", slot, whoText(e.Client))
	case monitor.Conflict:
		holder := ""
		if e.Holder != nil {
			holder = " by " + whoText(e.Holder)
		}
		return fmt.Sprintf("%s was refused, %s is locked%s", whoText(e.Client), slot, holder)
	case monitor.Failed:
		return e.Error
	case monitor.Fault:
		parts := []string{e.Error}
		if e.Name == "" && !strings.Contains(e.Error, e.Device) {
			parts[0] = e.Device + ": " + e.Error
		}
		if e.Unit != "" {
			parts = append(parts, "see journalctl -u "+cli.Quote(e.Unit))
		}
		return strings.Join(parts, "; ")
	case monitor.Missed:
		return fmt.Sprintf("%d events came too fast to be told", e.Missed)
	case monitor.Init:
		return "OpenCT has been started"
	case monitor.Shutdown:
		return "OpenCT has been stopped"
	}
	return ""
}

// readerParts are cards, device, clients and locks.
func readerParts(e monitor.Event) []string {
	var parts []string
	for _, s := range e.Slots {
		card := "empty"
		if s.Card {
			card = "card present"
		}
		parts = append(parts, fmt.Sprintf("slot%d: %s", s.Slot, card))
	}
	parts = append(parts, deviceParts(e)...)
	for _, c := range e.Clients {
		parts = append(parts, "client "+whoText(&c))
	}
	for _, l := range e.Locks {
		parts = append(parts, fmt.Sprintf("%s lock of slot %d by %s", lockKind(&l.Exclusive), l.Slot, whoText(&l.Client)))
	}
	return parts
}

func deviceParts(e monitor.Event) []string {
	var parts []string
	for _, p := range []struct{ label, text string }{{"driver ", e.Driver}, {"", e.ID}, {"", e.Device}, {"port ", e.Port}} {
		if p.text != "" {
			parts = append(parts, p.label+p.text)
		}
	}
	return parts
}

func lockKind(exclusive *bool) string {
	if exclusive != nil && *exclusive {
		return "exclusive"
	}
	return "shared"
}

// whoText is a client: "pkcs11-tool (process 812, user anna)".
func whoText(c *monitor.Client) string {
	if c == nil {
		return "a client"
	}
	program, user := c.Program, c.User
	if program == "" {
		program = "a program"
	}
	if user == "" {
		user = fmt.Sprint(c.UID)
	}
	return fmt.Sprintf("%s (process %d, user %s)", program, c.PID, user)
}

// Colours (ECMA-48, Select Graphic Rendition).
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	dim    = "\x1b[2m"
	plain  = "\x1b[0m"
)

func colour(kind monitor.Kind, line string) string {
	on := ""
	switch kind {
	case monitor.Fault, monitor.Failed:
		on = red
	case monitor.Conflict, monitor.Missed:
		on = yellow
	case monitor.Ready, monitor.Present, monitor.CardIn:
		on = green
	case monitor.Unplugged, monitor.Stopped, monitor.CardOut, monitor.Shutdown:
		on = dim
	}
	if on == "" {
		return line
	}
	return on + line + plain
}
