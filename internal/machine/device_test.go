package machine

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"openct/internal/usb"
)

// tree makes files of a fake /sys.
func tree(t *testing.T, files map[string]string) Root {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, usbDevices, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Root(root)
}

// eToken is what the kernel shows of one (USB 2.0, 9.6).
const eToken = "\x12\x01\x00\x01\xFF\x00\x00\x08\x29\x05\x00\x06\x00\x01\x01\x02\x00\x01" +
	"\x09\x02\x12\x00\x01\x01\x00\x80\x1E\x09\x04\x00\x00\x00\xFF\x00\x00\x00"

func TestUSBDevices(t *testing.T) {
	root := tree(t, map[string]string{
		"usb1/idVendor": "1d6b\n", "usb1/idProduct": "0002\n", "usb1/busnum": "1\n", "usb1/devnum": "1\n", "usb1/descriptors": eToken,
		"2-1/idVendor": "0529\n", "2-1/idProduct": "0600\n", "2-1/busnum": "2\n", "2-1/devnum": "10\n",
		"2-1/manufacturer": "AKS\n", "2-1/product": "eToken Pro\n", "2-1/descriptors": eToken,
		"2-1/2-1:1.0/bInterfaceClass": "ff\n", "2-1/2-1:1.0/bInterfaceNumber": "00\n",
		"1-2.3/idVendor": "04e6\n", "1-2.3/idProduct": "5116\n", "1-2.3/busnum": "1\n", "1-2.3/devnum": "7\n", "1-2.3/descriptors": "junk",
		"1-2.3/1-2.3:1.0/bInterfaceClass": "0b\n", "1-2.3/1-2.3:1.0/bInterfaceNumber": "00\n",
		"2-1:1.0/bInterfaceClass": "ff\n",                              // an interface, not a device
		"1-9/idVendor":            "0529\n",                            // on its way out
		"1-8/idVendor":            "zzzz\n", "1-8/idProduct": "0600\n", // nonsense
	})
	if err := os.Symlink("../../../../bus/usb/drivers/usbip-host", root.Path(usbDevices+"/1-2.3/driver")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../bus/usb/drivers/usb", root.Path(usbDevices+"/2-1/driver")); err != nil {
		t.Fatal(err)
	}
	got, err := root.USBDevices()
	if err != nil {
		t.Fatal(err)
	}
	want := []Device{
		{Name: "usb1", Bus: 1, Address: 1, Vendor: 0x1D6B, Product: 0x0002},
		{Name: "1-2.3", Bus: 1, Address: 7, Vendor: 0x04E6, Product: 0x5116, Interfaces: []Interface{{Class: 0x0B}}, Lent: true},
		{Name: "2-1", Bus: 2, Address: 10, Vendor: 0x0529, Product: 0x0600,
			Manufacturer: "AKS", Model: "eToken Pro", Interfaces: []Interface{{Class: 0xFF}}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Device{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if node := got[2].Node(); node != "/dev/bus/usb/002/010" {
		t.Errorf("node %s", node)
	}
	if got[2].HasCCID() || !got[1].HasCCID() {
		t.Error("smart card class not seen where it is")
	}
	desc, err := got[2].Descriptor()
	if err != nil || desc.ID() != "0529:0600" || desc.Port != "2-1" || desc.ProductString != "eToken Pro" {
		t.Errorf("descriptor %+v, %v", desc, err)
	}
	if _, err := got[1].Descriptor(); !errors.Is(err, usb.ErrDescriptor) {
		t.Errorf("descriptors that are junk: got %v, want %v", err, usb.ErrDescriptor)
	}
}

func TestNoUSB(t *testing.T) {
	if got, err := Root(t.TempDir()).USBDevices(); err != nil || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
}
