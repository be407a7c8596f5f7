package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// guest is PID 1: it makes the system files, loads the modules, runs every
// test binary, and switches the machine off.
func guest() {
	if err := runTests(); err != nil {
		fmt.Println("tiera:", err)
	} else {
		fmt.Println(passed)
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func runTests() error {
	for _, fs := range []string{"proc", "sysfs", "devtmpfs", "tmpfs"} {
		dir := map[string]string{"proc": "/proc", "sysfs": "/sys", "devtmpfs": "/dev", "tmpfs": "/tmp"}[fs]
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fs, dir, fs, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	// devtmpfs came after the console that init was started with.
	if console, err := os.OpenFile("/dev/console", os.O_RDWR, 0); err == nil {
		os.Stdout, os.Stderr = console, console
	}
	if err := loadModules(); err != nil {
		return err
	}
	run, err := os.ReadFile("/run-tests")
	if err != nil {
		return err
	}
	tests, err := filepath.Glob("/tests/*")
	if err != nil {
		return err
	}
	var failed error
	for _, test := range tests {
		cmd := exec.Command(test, "-test.v", "-test.timeout=3m", "-test.run="+string(run))
		cmd.Dir = "/tmp"
		cmd.Env = []string{"TMPDIR=/tmp", "PATH=/"}
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", test, err))
		}
	}
	return failed
}

func loadModules() error {
	order, err := os.ReadFile("/modules/order")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(order)) {
		f, err := os.Open(filepath.Join("/modules", name))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}
