//go:build vm

package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"openct/test/vm/qemu"
)

// vm is the machine that all cases share; TestMain boots it.
var vm *guest

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()

	top, err := filepath.Abs("../..")
	if err != nil {
		return 0, err
	}
	cache := setting("OPENCT_E2E_CACHE", filepath.Join(top, ".cache", "e2e"))
	debs := setting("OPENCT_E2E_DEBS", filepath.Join(top, "build", "deb"))
	artefacts := setting("OPENCT_E2E_ARTEFACTS", filepath.Join(top, "build", "e2e"))
	for _, dir := range []string{cache, artefacts} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return 0, err
		}
	}
	work, err := os.MkdirTemp("", "openct-e2e")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(work)

	begin := time.Now()
	image, err := output(ctx, "./image.sh", cache, os.Getenv("OPENCT_E2E_RELEASE"))
	if err != nil {
		return 0, fmt.Errorf("root image: %w", err)
	}
	fmt.Printf("e2e: image %s in %.1f s\n", filepath.Base(image), time.Since(begin).Seconds())

	build := exec.CommandContext(ctx, "go", "build", "-o", work, "./guest", "./cost")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build guest and cost: %w\n%s", err, out)
	}
	helper := filepath.Join(work, "guest")
	init, err := os.ReadFile(helper)
	if err != nil {
		return 0, err
	}
	initramfs, err := qemu.Initramfs(init, filepath.Join(image, "modules"))
	if err != nil {
		return 0, err
	}
	initrd := filepath.Join(work, "initrd")
	if err := os.WriteFile(initrd, initramfs, 0o644); err != nil {
		return 0, err
	}
	// The links of an installation, which writePayload follows, stay links in an archive.
	local := filepath.Join(work, "local")
	if err := os.Mkdir(local, 0o755); err != nil {
		return 0, err
	}
	installed := setting("OPENCT_E2E_LOCAL", filepath.Join(top, "build", "local"))
	if _, err := output(ctx, "tar", "--owner=root", "--group=root", "-C", installed, "-cf", filepath.Join(local, "local.tar"), "."); err != nil {
		return 0, fmt.Errorf("%s (make e2e makes it): %w", installed, err)
	}
	payload := filepath.Join(work, "payload.tar")
	if err := writePayload(payload, map[string]string{
		"guest":    helper,
		"cost":     filepath.Join(work, "cost"),
		"testdata": "testdata",
		"debs":     debs,
		"local":    local,
	}); err != nil {
		return 0, err
	}

	kernel := filepath.Join(image, "vmlinuz")
	accel, err := qemu.ChooseAccel(ctx, os.Getenv("OPENCT_E2E_ACCEL"), kernel, initrd, cache)
	if err != nil {
		return 0, err
	}
	root := filepath.Join(work, "root.img")
	if _, err := output(ctx, "cp", "--sparse=always", "--reflink=auto", filepath.Join(image, "root.img"), root); err != nil {
		return 0, fmt.Errorf("copy of the root image: %w", err)
	}
	for _, name := range []string{"console.log", "journal.log", "qemu.log"} {
		if err := os.RemoveAll(filepath.Join(artefacts, name)); err != nil {
			return 0, err
		}
	}
	vm = &guest{artefacts: artefacts, config: qemu.Config{
		Kernel: kernel, Initrd: initrd, Root: root, Payload: payload,
		Accel: accel, CPUs: 2, Memory: 1024, Artefacts: artefacts,
	}}
	begin = time.Now()
	if err := vm.boot(ctx); err != nil {
		return 0, err
	}
	defer vm.close()
	fmt.Printf("e2e: %s guest up in %.1f s\n", accel, time.Since(begin).Seconds())
	return m.Run(), nil
}

func setting(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

// output runs a command and returns the last line it printed.
func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	return lines[len(lines)-1], nil
}

// writePayload packs files and folders for the guest, which finds them by
// their names here under /run/e2e. A source that does not exist is left out.
func writePayload(path string, sources map[string]string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for name, source := range sources {
		err := filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(source, p)
			if err != nil {
				return err
			}
			info, err := os.Stat(p) // not Lstat: links are followed
			if err != nil {
				return err
			}
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			h := &tar.Header{Name: filepath.Join(name, rel), Mode: int64(info.Mode().Perm()), Size: int64(len(data))}
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			_, err = w.Write(data)
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("payload: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Close()
}
