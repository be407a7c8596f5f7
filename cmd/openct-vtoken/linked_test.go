package main

import (
	"os/exec"
	"strings"
	"testing"
)

// The virtual devices are played for a host, which is another program: nothing
// that serves readers is needed for it.
func TestNotLinked(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "openct/internal/vusb/model\n") {
		t.Fatalf("the list lacks what is there:\n%s", out)
	}
	for p := range strings.Lines(string(out)) {
		for _, prefix := range []string{
			"openct/internal/daemon", "openct/internal/control", "openct/internal/driver", "openct/internal/ccid",
			"openct/internal/config", "openct/internal/usb/usbfs", "crypto/x509", "net/http", "text/template", "regexp", "github.com/google",
		} {
			if strings.HasPrefix(p, prefix) {
				t.Errorf("%s is linked", strings.TrimSpace(p))
			}
		}
	}
}
