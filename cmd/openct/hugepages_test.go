//go:build cgo

package main

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestNoHugePages(t *testing.T) {
	if n, err := unix.PrctlRetInt(unix.PR_GET_THP_DISABLE, 0, 0, 0, 0); err != nil || n&1 != 1 {
		t.Errorf("huge pages are on: %d, %v", n, err)
	}
}
