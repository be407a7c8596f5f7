package control

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"openct/internal/config"
	"openct/internal/daemon"
	"openct/internal/devname"
	"openct/internal/machine"
	"openct/internal/usb"
	"openct/internal/vusb"
	"openct/internal/vusb/model"
)

// labelled is a device with a text in all its strings.
type labelled struct {
	vusb.Model
	text string
}

func (l labelled) Descriptors() vusb.Descriptors {
	d := l.Model.Descriptors()
	d.Device = slices.Clone(d.Device)
	d.Device[14], d.Device[15], d.Device[16] = 1, 2, 3 // iManufacturer, iProduct, iSerialNumber
	d.Strings = []string{l.text, l.text, l.text}
	return d
}

// A report tells nothing about whoever made it: not the machine, the user, the
// directories, and not what openct.conf calls the device.
func TestReportTellsNoNames(t *testing.T) {
	const (
		alias, line  = "marker-alias", "marker-line"
		serial       = "marker-serial"
		name, home   = "marker-user", "/home/marker-home"
		host, socket = "marker-host", "marker-socket"
	)
	top := t.TempDir()
	work := filepath.Join(top, "marker-work")
	if err := os.MkdirAll(work, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(work)
	for variable, value := range map[string]string{"HOME": home, "USER": name, "LOGNAME": name, "SUDO_USER": name, "HOSTNAME": host} {
		t.Setenv(variable, value)
	}
	conf := fmt.Sprintf("reader %s { id = usb:0529/0600; serial = %s; };\nreader %s { driver = phoenix; device = serial:/dev/marker-tty; };\n", alias, serial, line)
	cfg, warnings := config.Parse("openct.conf", []byte(conf), nil)
	if len(warnings) > 0 {
		t.Fatal(warnings)
	}
	opened := 0
	var out bytes.Buffer
	c := &Control{
		Dir: filepath.Join(top, socket), Out: &out, Err: &out, Root: machine.Root(top), Config: cfg, ConfigFile: filepath.Join(top, "marker-conf"),
		Openers: map[string]daemon.Opener{"virtual": func(devname.Target, *slog.Logger) (usb.Device, error) {
			opened++
			m, err := model.New("etoken64", "echo")
			if err != nil {
				return nil, err
			}
			return vusb.Plug("marker-port", labelled{m, serial}).Open()
		}},
	}
	// The device is the one that has the name.
	if got := cfg.AliasOf(config.Plugged{ID: devname.USBID(0x0529, 0x0600, 0x0100), Serial: serial}); got != alias {
		t.Fatalf("openct.conf calls it %q", got)
	}
	if err := c.Verify([]string{"etoken64", "virtual", "marker-card"}, VerifyOptions{Output: "marker-report.txt"}); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	text, err := os.ReadFile("marker-report.txt")
	if err != nil {
		t.Fatal(err)
	}
	report := string(text)
	if opened == 0 || !strings.Contains(report, "[exchange]\nopen\n") || !strings.Contains(report, "10 of 10") {
		t.Fatalf("nothing was checked:\n%s", report)
	}
	if i := strings.Index(report, "marker"); i >= 0 {
		t.Errorf("the report has %.60q", report[i:])
	}
	if strings.Contains(report, top) {
		t.Errorf("the report has the path %s", top)
	}
	// What this machine and its user are really called, unless the words of every
	// report have it.
	real := map[string]bool{}
	if h, err := os.Hostname(); err == nil {
		real[h] = true
	}
	if u, err := user.Current(); err == nil {
		real[u.Username], real[u.HomeDir] = true, true
	}
	head, rest, _ := strings.Cut(report, "\nversion ")
	for word := range real {
		at := regexp.MustCompile(`(^|[^0-9A-Za-z])` + regexp.QuoteMeta(word) + `($|[^0-9A-Za-z])`)
		if word != "" && !at.MatchString(head) && at.MatchString(rest) {
			t.Errorf("the report has %q", word)
		}
	}
}
