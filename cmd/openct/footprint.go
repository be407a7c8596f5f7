//go:build cgo

package main

// The process and those that it starts use no huge pages: with them, a heap of a
// few hundred kilobytes takes megabytes (prctl(2), PR_SET_THP_DISABLE). C's heap,
// which libusb hardly uses, is one for all threads: glibc would make another one for
// each (mallopt(3), M_ARENA_MAX). See footprint.c.

import "C"
