package qemu

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// bootModules are what the first stage needs to reach the root disk and the
// agent's port; udev loads the rest. Modules built into the kernel are left
// out by themselves.
var bootModules = []string{"virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic", "ext4"}

// Initramfs makes the first stage: init as /init, and the boot modules of the
// kernel whose module folder is given, in the order in which they load.
func Initramfs(init []byte, moduleDir string) ([]byte, error) {
	modules, err := loadOrder(moduleDir, bootModules)
	if err != nil {
		return nil, err
	}
	var c cpio
	c.dir("dev")
	c.dir("modules")
	// The kernel opens the console for init before devtmpfs is there.
	c.entry("dev/console", 0o020600, nil, 5, 1)
	c.entry("init", 0o100755, init, 0, 0)
	var list []string
	for _, m := range modules {
		data, err := os.ReadFile(filepath.Join(moduleDir, m))
		if err != nil {
			return nil, err
		}
		name := filepath.Base(m)
		list = append(list, name)
		c.entry("modules/"+name, 0o100644, data, 0, 0)
	}
	c.entry("modules.list", 0o100644, []byte(strings.Join(list, "\n")+"\n"), 0, 0)
	c.entry("TRAILER!!!", 0, nil, 0, 0)
	return c.buf.Bytes(), nil
}

// loadOrder resolves module names through modules.dep to files, each after
// what it depends on.
func loadOrder(dir string, names []string) ([]string, error) {
	dep, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	deps := make(map[string][]string) // file → files it needs, nearest first
	files := make(map[string]string)  // module name → file
	for _, line := range strings.Split(string(dep), "\n") {
		file, needs, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		deps[file] = strings.Fields(needs)
		files[moduleName(file)] = file
	}
	for _, line := range strings.Fields(string(builtin)) {
		files[moduleName(line)] = ""
	}

	var order []string
	done := make(map[string]bool)
	add := func(file string) {
		if !done[file] {
			done[file] = true
			order = append(order, file)
		}
	}
	for _, name := range names {
		file, ok := files[name]
		if !ok {
			return nil, fmt.Errorf("kernel in %s has no module %s", dir, name)
		}
		if file == "" {
			continue
		}
		// modules.dep lists everything needed, the deepest last.
		needs := deps[file]
		for i := len(needs) - 1; i >= 0; i-- {
			add(needs[i])
		}
		add(file)
	}
	return order, nil
}

func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

// cpio writes the "newc" format of initramfs archives
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpio struct {
	buf bytes.Buffer
	ino int
}

func (c *cpio) dir(name string) { c.entry(name, 0o040755, nil, 0, 0) }

func (c *cpio) entry(name string, mode uint32, data []byte, major, minor int) {
	c.ino++
	fmt.Fprintf(&c.buf, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	c.buf.WriteString(name)
	c.buf.WriteByte(0)
	c.pad()
	c.buf.Write(data)
	c.pad()
}

func (c *cpio) pad() {
	for c.buf.Len()%4 != 0 {
		c.buf.WriteByte(0)
	}
}
