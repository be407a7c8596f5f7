package verify

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"openct/internal/driver"
	"openct/internal/proto"
	serialrecord "openct/internal/serial/record"
	"openct/internal/usb"
	"openct/internal/usb/record"
)

// Verdict is what a check found.
type Verdict string

// Verdicts.
const (
	OK    Verdict = "ok"
	Odd   Verdict = "odd"   // it works, but is not as it should be
	Wrong Verdict = "wrong" // it does not work
)

// Check is the outcome of one check.
type Check struct {
	Verdict Verdict
	Name    string
	Text    string
}

func (c Check) String() string { return fmt.Sprintf("%-5s  %-18s  %s", c.Verdict, c.Name, c.Text) }

// Report is what a run of the checks leaves.
type Report struct {
	Version string // of OpenCT
	Date    string // 2006-01-02
	Driver  string
	Device  *usb.Descriptor // nil: the reader is on a serial line
	Checks  []Check
	Steps   []Step
}

// Step is one call of the driver: what was asked for, what passed between driver
// and device, and what came of it.
type Step struct {
	Do       Do
	Protocol proto.ID // of Protocol
	Command  []byte   // of Transmit

	USB    []record.IO
	Serial []serialrecord.Step

	Result string
	Took   time.Duration
}

// Do is a call of the driver.
type Do string

// Calls.
const (
	Open     Do = "open"
	Status   Do = "status"
	Reset    Do = "reset"
	Protocol Do = "protocol"
	Transmit Do = "transmit"
	Close    Do = "close"
)

// Failed says whether the call ended in an error.
func (s *Step) Failed() bool { return strings.HasPrefix(s.Result, failed) }

// failed begins the result of a call that ended in an error.
const failed = "error: "

// atrWord begins the result of a reset.
const atrWord = "ATR "

// atr is the ATR that a reset yielded; nil for any other step.
func (s *Step) atr() []byte {
	text, ok := strings.CutPrefix(s.Result, atrWord)
	if s.Do != Reset || !ok {
		return nil
	}
	b, _ := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	return b
}

// title is the first line of every report; the number changes when an older
// program could not read the report any more.
const title = "OpenCT device report 1"

// note tells people what is in a report.
const note = `# Made by openct-control verify. What it holds: what kind of device this is and
# how it describes itself (no serial number, none of its texts), the card's answer
# to reset without the historical bytes that its issuer may fill, the verdicts, and
# the exchange between driver and device: commands, lengths, status words, headers of
# blocks and of messages, failures. What the card or the device sent beyond that is
# not in it: zero bytes stand in its place. No PIN was sent, nothing was written, no
# key used.
`

// WriteTo writes the report as text.
func (r *Report) WriteTo(w io.Writer) (int64, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n%s\nversion %s\ndate %s\ndriver %s\n", title, note, r.Version, r.Date, r.Driver)
	if d := r.Device; d != nil {
		fmt.Fprintf(&b, "device %04x:%04x %04x\n", d.Vendor, d.Product, d.Release)
		for _, i := range d.Interfaces {
			fmt.Fprintf(&b, "interface %d %d %02x %02x %02x\n", i.Number, i.Alt, i.Class, i.SubClass, i.Protocol)
			for _, e := range i.Endpoints {
				fmt.Fprintf(&b, "endpoint %02x %d %d\n", e.Address, e.Type, e.MaxPacket)
			}
			if len(i.Extra) > 0 {
				fmt.Fprintf(&b, "extra %x\n", i.Extra)
			}
		}
	}
	b.WriteString("\n[verdicts]\n")
	for _, c := range r.Checks {
		fmt.Fprintln(&b, c)
	}
	b.WriteString("\n[exchange]\n")
	if why := r.Unplayable(); why != "" {
		fmt.Fprintf(&b, "# No test can be made from this report: %s.\n", why)
	}
	for i := range r.Steps {
		r.Steps[i].write(&b)
	}
	return b.WriteTo(w)
}

func (s *Step) write(b *bytes.Buffer) {
	switch s.Do {
	case Protocol:
		fmt.Fprintf(b, "%s %d\n", s.Do, s.Protocol)
	case Transmit:
		fmt.Fprintf(b, "%s % X\n", s.Do, s.Command)
	default:
		fmt.Fprintln(b, s.Do)
	}
	for _, op := range s.USB {
		fmt.Fprintf(b, "  %v\n", op)
	}
	for _, st := range s.Serial {
		fmt.Fprintf(b, "  %v\n", st)
	}
	fmt.Fprintf(b, "= %s  # %d ms\n", s.Result, s.Took.Milliseconds())
}

