package serialtest

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"openct/internal/pcmcia"
	"openct/internal/serial"
	"openct/internal/serial/record"
	"openct/internal/usb"
)

// Phase says which part of a scenario a window is.
type Phase uint8

// Phases.
const (
	Open    Phase = iota // until the handler's socket is there
	Request              // from a client's request to its reply
	Idle                 // between them
	Stop                 // the handler is told to end
)

// Window is a part of a scenario that is compared at once.
type Window struct {
	Scenario string
	File     string
	Line     int // of File, where it begins
	Phase    Phase
	Meaning  string
	Device   string // of Open: the reader's device type, "serial", "usb" or "pcmcia"

	Steps []Step

	Request []byte // command, unit and arguments (internal/socket)
	Reply   []byte // the reply's arguments
	Failed  bool   // the request was refused; of Open: the handler ended
}

func (w *Window) String() string {
	return fmt.Sprintf("%s:%d (%s: %s)", filepath.Base(w.File), w.Line, w.Scenario, w.Meaning)
}

// moves says whether a modem line changes in the window.
func (w *Window) moves() bool {
	return slices.ContainsFunc(w.Steps, func(s Step) bool { return s.Kind == Inputs })
}

// Step is one thing that driver or reader did.
type Step = record.Step

// Kind of a step.
type Kind = record.Kind

// Kinds.
const (
	Write   = record.Write
	Set     = record.Set
	Lines   = record.Lines
	Break   = record.Break
	Answer  = record.Answer
	Inputs  = record.Inputs
	Unplug  = record.Unplug
	NoLines = record.NoLines
)

// event is a line of a recording.
type event struct {
	Time    int    `json:"t_ms"`
	Who     string `json:"who"`
	Op      string `json:"op"`
	What    string `json:"what"`
	Data    string `json:"data"`
	Meaning string `json:"meaning"`
	Echo    any    `json:"echo"` // true, or what came back
	Speed   uint32 `json:"speed"`
	Format  string `json:"format"`
	Iflag   string `json:"iflag"`
	On      any    `json:"on"`
	DTR     *int   `json:"dtr"`
	RTS     *int   `json:"rts"`
	CTS     *int   `json:"cts"`
	DSR     *int   `json:"dsr"`
	Error   any    `json:"error"`
	Exit    *int   `json:"exit"`
	Last    int    `json:"last"`  // repeat: of the events
	Times   int    `json:"times"` // repeat: how often more
	Type    uint8  `json:"type"`
	Request uint8  `json:"request"`
	Value   uint16 `json:"value"`
	Index   uint16 `json:"index"`
	Ep      string `json:"ep"`
	Ioctl   string `json:"ioctl"` // its number, in hexadecimal
}

// slow is from where on a reader's answer took its time; what is less is the
// machine's on which it was recorded.
const slow = 100 * time.Millisecond

// Load reads the windows of recordings; further files go on where the first
// one ends.
func Load(files ...string) ([]*Window, error) {
	var l loader
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		sc := bufio.NewScanner(f)
		sc.Buffer(nil, 1<<20)
		for n := 1; sc.Scan(); n++ {
			var e event
			err := json.Unmarshal(sc.Bytes(), &e)
			if err == nil {
				err = l.add(&e, file, n)
			}
			if err != nil {
				f.Close()
				return nil, fmt.Errorf("%s:%d: %w", file, n, err)
			}
		}
		f.Close()
		if err := sc.Err(); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	if len(l.windows) == 0 {
		return nil, fmt.Errorf("%v: no scenario", files)
	}
	return l.windows, nil
}

type loader struct {
	windows  []*Window
	scenario string
	now      *Window
	set      serial.Params // as it stands
	dtr, rts bool
	in       serial.Inputs
	last     int // when the driver or the client last did something
	started  bool
	events   []int // of the window: how many steps each event added
}

func (l *loader) begin(phase Phase, meaning, file string, n int) {
	l.now = &Window{Scenario: l.scenario, File: file, Line: n, Phase: phase, Meaning: meaning}
	l.windows = append(l.windows, l.now)
	l.events = nil
}

// open begins a handler.
func (l *loader) open(file string, n int) {
	l.set, l.dtr, l.rts, l.in = serial.Default, true, true, serial.Inputs{}
	l.begin(Open, "open", file, n)
}

func (l *loader) step(s Step) { l.now.Steps = append(l.now.Steps, s) }

