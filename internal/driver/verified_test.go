package driver

import "testing"

func TestVerifiedBy(t *testing.T) {
	one, line := Hardware{"1.00", "one.1.txt"}, Hardware{"", "line.1.txt"}
	for _, tt := range []struct {
		name  string
		entry Entry
		want  string
	}{
		{"by nobody", Entry{Verified: Untested}, "nothing yet"},
		{"by the authors", Entry{Verified: Emulated}, "emulation"},
		{"by a user as well", Entry{Verified: Recorded, Seen: []Hardware{one}}, "hardware (firmware 1.00, one.1.txt), recorded exchange, emulation"},
		{"by a user alone", Entry{Verified: Untested, Seen: []Hardware{one}}, "hardware (firmware 1.00, one.1.txt)"},
		{"by two users", Entry{Verified: Untested, Seen: []Hardware{one, line}}, "hardware (firmware 1.00, one.1.txt), hardware (line.1.txt)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.entry.VerifiedBy(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
