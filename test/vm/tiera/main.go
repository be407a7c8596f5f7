// Tiera ("tier A") boots a Debian kernel with nothing but a handful of USB
// modules and runs test binaries in it as root: the quick look, in seconds,
// at what needs a real kernel and no system around it. Run it from the top of
// the tree:
//
//	go run ./test/vm/tiera [-run REGEXP] [-root DIR] [package ...]
//
// The packages (default internal/usb/gousbdev, internal/vusb/usbip and
// cmd/openct-vtoken) are built as tests with the tag vhci. The kernel is
// Debian's linux-image-amd64, fetched with apt-get and unpacked into the cache,
// or one that is in DIR already.
//
// The same program is the guest's init.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	if os.Getpid() == 1 {
		guest()
		return
	}
	var o options
	flag.StringVar(&o.root, "root", "", "folder of an unpacked kernel package (boot/, lib/modules/)")
	flag.StringVar(&o.cache, "cache", ".cache/tiera", "folder for the kernel package")
	flag.StringVar(&o.run, "run", ".", "which tests to run")
	flag.StringVar(&o.accel, "accel", "tcg", "QEMU's accelerator: tcg or kvm")
	flag.Parse()
	o.packages = flag.Args()
	if len(o.packages) == 0 {
		o.packages = []string{"./internal/usb/gousbdev", "./internal/vusb/usbip", "./cmd/openct-vtoken"}
	}
	if err := host(o); err != nil {
		fmt.Fprintln(os.Stderr, "tiera:", err)
		os.Exit(1)
	}
}
