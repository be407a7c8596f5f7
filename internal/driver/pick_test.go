package driver

import (
	"errors"
	"testing"

	"openct/internal/usb"
)

// conf is what openct.conf says, in a test.
type conf struct {
	name  string // the driver it gives the device to
	class bool
}

func (c conf) DriverFor(uint16, uint16, uint16) (string, bool) { return c.name, c.name != "" }
func (c conf) ClassReaders() bool                              { return c.class }

func TestPick(t *testing.T) {
	token := &usb.Descriptor{Vendor: 0x0529, Product: 0x0600, Release: 0x0100}
	listed := &usb.Descriptor{Vendor: 0x04E6, Product: 0x5116} // SCM SCR3310
	class := &usb.Descriptor{Vendor: 0x04E6, Product: 0xFFFF, Interfaces: []usb.Interface{{
		Class: 0x0B,
		Endpoints: []usb.Endpoint{
			{Address: 0x01, Type: usb.EndpointBulk, MaxPacket: 64},
			{Address: 0x82, Type: usb.EndpointBulk, MaxPacket: 64},
		},
		// CCID 1.1, 5.1.
		Extra: []byte("\x36\x21\x10\x01\x00\x07\x03\x00\x00\x00\xa0\x0f\x00\x00\xa0\x0f\x00\x00\x00\x80\x25\x00\x00\x80\x25\x00\x00" +
			"\x00\xfe\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xba\x00\x01\x00\x0f\x01\x00\x00\xff\xff\x00\x00\x00\x01"),
	}}}
	mouse := &usb.Descriptor{Vendor: 0x046D, Product: 0xC077, Release: 0x7200}
	tests := []struct {
		name   string
		desc   *usb.Descriptor
		conf   conf
		driver string
		why    Why
		left   string
		err    error
		text   string
	}{
		{name: "a token of the table", desc: token, driver: "etoken64", why: WhyID},
		{name: "openct.conf gives it to another driver", desc: token, conf: conf{name: "etoken"}, driver: "etoken", why: WhyConfig},
		{name: "a reader for its class", desc: class, conf: conf{class: true}, driver: "ccid", why: WhyClass},
		{name: "pcscd has the readers of the class", desc: class, driver: "ccid", why: WhyClass, left: PCSCD},
		{name: "a listed reader", desc: listed, conf: conf{class: true}, driver: "ccid", why: WhyID},
		{name: "pcscd has the listed readers, too", desc: listed, driver: "ccid", why: WhyID, left: PCSCD},
		{name: "openct.conf asks for one reader", desc: listed, conf: conf{name: "ccid"}, driver: "ccid", why: WhyConfig},
		{name: "openct.conf gives a stranger to a driver", desc: mouse, conf: conf{name: "starkey"}, driver: "starkey", why: WhyConfig},
		{name: "a stranger", desc: mouse, err: ErrNoDriver,
			text: "usb:046d/c077/7200: no driver for this device; openct.conf can assign its id to one"},
		{name: "openct.conf names a driver that is not there", desc: token, conf: conf{name: "nonesuch"}, err: ErrUnknownDriver,
			text: `openct.conf assigns usb:0529/0600/0100 to driver "nonesuch": no such driver; ifdhandler -i lists them`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Pick(tt.desc, tt.conf)
			if !errors.Is(err, tt.err) || tt.err != nil && err.Error() != tt.text {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			if c.Entry.Name != tt.driver || c.Why != tt.why || c.Left != tt.left || c.Ours() != (tt.left == "") {
				t.Errorf("driver %q, why %d, left to %q", c.Entry.Name, c.Why, c.Left)
			}
		})
	}
}
