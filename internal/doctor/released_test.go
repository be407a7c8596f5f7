package doctor

import (
	"strings"
	"testing"

	"openct/internal/machine"
	"openct/internal/status"
)

// Nothing is wrong with what somebody wanted.
func TestReleased(t *testing.T) {
	r := &status.Released{Reader: 2, Device: "/dev/null"}
	tests := []struct {
		name  string
		facts Facts
		want  string // a finding that is there; with -, one that is not
	}{
		{"a token", Facts{Devices: []Device{{Port: "1-2", Driver: "etoken64", Released: r}}}, "/dev/null is released since"},
		{"a token, and nothing else is said", Facts{Devices: []Device{{Port: "1-2", Driver: "etoken64", Released: r}}}, "-no handler serves the device"},
		{"a token that is served all the same", Facts{Devices: []Device{{Port: "1-2", Driver: "etoken64", Released: r, Reader: &Reader{Alive: true}}}}, "reader 0) answers"},
		{"a configured reader", Facts{Configured: []Configured{{Name: "sim", Device: "/dev/null", Released: r}}}, "to serve it again: openct-control take 2"},
		{"a configured reader, and nothing else is said", Facts{Configured: []Configured{{Name: "sim", Device: "/dev/null", Released: r}}}, "-no handler serves the device"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var all []string
			for _, f := range Diagnose(&tt.facts).Findings {
				all = append(all, f.Text)
			}
			want, absent := strings.CutPrefix(tt.want, "-")
			if strings.Contains(strings.Join(all, "\n"), want) == absent {
				t.Errorf("want %q in %q", tt.want, all)
			}
		})
	}
}

func TestGatherReleased(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, Root: machine.Here}
	if o.released("/dev/null") != nil {
		t.Error("released before it was")
	}
	if err := status.WriteReleased(dir, "/dev/null", status.Released{Device: "/dev/null", Reader: 2}); err != nil {
		t.Fatal(err)
	}
	if r := o.released("/dev/null"); r == nil || r.Reader != 2 {
		t.Errorf("released: %+v", r)
	}
}