// Limits of a report that Parse takes. One is a few hundred kilobytes long.
const (
	MaxReport = 8 << 20
	maxSteps  = 4096
	maxText   = 200
	maxExtra  = 1024
	maxParts  = 256 // interfaces and endpoints
)

// ErrReport: the text is no report that this program can read.
var ErrReport = errors.New("not a report of openct-control verify")

// Parse reads a report. Whatever the text is, the result is a report within the
// limits, or an error that wraps ErrReport and names the line.
func Parse(text string) (*Report, error) {
	if len(text) > MaxReport {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrReport, MaxReport)
	}
	first, rest, _ := strings.Cut(text, "\n")
	if first != title {
		return nil, fmt.Errorf("%w: its first line is not %q", ErrReport, title)
	}
	p := parser{r: &Report{}, section: "head"}
	n := 1
	for line := range strings.Lines(rest) {
		n++
		if err := p.line(strings.TrimRight(line, "\r\n")); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrReport, n, err)
		}
	}
	return p.r, p.end()
}

type parser struct {
	r       *Report
	section string
	step    *Step
	script  strings.Builder // of step
	parts   int
}

func (p *parser) line(line string) error {
	if line == "" || line[0] == '#' {
		return nil
	}
	if line[0] == '[' {
		p.section = line
		return nil
	}
	switch p.section {
	case "head":
		return p.head(strings.Fields(line))
	case "[verdicts]":
		return p.check(line)
	case "[exchange]":
		return p.exchange(line)
	}
	return fmt.Errorf("section %q is unknown", p.section)
}

// Forms of words in a report. A name of a file is made of some.
var (
	versionForm = spelling(1, 40, func(c byte) bool {
		return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || strings.IndexByte(".+~-", c) >= 0
	})
	textForm   = spelling(0, 2*maxText, printing)
	resultForm = spelling(1, 200, printing)
)

func printing(c byte) bool { return c >= ' ' && c <= '~' }

// spelling makes a check of a value that has from least to most of certain bytes.
func spelling(least, most int, has func(byte) bool) func(value string) error {
	return func(value string) error {
		ok := len(value) >= least && len(value) <= most
		for i := range len(value) {
			ok = ok && has(value[i])
		}
		if !ok {
			return spellingError(value)
		}
		return nil
	}
}

func dateForm(value string) error {
	if _, err := time.Parse(time.DateOnly, value); err != nil {
		return spellingError(value)
	}
	return nil
}

func spellingError(value string) error {
	return fmt.Errorf("%.40q is not a valid value", value)
}

func (p *parser) head(words []string) error {
	if len(words) < 2 {
		return fmt.Errorf("a value is missing")
	}
	value := words[1]
	switch words[0] {
	case "version":
		p.r.Version = value
		return versionForm(value)
	case "date":
		p.r.Date = value
		return dateForm(value)
	case "driver":
		p.r.Driver = value
		_, err := driver.Named(value)
		return err
	case "device":
		if p.r.Device != nil {
			return fmt.Errorf("a second device")
		}
		p.r.Device = &usb.Descriptor{}
		return p.device(words[1:])
	}
	if p.r.Device == nil {
		return fmt.Errorf("%q is unknown", words[0])
	}
	if p.parts++; p.parts > maxParts {
		return fmt.Errorf("more than %d interfaces and endpoints", maxParts)
	}
	d := p.r.Device
	if words[0] == "interface" {
		n, err := numbers(words[1:], 8, 10, 10, 16, 16, 16)
		if err != nil {
			return err
		}
		d.Interfaces = append(d.Interfaces, usb.Interface{Number: uint8(n[0]), Alt: uint8(n[1]),
			Class: uint8(n[2]), SubClass: uint8(n[3]), Protocol: uint8(n[4])})
		return nil
	}
	if len(d.Interfaces) == 0 {
		return fmt.Errorf("%q outside an interface", words[0])
	}
	i := &d.Interfaces[len(d.Interfaces)-1]
	switch words[0] {
	case "endpoint":
		n, err := numbers(words[1:], 16, 16, 10, 10)
		if err != nil {
			return err
		}
		i.Endpoints = append(i.Endpoints, usb.Endpoint{Address: uint8(n[0]), Type: uint8(n[1]) & 3, MaxPacket: uint16(n[2]) & 0x7FF})
		return nil
	case "extra":
		if len(value) > 2*maxExtra {
			return fmt.Errorf("more than %d bytes", maxExtra)
		}
		var err error
		i.Extra, err = hex.DecodeString(value)
		return err
	}
	return fmt.Errorf("%q is unknown", words[0])
}

