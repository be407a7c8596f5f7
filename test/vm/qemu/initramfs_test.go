package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLoadOrder(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("modules.dep", strings.Join([]string{
		"kernel/fs/ext4.ko.xz: kernel/fs/jbd2.ko.xz kernel/lib/crc16.ko.xz",
		"kernel/fs/jbd2.ko.xz:",
		"kernel/lib/crc16.ko.xz:",
		"kernel/virtio-blk.ko: kernel/virtio.ko kernel/ring.ko",
		"kernel/virtio.ko: kernel/ring.ko",
		"kernel/ring.ko:",
	}, "\n"))
	write("modules.builtin", "kernel/virtio_pci.ko\n")

	tests := []struct {
		name  string
		names []string
		want  []string
	}{
		{"what it needs comes first", []string{"virtio_blk"},
			[]string{"kernel/ring.ko", "kernel/virtio.ko", "kernel/virtio-blk.ko"}},
		{"compressed", []string{"ext4"},
			[]string{"kernel/lib/crc16.ko.xz", "kernel/fs/jbd2.ko.xz", "kernel/fs/ext4.ko.xz"}},
		{"each once", []string{"virtio", "virtio_blk"},
			[]string{"kernel/ring.ko", "kernel/virtio.ko", "kernel/virtio-blk.ko"}},
		{"built in", []string{"virtio_pci"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := loadOrder(dir, tt.names)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, err := loadOrder(dir, []string{"nonesuch"}); err == nil {
		t.Error("a module that is nowhere: no error")
	}
}
