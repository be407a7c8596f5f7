// Package record keeps what happens on a serial line, and writes and reads it as a
// text of steps. serialtest plays one against a driver.
package record

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"openct/internal/serial"
)

// Kind of a step.
type Kind uint8

// Kinds. The driver does those before Answer, the reader the others.
const (
	Write Kind = iota
	Set
	Lines
	Break
	Answer
	Inputs
	Unplug
	NoLines
)

// Step is one thing that driver or reader did.
type Step struct {
	Kind   Kind
	Pipe   string        // Write, Answer on USB: "40/00" (see controlPipe) or an endpoint, "82"
	Data   []byte        // Write, Answer
	Echo   []byte        // Write: what the line gave back
	Params serial.Params // Set
	DTR    bool          // Lines
	RTS    bool          // Lines
	On     bool          // Break
	Inputs serial.Inputs // Inputs
	After  time.Duration // Answer: how long the reader took
	Bad    bool          // Answer: with wrong parity, each byte
}

// String is the step as Steps reads it.
func (s Step) String() string {
	switch s.Kind {
	case Write:
		sign := ">" + s.Pipe
		if len(s.Echo) > 0 {
			sign = ">>"
		}
		return fmt.Sprintf("%s %x", sign, s.Data)
	case Answer:
		sign := "<" + s.Pipe
		if s.Bad {
			sign = "<!"
		}
		if s.After > 0 {
			sign += " @" + s.After.String()
		}
		return fmt.Sprintf("%s %x", sign, s.Data)
	case Unplug:
		return "unplug"
	case NoLines:
		return "nolines"
	case Set:
		text := "set " + s.Params.String()
		if s.Params.CheckParity {
			text += " check"
		}
		return text
	case Lines:
		return fmt.Sprintf("lines %d%d", bit(s.DTR), bit(s.RTS))
	case Break:
		return fmt.Sprintf("break %d", bit(s.On))
	default:
		return fmt.Sprintf("inputs %d%d", bit(s.Inputs.CTS), bit(s.Inputs.DSR))
	}
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Steps reads steps, one a line:
//
//	> 00a4      the driver writes
//	>> 00a4     the driver writes, and the line gives it back
//	< 9000      the reader answers
//	< @5ms 9000 it answers later
//	<! 90       it answers with a wrong parity
//	>02 00a4    the driver writes on USB: to an endpoint, or ">40/00" a request, ">40/00/0001/0000"
//	            one with wValue and wIndex
//	<82 9000    the reader answers on USB
//	>ioctl/0    the driver makes an ioctl, by its number; with bytes where they go to the kernel
//	<ioctl/0 0f what the kernel leaves in its argument
//	unplug      the adapter is unplugged
//	nolines     the line has no modem lines
//	set 9600 8E2 [check]
//	lines 10    DTR, RTS
//	break 1
//	inputs 10   CTS, DSR
func Steps(text string) ([]Step, error) {
	var steps []Step
	for i, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		s, err := parseStep(words[0], words[1:])
		if err != nil {
			return nil, fmt.Errorf("line %d: %q: %w", i+1, line, err)
		}
		steps = append(steps, s)
	}
	return steps, nil
}

func parseStep(word string, args []string) (s Step, err error) {
	bits := func() (a, b bool, err error) {
		if len(args) != 1 || strings.Trim(args[0], "01") != "" || len(args[0]) == 0 {
			return false, false, fmt.Errorf("bits are missing")
		}
		return args[0][0] == '1', args[0][len(args[0])-1] == '1', nil
	}
	if len(word) > 2 && strings.ContainsRune("<>", rune(word[0])) {
		word, s.Pipe = word[:1], word[1:]
	}
	switch word {
	case "unplug":
		s.Kind = Unplug
	case "nolines":
		s.Kind = NoLines
	case ">", ">>", "<", "<!":
		s.Kind = Write
		if word[0] == '<' {
			s.Kind, s.Bad = Answer, word == "<!"
			if len(args) > 0 && args[0][0] == '@' {
				if s.After, err = time.ParseDuration(args[0][1:]); err != nil {
					return s, err
				}
				args = args[1:]
			}
		}
		if s.Data, err = hex.DecodeString(strings.Join(args, "")); word == ">>" {
			s.Echo = s.Data
		}
	case "set":
		s.Kind = Set
		if len(args) < 2 {
			return s, fmt.Errorf("speed and format are missing")
		}
		s.Params, err = ParseParams(args[0], args[1])
		s.Params.CheckParity = len(args) == 3 && args[2] == "check"
	case "lines":
		s.Kind = Lines
		s.DTR, s.RTS, err = bits()
	case "break":
		s.Kind = Break
		s.On, _, err = bits()
	case "inputs":
		s.Kind = Inputs
		s.Inputs.CTS, s.Inputs.DSR, err = bits()
	default:
		err = fmt.Errorf("no such step")
	}
	return s, err
}

// ParseParams reads a speed and a format: "9600", "8E2".
func ParseParams(speed, format string) (p serial.Params, err error) {
	n, err := strconv.ParseUint(speed, 10, 32)
	if err != nil {
		return p, fmt.Errorf("speed %q is not a number", speed)
	}
	if len(format) != 3 || !strings.Contains("5678", format[:1]) || !strings.Contains("NEO", format[1:2]) || !strings.Contains("12", format[2:]) {
		return p, fmt.Errorf("format %q is not of the form 8E2", format)
	}
	p.Speed = uint32(n)
	p.Bits, p.StopBits = int(format[0]-'0'), int(format[2]-'0')
	p.Parity = serial.Parity(strings.Index("NEO", format[1:2]))
	return p, nil
}

// Same compares settings with zeros filled in.
func Same(a, b serial.Params) bool {
	return a.String() == b.String() && a.CheckParity == b.CheckParity
}
