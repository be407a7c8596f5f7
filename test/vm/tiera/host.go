package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// patience bounds a whole run; one takes under a minute in software
// emulation.
const patience = 5 * time.Minute

// passed is what the guest prints last.
const passed = "tiera: all passed"

// modules in the order in which they load.
var modules = []string{
	"drivers/usb/common/usb-common.ko",
	"drivers/usb/core/usbcore.ko",
	"drivers/usb/usbip/usbip-core.ko",
	"drivers/usb/usbip/vhci-hcd.ko",
	"drivers/usb/serial/usbserial.ko", // a kernel driver to take an interface from
	"drivers/usb/serial/ftdi_sio.ko",
}

type options struct {
	root, cache, run, accel string
	packages                []string
}

func host(o options) error {
	if o.root == "" {
		o.root = filepath.Join(o.cache, "kernel")
		if err := fetchKernel(o.cache, o.root); err != nil {
			return fmt.Errorf("fetch the kernel: %w", err)
		}
	}
	kernel, err := one(filepath.Join(o.root, "boot/vmlinuz-*"))
	if err != nil {
		return err
	}
	moduleDir, err := one(filepath.Join(o.root, "lib/modules/*/kernel"))
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "tiera")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	initrd := filepath.Join(tmp, "initrd")
	if err := makeInitrd(o, tmp, moduleDir, initrd); err != nil {
		return err
	}
	return boot(o, kernel, initrd)
}

// fetchKernel downloads and unpacks Debian's current kernel, once.
func fetchKernel(cache, root string) error {
	if _, err := os.Stat(root); err == nil {
		return nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	out, err := exec.Command("apt-cache", "depends", "linux-image-amd64").Output()
	if err != nil {
		return err
	}
	_, name, found := strings.Cut(string(out), "Depends: ")
	if !found {
		return errors.New("apt knows no linux-image-amd64: run apt-get update")
	}
	name, _, _ = strings.Cut(name, "\n")
	download := exec.Command("apt-get", "-q", "download", name)
	download.Dir = cache
	if err := visibly(download); err != nil {
		return err
	}
	deb, err := one(filepath.Join(cache, name+"_*.deb"))
	if err != nil {
		return err
	}
	if err := visibly(exec.Command("dpkg-deb", "-x", deb, root+".part")); err != nil {
		return err
	}
	return os.Rename(root+".part", root)
}

func visibly(cmd *exec.Cmd) error {
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}

func one(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%s: %w", pattern, os.ErrNotExist)
	}
	if err != nil {
		return "", err
	}
	return found[len(found)-1], nil
}

// makeInitrd packs init, modules, test binaries and the libraries they need.
func makeInitrd(o options, tmp, moduleDir, path string) error {
	var c cpio
	init := filepath.Join(tmp, "init")
	build := exec.Command("go", "build", "-o", init, "./test/vm/tiera")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := visibly(build); err != nil {
		return err
	}
	c.file(init, "init")
	c.data("run-tests", []byte(o.run))
	var order []string
	for _, m := range modules {
		c.file(filepath.Join(moduleDir, m), "modules/"+filepath.Base(m))
		order = append(order, filepath.Base(m))
	}
	c.data("modules/order", []byte(strings.Join(order, "\n")))
	for _, pkg := range o.packages {
		test := filepath.Join(tmp, filepath.Base(pkg)+".test")
		if err := visibly(exec.Command("go", "test", "-c", "-tags", "vhci", "-o", test, pkg)); err != nil {
			return err
		}
		c.file(test, "tests/"+filepath.Base(test))
		libs, err := libraries(test)
		if err != nil {
			return err
		}
		for _, lib := range libs {
			c.file(lib, strings.TrimPrefix(lib, "/"))
		}
	}
	if c.err != nil {
		return c.err
	}
	c.data("TRAILER!!!", nil)
	return os.WriteFile(path, c.buf.Bytes(), 0o600)
}

// libraries lists the shared libraries of a program, with the loader.
func libraries(program string) ([]string, error) {
	out, err := exec.Command("ldd", program).CombinedOutput()
	if bytes.Contains(out, []byte("not a dynamic executable")) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", program, err)
	}
	var libs []string
	for _, word := range strings.Fields(string(out)) {
		if strings.HasPrefix(word, "/") {
			libs = append(libs, word)
		}
	}
	return libs, nil
}

func boot(o options, kernel, initrd string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", o.accel, "-cpu", "max", "-m", "512", "-smp", "2", "-no-reboot", "-nodefaults", "-display", "none",
		"-serial", "stdio", "-kernel", kernel, "-initrd", initrd,
		"-append", "console=ttyS0 quiet loglevel=2 panic=-1")
	cmd.Stdout = io.MultiWriter(os.Stdout, &out)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return errors.Join(fmt.Errorf("qemu: %w", err), ctx.Err())
	}
	if !bytes.Contains(out.Bytes(), []byte(passed)) {
		return errors.New("a test failed in the guest, or the guest did not get so far")
	}
	return nil
}

// cpio is an archive in the "newc" format, which the kernel unpacks.
type cpio struct {
	buf  bytes.Buffer
	seen map[string]bool
	err  error
}

// file adds a file and keeps the first error.
func (c *cpio) file(from, to string) {
	data, err := os.ReadFile(from)
	if err != nil && c.err == nil {
		c.err = err
	}
	c.data(to, data)
}

func (c *cpio) data(name string, data []byte) {
	for i := range name {
		if name[i] == '/' {
			c.entry(name[:i], 0o040755, nil)
		}
	}
	c.entry(name, 0o100755, data)
}

func (c *cpio) entry(name string, mode uint32, data []byte) {
	if c.seen[name] {
		return
	}
	if c.seen == nil {
		c.seen = make(map[string]bool)
	}
	c.seen[name] = true
	// ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor,
	// rdevmajor, rdevminor, namesize, check
	fmt.Fprintf(&c.buf, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		len(c.seen), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	c.pad()
	c.buf.Write(data)
	c.pad()
}

func (c *cpio) pad() {
	for c.buf.Len()%4 != 0 {
		c.buf.WriteByte(0)
	}
}
