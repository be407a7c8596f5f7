package status

import (
	"errors"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	f := mustOpen(t, initDir(t))
	for _, alias := range []string{"office", "", "home", "twin", "twin"} {
		if err := mustClaim(t, f).WriteDetail(Detail{Alias: alias}); err != nil {
			t.Fatal(err)
		}
	}
	all := "0 (office), 1 (without a name), 2 (home), 3 (twin), 4 (twin)"
	tests := []struct {
		name  string
		want  int
		err   error
		tells string
	}{
		{"office", 0, nil, ""},
		{"home", 2, nil, ""},
		{"1", 1, nil, ""},
		{"0x3", 3, nil, ""},
		{"twin", 0, ErrAmbiguous, "3, 4"},
		{"hom", 0, ErrNoReader, all},
		{"", 0, ErrNoReader, all}, // is no name
		{"without a name", 0, ErrNoReader, all},
		{"5", 0, ErrNoReader, all},
		{"-1", 0, ErrNoReader, all},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, err := f.Find(tt.name)
			if !errors.Is(err, tt.err) || e.Index != tt.want || err != nil && !strings.Contains(err.Error(), tt.tells) {
				t.Errorf("reader %d, %v", e.Index, err)
			}
		})
	}
	if _, err := mustOpen(t, initDir(t)).Find("office"); !errors.Is(err, ErrNoReader) || !strings.HasSuffix(err.Error(), "no reader is served") {
		t.Errorf("without readers: %v", err)
	}
}
