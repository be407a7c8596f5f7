// Package doctor finds out why a token does not work, and what to do next
// ("openct-control doctor").
//
// Gather looks at the machine and changes nothing; what it saw are Facts. Each
// check is a function from Facts to Findings and looks at nothing else. They
// are asked in an order in which causes come before their consequences, so the
// first thing that is wrong is the one to mend.
package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"openct/internal/printable"
)

// Level says how bad a finding is.
type Level string

const (
	OK   Level = "ok"   // as it should be
	Warn Level = "warn" // works now, but will not always
	Fail Level = "fail" // keeps a token from working
)

// Finding is one thing that was looked at. A Warn or a Fail has a Next.
type Finding struct {
	Level   Level  `json:"level"`
	Check   string `json:"check"`            // which check found it: "directory", "node" ...
	Subject string `json:"subject"`          // what it is about: "OpenCT", or a device's node
	Text    string `json:"text"`             // what was found
	Next    string `json:"next,omitempty"`   // what to do about it
	Device  string `json:"device,omitempty"` // the node, for a finding about a device
}

// Report is all findings, in the order of the checks.
type Report struct {
	OK       bool      `json:"ok"`
	Findings []Finding `json:"findings"`
	Next     string    `json:"next"` // the one next step; empty when all is well
}

// check looks at the whole; deviceCheck at one device.
type check struct {
	name string
	run  func(*Facts) []Finding
}

type deviceCheck struct {
	name string
	run  func(*Facts, *Device) []Finding
}

// readerCheck looks at one reader of openct.conf.
type readerCheck struct {
	name string
	run  func(*Facts, *Configured) []Finding
}

// The checks, causes before consequences. What is wrong is told once: a check
// whose question makes no sense any more finds nothing.
var (
	before = []check{
		{"configuration", checkConfig},
		{"directory", checkDirectory},
		{"access", checkAccess},
		{"started", checkStarted},
		{"service", checkService},
		{"rules", checkRules},
	}
	eachDevice = []deviceCheck{
		{"driver", checkDriver},
		{"holder", checkHolder},
		{"node", checkNode},
		{"record", checkRecord},
		{"unit", checkUnit},
		{"served", checkServed},
		{"error", checkLastError},
	}
	eachReader = []readerCheck{
		{"device", checkReaderDevice},
		{"ssh", checkReaderSSH},
		{"holder", checkReaderHolder},
		{"node", checkReaderNode},
		{"unit", checkReaderUnit},
		{"served", checkReaderServed},
		{"error", checkReaderError},
		{"card", checkReaderCard},
	}
	after = []check{
		{"names", checkAliases},
		{"readers", checkReaders},
		{"room", checkRoom},
		{"stale", checkStale},
		{"programs", checkPrograms},
		{"plugged", checkPlugged},
	}
)

// Diagnose asks all checks.
func Diagnose(f *Facts) Report {
	r := Report{Findings: []Finding{}}
	general := func(checks []check) {
		for _, c := range checks {
			for _, found := range c.run(f) {
				found.Check, found.Subject = c.name, "OpenCT"
				r.Findings = append(r.Findings, found)
			}
		}
	}
	general(before)
	for i := range f.Devices {
		d := &f.Devices[i]
		if d.Released != nil && !d.served() {
			for _, found := range checkReleased(d.Released) {
				found.Check, found.Subject, found.Device = "released", d.Port, d.Node.Path
				r.Findings = append(r.Findings, found)
			}
			continue
		}
		for _, c := range eachDevice {
			for _, found := range c.run(f, d) {
				found.Check, found.Subject, found.Device = c.name, d.Port, d.Node.Path
				r.Findings = append(r.Findings, found)
			}
		}
	}
	for i := range f.Configured {
		c := &f.Configured[i]
		if c.Released != nil && !c.served() {
			for _, found := range checkReleased(c.Released) {
				found.Check, found.Subject, found.Device = "released", c.Name, c.Device
				r.Findings = append(r.Findings, found)
			}
			continue
		}
		for _, check := range eachReader {
			for _, found := range check.run(f, c) {
				found.Check, found.Subject, found.Device = check.name, c.Name, c.Device
				r.Findings = append(r.Findings, found)
			}
		}
	}
	general(after)
	r.OK, r.Next = verdict(r.Findings)
	return r
}

// verdict picks the next step: that of the first failure, else of the first
// warning.
func verdict(findings []Finding) (ok bool, next string) {
	for _, level := range []Level{Fail, Warn} {
		for _, f := range findings {
			if f.Level == level {
				return false, f.Next
			}
		}
	}
	return true, ""
}

// Print writes the report for people: a line for each finding, the next step at
// the end.
func (r Report) Print(w io.Writer) error {
	var b strings.Builder
	width := 0
	for _, f := range r.Findings {
		width = max(width, len(f.Subject))
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%-4s  %-*s  %s\n", f.Level, width, f.Subject, printable.Line(f.Text))
	}
	next := r.Next
	if r.OK {
		next = "nothing, all is well"
	}
	fmt.Fprintf(&b, "\nnext: %s\n", printable.Line(next))
	_, err := io.WriteString(w, b.String())
	return err
}

// PrintJSON writes the report for programs.
func (r Report) PrintJSON(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(r)
}

// found makes a check's findings.
func found(level Level, next, format string, args ...any) []Finding {
	return []Finding{{Level: level, Text: fmt.Sprintf(format, args...), Next: next}}
}

func fine(format string, args ...any) []Finding { return found(OK, "", format, args...) }
