package record_test

import (
	"errors"
	"testing"

	"openct/internal/usb"
	"openct/internal/usb/record"
)

// plain is a device that cannot be reset, as playback is.
type plain struct{ usb.Device }

// resettable is a device that can.
type resettable struct {
	usb.Device
	err  error
	done int
}

func (r *resettable) Reset() error {
	r.done++
	return r.err
}

// A reset of the port reaches the device behind the recorder, and what comes of it
// the driver. It is no transfer, so a script has no line for it.
func TestReset(t *testing.T) {
	for _, tt := range []struct {
		name string
		dev  usb.Device
		want error
	}{
		{"it succeeds", &resettable{}, nil},
		{"the device leaves", &resettable{err: usb.ErrUnplugged}, usb.ErrUnplugged},
		{"a device that cannot be reset", plain{}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := record.New(tt.dev)
			var d usb.Device = r
			p, ok := d.(usb.Resetter)
			if !ok {
				t.Fatal("a driver sees no device that can be reset")
			}
			if err := p.Reset(); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if dev, ok := tt.dev.(*resettable); ok && dev.done != 1 {
				t.Errorf("the device was reset %d times", dev.done)
			}
			if ops := r.Ops(); len(ops) > 0 {
				t.Errorf("recorded: %v", ops)
			}
		})
	}
}
