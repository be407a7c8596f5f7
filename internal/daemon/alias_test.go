package daemon

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"openct/internal/config"
	"openct/internal/devname"
	"openct/internal/status"
	"openct/internal/vusb/card"
)

func TestAlias(t *testing.T) {
	node := filepath.Join(t.TempDir(), "node")
	tests := []struct {
		name, conf         string
		target             devname.Target
		wantName, wantDeep string // in the status entry; in side file and journal
	}{
		{"by id", `reader office { id = usb:0529/0600; };`, devname.Target{}, "office: Aladdin eToken PRO 64k", "office"},
		{"another port", `reader office { port = 2-1; };`, devname.Target{}, "Aladdin eToken PRO 64k", ""},
		{"a configured reader keeps the driver's name", `reader desk { driver = etoken64; device = usb:/dev/bus/usb/001/004; };`,
			devname.Target{Driver: "etoken64", Type: "usb", Path: "/dev/bus/usb/001/004"}, "Aladdin eToken PRO 64k", "desk"},
		{"one of two virtual readers", `reader one { driver = etoken64; device = virtual:test; }; reader two { driver = etoken64; device = virtual:test; };`,
			devname.Target{}, "Aladdin eToken PRO 64k", ""},
		{"the only virtual reader", `reader one { driver = etoken64; device = virtual:test; };`, devname.Target{}, "Aladdin eToken PRO 64k", "one"},
		{"no statement about it", `reader desk { driver = phoenix; device = serial:` + node + `; };`, devname.Target{}, "Aladdin eToken PRO 64k", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, warnings := config.Parse("openct.conf", []byte(tt.conf), nil)
			if len(warnings) > 0 {
				t.Fatal(warnings)
			}
			var journal bytes.Buffer
			s := start(t, initialised(t), card.NewEcho(), func(o *Options) {
				o.Config, o.Log = cfg, slog.New(slog.NewTextHandler(&journal, nil))
				if tt.target.Type != "" {
					o.Target = tt.target
				}
			})
			e := entry(t, s.dir, 0)
			f, err := status.OpenReadOnly(s.dir)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			d, err := f.ReadDetail(e)
			if err != nil {
				t.Fatal(err)
			}
			s.stop()
			s.wait()
			logged := strings.Contains(journal.String(), "alias="+tt.wantDeep+" ")
			if e.Name != tt.wantName || d.Alias != tt.wantDeep || logged != (tt.wantDeep != "") {
				t.Errorf("name %q, alias %q, port %q, journal:\n%s", e.Name, d.Alias, d.Port, &journal)
			}
		})
	}
}
