//go:build go1.25

package serialtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// load reads a recording of these lines.
func load(t *testing.T, lines ...string) ([]*Window, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "made-up.jsonl")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(file)
}

// What a recording leaves out because it is repeated, a window has.
func TestRepeat(t *testing.T) {
	const (
		begin = `{"who":"rig","op":"scenario","data":"s"}`
		ready = `{"who":"client","op":"connected"}`
		write = `{"who":"driver","op":"write","data":"01"}`
		line  = `{"who":"line","op":"read","cts":0,"dsr":0}`
		reply = `{"who":"reader","op":"write","data":"02"}`
	)
	for _, tt := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"a question and its answer", []string{write, reply, `{"who":"line","op":"repeat","last":2,"times":2}`}, "> 01 < 02 > 01 < 02 > 01 < 02"},
		{"what is no step", []string{write, reply, line, `{"who":"line","op":"repeat","last":1,"times":9}`}, "> 01 < 02"},
		{"more than the window has", []string{write, `{"who":"line","op":"repeat","last":7,"times":1}`}, "> 01 > 01"},
		{"of nothing", []string{`{"who":"line","op":"repeat","last":0,"times":1}`}, "error"},
		{"without end", []string{write, `{"who":"line","op":"repeat","last":1,"times":1000000}`}, "error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			windows, err := load(t, append([]string{begin, ready}, tt.lines...)...)
			got := "error"
			if err == nil {
				var steps []string
				for _, s := range windows[len(windows)-1].Steps {
					steps = append(steps, s.String())
				}
				got = strings.Join(steps, " ")
			}
			if got != tt.want {
				t.Errorf("got %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

// A scenario may have several handlers, each with an open of its own.
func TestSeveralHandlers(t *testing.T) {
	windows, err := load(t,
		`{"who":"rig","op":"scenario","data":"s"}`,
		`{"who":"client","op":"start"}`,
		`{"who":"driver","op":"set","what":"termios","speed":19200,"format":"8N1","iflag":""}`,
		`{"who":"client","op":"note","exit":1}`,
		`{"who":"client","op":"start"}`,
		`{"who":"driver","op":"set","what":"termios","speed":19200,"format":"8N1","iflag":""}`,
		`{"who":"client","op":"connected"}`,
	)
	if err != nil {
		t.Fatal(err)
	}
	if len(windows) != 3 || windows[0].Phase != Open || windows[1].Phase != Open || windows[2].Phase != Idle {
		t.Fatalf("windows %v", windows)
	}
	for i, failed := range []bool{true, false} {
		if w := windows[i]; w.Scenario != "s" || w.Failed != failed || len(w.Steps) != 1 || w.Steps[0].String() != "set 19200 8N1" {
			t.Errorf("window %d: %+v", i, w)
		}
	}
}
