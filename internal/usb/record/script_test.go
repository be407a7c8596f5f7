package record

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseScriptErrors(t *testing.T) {
	tests := []struct {
		name, script, want string
	}{
		{"unknown word", "\nJUMP 1", `line 2: unknown operation "JUMP"`},
		{"direction", "OUT C0 00 0000 0000 []", "line 1: request type C0 is not OUT"},
		{"no brackets", "OUT 40 00 0000 0000 01", "stands in [ ]"},
		{"open bracket", "OUT 40 00 0000 0000 [01", "] is missing"},
		{"no len", "IN C0 00 0000 0000 01", "needs its len"},
		{"too much comes", "IN C0 00 0000 0000 len 1 01 02", "2 bytes come in, but len is 1"},
		{"rest", "IN C0 00 0000 0000 len 4 01 <ATR>", `"<ATR>" is left over`},
		{"short line", "IN C0", "ends too early"},
		{"number", "HALT 181", "not a number of 8 bits"},
		{"interrupt out", "INT 01 len 4", "does not read"},
		{"huge len", "IN C0 00 0000 0000 len 99999999", "more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseScript(tt.script)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzParseScript(f *testing.F) {
	f.Add("CLAIM 0 0\nIN  C1 00 0000 0000 len 64 T d 0D 63 00\nOUT 41 16 1901 0000 [] T 1000")
	f.Add("BULK 81 len 64 T 1000 52 36 00*12\nINT 81 len 8 50 03 UNPLUG\nCLAIM 0 0 BUSY\nRELEASE 0\nHALT 81 IO")
	f.Add("OUT 40 06 0000 0000 [00*4 FF]T d OVERFLOW # end")
	f.Fuzz(func(t *testing.T, script string) {
		if strings.Count(script, "*") > 4 {
			return // repeats may make a megabyte each
		}
		ops, err := ParseScript(script)
		if err != nil {
			return
		}
		var b strings.Builder
		for _, op := range ops {
			b.WriteString(op.String() + "\n")
		}
		again, err := ParseScript(b.String())
		if err != nil {
			t.Fatalf("own output %q: %v", b.String(), err)
		}
		if diff := cmp.Diff(ops, again, cmpopts.EquateEmpty(), cmpopts.EquateErrors()); diff != "" {
			t.Errorf("round trip (-first +second):\n%s", diff)
		}
	})
}
