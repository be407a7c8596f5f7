//go:build go1.25

package usbip

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestLeaveWaitsForTheHub(t *testing.T) {
	tests := []struct {
		name    string
		address int
		after   time.Duration // the device's folder goes
		want    time.Duration
		wantErr bool
	}{
		{"not in yet", 0, 2 * hubGrace, 0, false},
		{"another device has come", 6, 2 * hubGrace, 0, false},
		{"in time", 7, time.Second, time.Second, false},
		{"never", 7, 2 * hubGrace, hubGrace, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := fakeVHCI(t)
			synctest.Test(t, func(t *testing.T) {
				write(t, "", v.devices, "0-0", "remove")
				hub := time.AfterFunc(tt.after, func() { pulled(t, v) })
				defer hub.Stop()
				start := time.Now()
				err := (&Attachment{BusID: "0-0", Address: tt.address, vhci: v}).leave()
				if d := time.Since(start); d < tt.want || d > tt.want+goneTick || (err != nil) != tt.wantErr {
					t.Errorf("%v after %v, want an error: %v, after %v", err, d, tt.wantErr, tt.want)
				}
				told, err := os.ReadFile(filepath.Join(v.devices, "0-0", "remove"))
				if nudged := err == nil && string(told) == "1"; nudged != tt.wantErr {
					t.Errorf("told to look again: %v (%q, %v)", nudged, told, err)
				}
			})
		})
	}
}
