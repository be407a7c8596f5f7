//go:build mips || mipsle || mips64 || mips64le || ppc64 || ppc64le

package usbfs

// Directions of a request, asm/ioctl.h of Linux for MIPS and PowerPC.
const (
	iocNone  = 1 << 29
	iocRead  = 2 << 29
	iocWrite = 4 << 29
)
