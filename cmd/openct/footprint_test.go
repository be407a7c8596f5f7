//go:build cgo

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNoHugePages(t *testing.T) {
	if n, err := unix.PrctlRetInt(unix.PR_GET_THP_DISABLE, 0, 0, 0, 0); err != nil || n&1 != 1 {
		t.Errorf("huge pages are on: %d, %v", n, err)
	}
}

// An arena of a thread is 64 MB of addresses of which the first 132 KB can be written
// (glibc, malloc/arena.c, HEAP_MAX_SIZE).
func TestOneArena(t *testing.T) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var mode string
		if n, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n != 3 {
			t.Fatalf("%q: %v", line, err)
		}
		if mode == "rw-p" && from%(64<<20) == 0 && to-from == 0x21000 {
			t.Errorf("a thread has a heap of C of its own: %s", line)
		}
	}
}
