package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// firstStage is process 1 of the initramfs. It does not return.
func firstStage() {
	err := switchRoot()
	fmt.Fprintln(os.Stderr, "first stage:", err)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// switchRoot loads the modules listed in /modules.list, mounts the first
// virtio disk and becomes its init (initProgram). With "openct.probe" on the kernel's
// command line it only says that it came so far.
func switchRoot() error {
	for _, m := range []struct{ what, where string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"},
	} {
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.what, m.where, m.what, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	if strings.Contains(string(cmdline), "openct.probe") {
		fmt.Println("openct.probe: ok")
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}

	list, err := os.ReadFile("/modules.list")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		if err := loadModule("/modules/" + name); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	if err := waitFor("/dev/vda", 30*time.Second); err != nil {
		return err
	}
	if err := os.MkdirAll("/root", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/dev/vda", "/root", "ext4", unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	for _, dir := range []string{"/dev", "/sys", "/proc"} {
		if err := unix.Mount(dir, "/root"+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := unix.Chdir("/root"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	init := initProgram(string(cmdline))
	return unix.Exec(init, []string{init}, []string{"TERM=dumb"})
}

// initProgram is the disk's init: that of "init=" on the kernel's command line
// (kernel-parameters.txt), or systemd.
func initProgram(cmdline string) string {
	for _, word := range strings.Fields(cmdline) {
		if path, ok := strings.CutPrefix(word, "init="); ok {
			return path
		}
	}
	return "/sbin/init"
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE // .ko.xz, .ko.zst of newer releases
	}
	err = unix.FinitModule(int(f.Fd()), "", flags)
	if err == unix.EEXIST {
		return nil
	}
	return err
}

// waitFor waits for a device node of a driver that probes in the background.
func waitFor(path string, limit time.Duration) error {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
	}
	return fmt.Errorf("no %s within %v", path, limit)
}
