//go:build !(mips || mipsle || mips64 || mips64le || ppc64 || ppc64le)

package usbfs

// Directions of a request, asm-generic/ioctl.h.
const (
	iocNone  = 0
	iocWrite = 1 << 30
	iocRead  = 2 << 30
)