func (p *parser) device(words []string) error {
	if len(words) != 2 || len(words[0]) != 9 || words[0][4] != ':' {
		return fmt.Errorf("not a device id and a release")
	}
	n, err := numbers([]string{words[0][:4], words[0][5:], words[1]}, 16, 16, 16, 16)
	if err != nil {
		return err
	}
	d := p.r.Device
	d.Vendor, d.Product, d.Release = uint16(n[0]), uint16(n[1]), uint16(n[2])
	return nil
}

// numbers reads a number of so many bits for each base.
func numbers(words []string, bits int, bases ...int) ([]uint64, error) {
	if len(words) != len(bases) {
		return nil, fmt.Errorf("%d values instead of %d", len(words), len(bases))
	}
	var all []uint64
	for i, w := range words {
		n, err := strconv.ParseUint(w, bases[i], bits)
		if err != nil {
			return nil, fmt.Errorf("%.40q is not a number of %d bits", w, bits)
		}
		all = append(all, n)
	}
	return all, nil
}

func (p *parser) check(line string) error {
	const name, text = 7, 27 // columns, as String has them
	if len(line) <= text || len(line) > 2*maxText {
		return fmt.Errorf("not a verdict")
	}
	v := Verdict(strings.TrimSpace(line[:name]))
	if !slices.Contains([]Verdict{OK, Odd, Wrong}, v) {
		return fmt.Errorf("not a verdict")
	}
	if p.r.Checks = append(p.r.Checks, Check{Verdict: v, Name: strings.TrimSpace(line[name:text]), Text: strings.TrimSpace(line[text:])}); len(p.r.Checks) > maxParts {
		return fmt.Errorf("more than %d verdicts", maxParts)
	}
	return textForm(line)
}

func (p *parser) exchange(line string) error {
	switch {
	case strings.HasPrefix(line, "  "):
		if p.step == nil {
			return fmt.Errorf("the line belongs to no step")
		}
		p.script.WriteString(line + "\n")
		return nil
	case strings.HasPrefix(line, "= "):
		return p.result(line[2:])
	case p.step != nil:
		return fmt.Errorf("the step before has no result")
	}
	do, rest, _ := strings.Cut(line, " ")
	s := Step{Do: Do(do)}
	switch s.Do {
	case Open, Status, Reset, Close:
	case Protocol:
		n, err := strconv.ParseInt(rest, 10, 16)
		if err != nil || !proto.ID(n).Known() {
			return fmt.Errorf("not a protocol: %.40q", rest)
		}
		s.Protocol = proto.ID(n)
	case Transmit:
		var err error
		if s.Command, err = hex.DecodeString(strings.ReplaceAll(rest, " ", "")); err != nil || len(s.Command) < 4 {
			return fmt.Errorf("not a command")
		}
	default:
		return fmt.Errorf("%.40q is not a step", do)
	}
	if len(p.r.Steps) == maxSteps {
		return fmt.Errorf("more than %d steps", maxSteps)
	}
	p.step = &s
	return nil
}

// result ends a step.
func (p *parser) result(text string) error {
	if p.step == nil {
		return fmt.Errorf("a result without a step")
	}
	s := p.step
	text, took, _ := strings.Cut(text, "  # ")
	if ms, err := strconv.ParseUint(strings.TrimSuffix(took, " ms"), 10, 31); err == nil {
		s.Took = time.Duration(ms) * time.Millisecond
	}
	s.Result = text
	err := resultForm(text)
	script := p.script.String()
	switch {
	case err != nil:
	case strings.Contains(script, "*"):
		err = fmt.Errorf("a report must not repeat bytes with *") // a short text of these is long
	case p.r.Device != nil:
		s.USB, err = record.ParseScript(script)
	default:
		s.Serial, err = serialrecord.Steps(script)
	}
	p.r.Steps = append(p.r.Steps, *s)
	p.step = nil
	p.script.Reset()
	return err
}

func (p *parser) end() error {
	switch {
	case p.step != nil:
		return fmt.Errorf("%w: the exchange ends in an incomplete step", ErrReport)
	case p.r.Driver == "" || p.r.Version == "" || p.r.Date == "":
		return fmt.Errorf("%w: the driver, version or date is missing", ErrReport)
	case len(p.r.Steps) == 0:
		return fmt.Errorf("%w: the exchange is missing", ErrReport)
	}
	return nil
}
