// Command guest is what the harness runs inside the test machine. In the
// initramfs, as process 1, it loads the few modules that the root disk needs
// and hands over to the disk's systemd; from there it is started again as the
// agent that runs the cases' commands.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"openct/test/vm/agent"
)

func main() {
	if os.Getpid() == 1 {
		firstStage()
	}
	if len(os.Args) != 2 || os.Args[1] != "agent" {
		fmt.Fprintln(os.Stderr, "usage: guest agent")
		os.Exit(2)
	}
	if err := runAgent(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

// runAgent serves the port openct.agent, and copies the journal (without systemd,
// syslog) to openct.journal, so that the host has it whatever becomes of this machine.
func runAgent() error {
	port, err := openPort("openct.agent", os.O_RDWR)
	if err != nil {
		return err
	}
	defer port.Close()
	journalPort, err := openPort("openct.journal", os.O_WRONLY)
	if err != nil {
		return err
	}
	defer journalPort.Close()
	journal := exec.Command("journalctl", "--follow", "--boot", "--lines=all", "--output=short-monotonic")
	if _, err := os.Stat("/run/systemd/system"); err != nil { // BusyBox's syslogd
		journal = exec.Command("tail", "-n", "+1", "-F", "/var/log/messages")
	}
	journal.Stdout = journalPort
	if err := journal.Start(); err != nil {
		return err
	}
	defer func() {
		journal.Process.Kill()
		journal.Wait()
	}()

	for {
		// A read of 0 bytes only says that the host is not there yet.
		if err := agent.Serve(port, unitReaches); err != nil {
			fmt.Fprintln(os.Stderr, "guest: agent:", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// openPort opens the virtio serial port that QEMU calls name.
func openPort(name string, flag int) (*os.File, error) {
	const ports = "/sys/class/virtio-ports"
	entries, err := os.ReadDir(ports)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		got, err := os.ReadFile(filepath.Join(ports, e.Name(), "name"))
		if err == nil && strings.TrimSpace(string(got)) == name {
			return os.OpenFile(filepath.Join("/dev", e.Name()), flag, 0)
		}
	}
	return nil, fmt.Errorf("no virtio port %s", name)
}
