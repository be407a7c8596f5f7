package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// probeTime is how long a kernel under KVM may take to reach the first stage;
// it needs two seconds where KVM works.
const probeTime = 20 * time.Second

// ChooseAccel says whether KVM can be used here, by booting the kernel into
// the first stage: a /dev/kvm that opens proves nothing (nested
// virtualisation may offer it and then hang). The answer is kept in cacheDir
// until the machine is booted again. A non-empty force is taken as it is.
func ChooseAccel(ctx context.Context, force, kernel, initrd, cacheDir string) (Accel, error) {
	switch Accel(force) {
	case KVM, TCG:
		return Accel(force), nil
	case "":
	default:
		return "", fmt.Errorf("unknown accelerator %q (kvm or tcg)", force)
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return TCG, nil
	}
	f.Close()

	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	memo := filepath.Join(cacheDir, "accel")
	if old, err := os.ReadFile(memo); err == nil {
		id, accel, _ := strings.Cut(strings.TrimSpace(string(old)), " ")
		if id == strings.TrimSpace(string(boot)) {
			return Accel(accel), nil
		}
	}
	accel := TCG
	if probe(ctx, kernel, initrd) {
		accel = KVM
	}
	line := fmt.Sprintf("%s %s\n", strings.TrimSpace(string(boot)), accel)
	if err := os.WriteFile(memo, []byte(line), 0o644); err != nil {
		return "", err
	}
	return accel, nil
}

func probe(ctx context.Context, kernel, initrd string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	args := append(KVM.args(), "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35", "-m", "512", "-no-reboot", "-serial", "stdio",
		"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1 openct.probe")
	cmd := exec.CommandContext(ctx, binary, args...)
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return false // no QEMU; Start will say so
	}
	return bytes.Contains(out.Bytes(), []byte("openct.probe: ok"))
}
