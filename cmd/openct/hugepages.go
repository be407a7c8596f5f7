//go:build cgo

package main

// The process and those that it starts use no huge pages: with them, a heap of a
// few hundred kilobytes takes megabytes (prctl(2), PR_SET_THP_DISABLE). See
// hugepages.c.

import "C"
