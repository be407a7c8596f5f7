package control

import (
	"os"
	"path/filepath"
	"testing"

	"openct/internal/config"
)

func TestChangesTable(t *testing.T) {
	tests := []struct {
		name, conf string
		want       bool
	}{
		{"nothing", "", false},
		{"what the table says", "driver etoken64 { ids = { usb:0529/0600, usb:0529/0700, }; };", false},
		{"a device that no driver lists, which needs a rule of its own", "driver etoken64 { ids = { usb:0529/0699, }; };", false},
		{"another driver for a listed device", "driver etoken { ids = { usb:0529/0600, }; };", true},
		{"for one release of it", "driver etoken { ids = { usb:0529/0600/0100, }; };", true},
		{"a driver that is not there", "driver nonesuch { ids = { usb:0529/0600, }; };", true},
		{"all of a vendor's devices", "driver etoken64 { ids = { usb:0529, }; };", true},
		{"a card of another bus", "driver ccid { ids = { pcmcia:0529/0600, }; };", false},
		{"pcscd is to leave tokens alone", "pcsc = ignore;", true},
		{"readers of the class, about which udev always asks", "ccid = on;", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, _ := config.Parse("openct.conf", []byte(tt.conf), nil)
			if got := changesTable(cfg); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestSetMark(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, udevAsk)
	steps := []struct{ want, changed bool }{{false, false}, {true, true}, {true, false}, {false, true}, {false, false}}
	for i, s := range steps {
		changed, err := setMark(path, s.want)
		if err != nil || changed != s.changed {
			t.Fatalf("step %d: changed %v, %v", i, changed, err)
		}
		if _, err := os.Lstat(path); (err == nil) != s.want {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	// A handler's user could leave a link there; root must not write behind it.
	target := filepath.Join(dir, "target")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	if changed, err := setMark(path, true); err != nil || changed {
		t.Errorf("a link: changed %v, %v", changed, err)
	}
	if _, err := os.Lstat(target); err == nil {
		t.Error("wrote behind a link")
	}
}
