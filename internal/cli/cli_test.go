package cli

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name     string
		args     []string
		operands int
		exit     int // -1: none
		out, err string
	}{
		{"operands", []string{"a", "b"}, 2, -1, "", ""},
		{"option behind an operand", []string{"a", "-x", "b"}, 2, -1, "", ""},
		{"help", []string{"-h"}, 0, 0, "usage\n\noptions\n", ""},
		{"version", []string{"-v"}, 0, 0, "OpenCT " + Version + "\n", ""},
		{"unknown option", []string{"-q"}, 0, 1, "", "prog: invalid option -- 'q'\nusage\nnext: prog --help\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			p := New("prog", "usage\n\noptions\n", &out, &errs)
			p.Flags.BoolP("extra", "x", false, "")
			operands, err := p.Parse(tt.args)
			exit := ErrExit(-1)
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if len(operands) != tt.operands || int(exit) != tt.exit || out.String() != tt.out || errs.String() != tt.err {
				t.Errorf("%d operands, exit %d, stdout %q, stderr %q", len(operands), exit, out.String(), errs.String())
			}
		})
	}
}

func TestExit(t *testing.T) {
	tests := []struct {
		name string
		err  error
		exit int
		want string
	}{
		{"all well", nil, 0, ""},
		{"said already", ErrExit(1), 1, ""},
		{"said already, and wrapped", fmt.Errorf("x: %w", ErrExit(1)), 1, ""},
		{"an error", errors.New("no such thing"), 1, "prog: no such thing\n"},
		{"with what to do", &Hint{Err: errors.New("no such thing"), Hint: "make one"}, 1, "prog: no such thing\nnext: make one\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var errs bytes.Buffer
			if exit := New("prog", "", nil, &errs).Exit(tt.err); exit != tt.exit || errs.String() != tt.want {
				t.Errorf("exit %d, stderr %q, want %d, %q", exit, errs.String(), tt.exit, tt.want)
			}
		})
	}
}
