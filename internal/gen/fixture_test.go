//go:build go1.25

package main

import (
	"bytes"
	"context"
	"errors"
	"go/format"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"openct/internal/driver"
	"openct/internal/ifd"
	"openct/internal/usb"
	"openct/internal/verify"
	"openct/internal/verify/verifytest"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/model"
)

// reportOf is the report of a virtual device, as text.
func reportOf(t *testing.T, name string, faults ...vusb.Fault) string {
	t.Helper()
	var b bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		e, _ := driver.ByName(name)
		r, err := verify.Run(context.Background(), verify.Options{
			Entry: e, Version: "0.8.0", Date: time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC), IFD: ifd.Options{Name: e.Reader},
			Open: func() (usb.Device, error) {
				m, err := model.NewWith(name, card.NewEcho())
				if err != nil {
					return nil, err
				}
				p := vusb.Plug("virtual", m)
				for _, f := range faults {
					p.Inject(f)
				}
				return p.Open()
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
	})
	return b.String()
}

// plays is a player whose drivers play every report.
func plays(string, string) error { return nil }

// A report that the driver does not play is not left in the tree, and the error has
// the test's reason.
func TestFixtureDoesNotPlay(t *testing.T) {
	top, file := tree(t, reportOf(t, "etoken64"))
	reason := errors.New("operation 3: want OUT 40 01")
	played := ""
	_, err := fixture(top, file, func(_, name string) error { played = name; return reason })
	if !errors.Is(err, errFixture) || !errors.Is(err, reason) || played != "etoken64-0529-0600-0100.1.txt" {
		t.Errorf("%q was played: %v", played, err)
	}
	if left, _ := filepath.Glob(filepath.Join(top, reports, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// tree is a copy of what gen writes, and a report in it.
func tree(t *testing.T, report string) (top, file string) {
	t.Helper()
	top = t.TempDir()
	for _, x := range targets() {
		content, err := os.ReadFile(x.path("../.."))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(x.path(top)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(x.path(top), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file = filepath.Join(top, "report.txt")
	if err := os.WriteFile(file, []byte(report), 0o644); err != nil {
		t.Fatal(err)
	}
	return top, file
}

// A report becomes a test that the driver passes, and the lists name it.
func TestFixture(t *testing.T) {
	for _, tt := range []struct{ driver, name, want string }{
		{"etoken64", "etoken64-0529-0600-0100.1.txt", "hardware (firmware 1.00, etoken64-0529-0600-0100.1.txt), recorded exchange, emulation"},
		{"ccid", "ccid-fff0-0001-0100.1.txt", "hardware (firmware 1.00, ccid-fff0-0001-0100.1.txt), emulation"},
	} {
		t.Run(tt.driver, func(t *testing.T) {
			top, file := tree(t, reportOf(t, tt.driver))
			name, err := fixture(top, file, plays)
			if err != nil || name != tt.name {
				t.Fatalf("%q, %v", name, err)
			}
			for _, list := range []string{"README.md", "man/ifdhandler.8"} {
				content, err := os.ReadFile(filepath.Join(top, list))
				if err != nil || !strings.Contains(strings.ReplaceAll(string(content), `\-`, "-"), tt.want) {
					t.Errorf("%s does not say %q: %v", list, tt.want, err)
				}
			}
			source, err := os.ReadFile(filepath.Join(top, "internal/driver/hardware.go"))
			if err != nil {
				t.Fatal(err)
			}
			formatted, err := format.Source(source)
			if err != nil || !bytes.Equal(formatted, source) || !strings.Contains(string(source), tt.name) {
				t.Errorf("hardware.go: %v\n%s", err, source)
			}
			r, err := readReport(filepath.Join(top, reports, name))
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) { verifytest.Replay(t, r) })
			if name, err = fixture(top, file, plays); err != nil || !strings.HasSuffix(name, ".2.txt") {
				t.Errorf("a second one: %q, %v", name, err)
			}
		})
	}
}

// A report of a device that does not work is played, and verifies nothing.
func TestFixtureOfAFailure(t *testing.T) {
	stall := vusb.Fault{On: vusb.Transfer{Control: true, Code: 0x86}, Times: -1, Stall: true}
	top, file := tree(t, reportOf(t, "etoken64", stall))
	if _, err := fixture(top, file, plays); err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(top, "README.md"))
	if err != nil || strings.Contains(string(readme), "hardware (") {
		t.Errorf("%v, the list calls it verified", err)
	}
}

// What its user has written into a report does not get into the tree.
func TestFixtureOfAnEditedReport(t *testing.T) {
	const marker = "Erika Mustermann"
	good := reportOf(t, "etoken64")
	for _, tt := range []struct {
		name, old, new string
		want           error
	}{
		{"a comment", "[verdicts]\n", "[verdicts]\n# made by " + marker + "\n", nil},
		{"the text of a verdict", "10 of 10", "10 of 10 at " + marker, nil},
		{"a verdict more", "[verdicts]\n", "[verdicts]\nok     " + marker + "    and what she says\n", nil},
		{"the result of a command", "= 9000, ", "= 9000 by " + marker + ", ", errFixture},
		{"the result of a reset", "= ATR ", "= ATR of " + marker + " ", errFixture},
		{"a failure", "= ok  ", "= error: " + marker + "  ", errFixture},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(good, tt.old) {
				t.Fatalf("no %q in the report", tt.old)
			}
			top, file := tree(t, strings.Replace(good, tt.old, tt.new, 1))
			if _, err := fixture(top, file, plays); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			made, err := filepath.Glob(filepath.Join(top, reports, "*"))
			if err != nil || (len(made) == 1) != (tt.want == nil) {
				t.Fatalf("made %v, %v", made, err)
			}
			for _, file := range made {
				text, err := os.ReadFile(file)
				if err != nil || strings.Contains(string(text), "Erika") {
					t.Errorf("%v\n%s", err, text)
				}
			}
		})
	}
}

func TestFixtureRefuses(t *testing.T) {
	good := reportOf(t, "etoken64")
	const padding = "IN  C0 88 0000 0000 len 2 T 10000 00 00"
	if !strings.Contains(good, padding) {
		t.Fatalf("no %q in the report", padding)
	}
	for _, tt := range []struct {
		name, report string
		want         error
	}{
		{"no report", "hello", verify.ErrReport},
		{"bytes of the device", strings.Replace(good, padding, "IN  C0 88 0000 0000 len 2 T 10000 47 11", 1), errFixture},
		{"an unknown form", strings.Replace(good, "driver etoken64", "driver cm4000", 1), errFixture},
	} {
		t.Run(tt.name, func(t *testing.T) {
			top, file := tree(t, tt.report)
			if _, err := fixture(top, file, plays); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if left, _ := filepath.Glob(filepath.Join(top, reports, "*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
