// Package qemu boots a machine under QEMU for the end-to-end tests: a stock
// kernel, a root disk, a payload disk, a port for the agent, and QMP for what
// only the outside can do (pull a USB device, end a suspend).
//
// A machine lasts for one boot: QEMU ends when the guest restarts or powers
// off, and the next boot is a new machine on the same disk. (Under software
// emulation a guest that restarts inside the same QEMU is five times slower.)
package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Config describes a machine.
type Config struct {
	Kernel  string // bzImage
	Initrd  string
	Append  string // added to the kernel's command line
	Root    string // ext4 image; it is written to
	Payload string // tar archive, the guest's /dev/vdb

	Accel  Accel
	CPUs   int
	Memory int // MiB

	// Artefacts is the folder for console.log, journal.log and qemu.log,
	// to which each machine adds.
	Artefacts string
}

// Accel is how QEMU executes the guest's instructions.
type Accel string

const (
	KVM Accel = "kvm"
	TCG Accel = "tcg" // software
)

func (a Accel) args() []string {
	if a == KVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", "max"}
}

const binary = "qemu-system-x86_64"

// Machine is a running QEMU.
type Machine struct {
	// Agent is the guest's port. Closing the machine closes it.
	Agent net.Conn

	qmp    *qmp
	cmd    *exec.Cmd
	dir    string
	exited chan struct{}
	err    error // of the process, after exited

	closeOnce sync.Once
}

// Start starts a machine and connects to it; it does not wait for the guest.
func Start(ctx context.Context, cfg Config) (*Machine, error) {
	// A folder with a short name: socket paths are limited to 107 bytes.
	dir, err := os.MkdirTemp("", "openct-vm")
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir, exited: make(chan struct{})}
	agentPath, qmpPath := filepath.Join(dir, "agent"), filepath.Join(dir, "qmp")

	args := append(cfg.Accel.args(),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35",
		"-smp", strconv.Itoa(cfg.CPUs), "-m", strconv.Itoa(cfg.Memory),
		"-kernel", cfg.Kernel, "-initrd", cfg.Initrd,
		"-append", strings.TrimSpace("console=ttyS0 quiet panic=5 net.ifnames=0 mitigations=off "+
			"tsc=reliable random.trust_cpu=on systemd.show_status=no "+
			// Under software emulation on a busy machine it only adds to the delay.
			"nowatchdog "+cfg.Append),
		"-drive", "if=none,id=root,format=raw,cache=unsafe,file="+cfg.Root,
		"-device", "virtio-blk-pci,drive=root",
		"-drive", "if=none,id=payload,format=raw,readonly=on,file="+cfg.Payload,
		"-device", "virtio-blk-pci,drive=payload",
		"-device", "virtio-rng-pci",
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=agent,server=on,wait=off,path="+agentPath,
		"-device", "virtserialport,chardev=agent,name=openct.agent",
		"-chardev", "file,id=journal,append=on,path="+filepath.Join(cfg.Artefacts, "journal.log"),
		"-device", "virtserialport,chardev=journal,name=openct.journal",
		"-chardev", "file,id=console,append=on,path="+filepath.Join(cfg.Artefacts, "console.log"),
		"-serial", "chardev:console",
		"-device", "qemu-xhci,id=xhci,p2=15,p3=4",
		"-qmp", "unix:"+qmpPath+",server=on,wait=off",
	)
	log, err := os.OpenFile(filepath.Join(cfg.Artefacts, "qemu.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	defer log.Close()
	m.cmd = exec.Command(binary, args...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	if err := m.cmd.Start(); err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("start %s (apt-get install qemu-system-x86): %w", binary, err)
	}
	go func() {
		m.err = m.cmd.Wait()
		close(m.exited)
	}()

	if m.Agent, err = m.dial(ctx, agentPath); err == nil {
		var conn net.Conn
		if conn, err = m.dial(ctx, qmpPath); err == nil {
			m.qmp, err = newQMP(conn)
		}
	}
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("qemu: %w (see %s)", err, log.Name())
	}
	return m, nil
}

// dial connects to a socket that QEMU is about to make.
func (m *Machine) dial(ctx context.Context, path string) (net.Conn, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("unix", path)
		if err == nil {
			return conn, nil
		}
		select {
		case <-m.exited:
			return nil, fmt.Errorf("machine ended early: %v", m.err)
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// Exited is closed when QEMU has ended.
func (m *Machine) Exited() <-chan struct{} { return m.exited }

// Err tells how QEMU has ended, after Exited.
func (m *Machine) Err() error { return m.err }

// Close ends QEMU, at once, as if the power failed.
func (m *Machine) Close() error {
	m.closeOnce.Do(func() {
		m.cmd.Process.Kill()
		<-m.exited
		if m.Agent != nil {
			m.Agent.Close()
		}
		if m.qmp != nil {
			m.qmp.close()
		}
		os.RemoveAll(m.dir)
	})
	return nil
}

// AddUSB plugs a QEMU device into the machine's xHCI controller. props are
// more properties of the device, as in "-device".
func (m *Machine) AddUSB(driver, id string, props map[string]any) error {
	args := map[string]any{"driver": driver, "id": id, "bus": "xhci.0"}
	for k, v := range props {
		args[k] = v
	}
	_, err := m.qmp.run("device_add", args)
	return err
}

// RemoveUSB pulls a device that AddUSB plugged.
func (m *Machine) RemoveUSB(id string) error {
	_, err := m.qmp.run("device_del", map[string]any{"id": id})
	return err
}

// Wakeup ends a suspend.
func (m *Machine) Wakeup() error {
	_, err := m.qmp.run("system_wakeup", nil)
	return err
}

// QMP runs any other monitor command.
func (m *Machine) QMP(command string, arguments map[string]any) ([]byte, error) {
	return m.qmp.run(command, arguments)
}
