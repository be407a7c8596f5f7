package status

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

func TestFault(t *testing.T) {
	dir := t.TempDir()
	if f, err := ReadFault(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %+v, %v", f, err)
	}
	want := Fault{
		Time: time.Unix(1700000000, 0).UTC(), Device: "/dev/bus/usb/001/004", Driver: "etoken64",
		Unit: "openct-handler@001-004.service", Error: "driver etoken64: reset: stall",
	}
	if err := WriteFault(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFault(dir)
	if err != nil {
		t.Fatal(err)
	}
	want.PID = os.Getpid()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fault (-want +got):\n%s", diff)
	}
	if err := os.WriteFile(filepath.Join(dir, faultName), make([]byte, maxFault+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if f, err := ReadFault(dir); err == nil {
		t.Errorf("accepted an endless one: %+v", f)
	}
}

func FuzzDecodeFault(f *testing.F) {
	f.Add([]byte(`{"time":"2026-11-26T11:00:00Z","pid":42,"device":"/dev/bus/usb/001/004","error":"stall"}`))
	f.Add([]byte(`{"error":"\u001b[2J` + strings.Repeat("x", 1000) + `"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		fault, err := decodeFault(b)
		if err != nil {
			return
		}
		for _, s := range []string{fault.Device, fault.Driver, fault.Unit, fault.Error} {
			if len(s) > maxString || strings.ContainsFunc(s, unicode.IsControl) {
				t.Errorf("text %q is not for showing", s)
			}
		}
	})
}