func (l *loader) add(e *event, file string, n int) (err error) {
	if l.now == nil && e.Who+e.Op != "rigscenario" {
		return fmt.Errorf("not in a scenario")
	}
	switch e.Who + " " + e.Op {
	case "rig scenario":
		l.scenario, l.started = e.Data, false
		l.open(file, n)
	case "client start":
		if l.started {
			l.open(file, n)
		}
		l.started = true
		if words := strings.Fields(e.Data); len(words) > 1 {
			l.now.Device = words[len(words)-2]
		}
	case "client connected":
		l.begin(Idle, "idle", file, n)
	case "client request":
		l.begin(Request, e.Meaning, file, n)
		l.now.Request, err = hex.DecodeString(e.Data)
	case "client reply":
		l.now.Failed = e.Error != any(0.0)
		l.now.Reply, err = hex.DecodeString(e.Data)
		l.begin(Idle, "idle", file, n)
	case "client note":
		if l.now.Phase == Open && e.Exit != nil {
			l.now.Failed = true
		}
	case "client stop":
		l.begin(Stop, "stop", file, n)
	case "driver write", "driver set", "reader write":
		before := len(l.now.Steps)
		err = l.traffic(e)
		l.events = append(l.events, len(l.now.Steps)-before)
	case "driver control", "driver bulk_out", "reader interrupt", "reader bulk_in":
		before := len(l.now.Steps)
		err = l.usb(e)
		l.events = append(l.events, len(l.now.Steps)-before)
	case "line set", "line read":
		before := len(l.now.Steps)
		l.inputs(e)
		l.events = append(l.events, len(l.now.Steps)-before)
	case "line repeat":
		err = l.repeat(e)
	}
	if e.Who != "reader" && e.Who != "line" {
		l.last = e.Time
	}
	return err
}

// maxRepeat bounds what a recording may say of repeated events.
const maxRepeat = 1000

// repeat adds what the last events of a window added once more.
func (l *loader) repeat(e *event) error {
	if e.Last < 1 || e.Times < 0 || e.Times > maxRepeat {
		return fmt.Errorf("the last %d events %d times more", e.Last, e.Times)
	}
	steps := 0
	for _, n := range l.events[max(0, len(l.events)-e.Last):] {
		steps += n
	}
	again := slices.Clone(l.now.Steps[len(l.now.Steps)-steps:])
	for range e.Times {
		l.now.Steps = append(l.now.Steps, again...)
	}
	return nil
}

// ioctl is a request to the kernel's driver: what goes to it, or what it answers.
func (l *loader) ioctl(e *event) error {
	code, err := strconv.ParseUint(e.Ioctl, 16, 32)
	if err != nil {
		return err
	}
	data, err := hex.DecodeString(e.Data)
	if err != nil {
		return err
	}
	q := pcmcia.Request{Direction: pcmcia.Direction(code >> 30), Number: byte(code)}
	if q.Direction&pcmcia.Read == 0 {
		l.step(Step{Kind: Write, Pipe: q.String(), Data: data})
		return nil
	}
	l.step(Step{Kind: Write, Pipe: q.String()})
	l.step(Step{Kind: Answer, Pipe: q.String(), Data: data})
	return nil
}

// usb is traffic on USB.
func (l *loader) usb(e *event) (err error) {
	if e.Ioctl != "" {
		return l.ioctl(e)
	}
	s := Step{Kind: Write, Pipe: e.Ep}
	switch {
	case e.Op == "control":
		s.Pipe = controlPipe(usb.Setup{RequestType: e.Type, Request: e.Request, Value: e.Value, Index: e.Index})
	case e.Who == "reader":
		s.Kind = Answer
	}
	s.Data, err = hex.DecodeString(e.Data)
	if s.Kind == Write || len(s.Data) > 0 {
		l.step(s)
	}
	return err
}

// controlPipe is the Pipe of a control request; wValue and wIndex are in it unless
// both are 0.
func controlPipe(s usb.Setup) string {
	pipe := fmt.Sprintf("%02x/%02x", s.RequestType, s.Request)
	if s.Value != 0 || s.Index != 0 {
		pipe += fmt.Sprintf("/%04x/%04x", s.Value, s.Index)
	}
	return pipe
}

func (l *loader) inputs(e *event) {
	in := l.in
	if e.CTS != nil {
		in.CTS = *e.CTS == 1
	}
	if e.DSR != nil {
		in.DSR = *e.DSR == 1
	}
	if in != l.in {
		l.in = in
		l.step(Step{Kind: Inputs, Inputs: in})
	}
}

func (l *loader) traffic(e *event) (err error) {
	var s Step
	switch {
	case e.Who == "reader":
		s.Kind = Answer
		if s.Data, err = hex.DecodeString(e.Data); len(s.Data) == 0 {
			return err
		}
		if took := time.Duration(e.Time-l.last) * time.Millisecond; took >= slow {
			s.After = took
		}
	case e.Op == "write":
		s.Kind = Write
		if s.Data, err = hex.DecodeString(e.Data); err != nil {
			return err
		}
		switch echo := e.Echo.(type) {
		case bool:
			s.Echo = s.Data
		case string:
			s.Echo, err = hex.DecodeString(echo)
		}
	case e.What == "termios":
		s.Kind = Set
		if s.Params, err = record.ParseParams(fmt.Sprint(e.Speed), e.Format); err != nil {
			return err
		}
		s.Params.CheckParity = strings.Contains(e.Iflag, "PARMRK")
		if record.Same(s.Params, l.set) {
			return nil
		}
		l.set = s.Params
	case e.What == "lines" && e.DTR != nil && e.RTS != nil:
		s = Step{Kind: Lines, DTR: *e.DTR == 1, RTS: *e.RTS == 1}
		if s.DTR == l.dtr && s.RTS == l.rts {
			return nil
		}
		l.dtr, l.rts = s.DTR, s.RTS
	case e.What == "break":
		s = Step{Kind: Break, On: e.On == any(true) || e.On == any(1.0)}
	default: // open, close, flush, drain
		return nil
	}
	l.step(s)
	return err
}
