// Package vm proves OpenCT in a real system: a Debian with its stock kernel,
// udev and systemd, booted under QEMU, into which tokens are plugged through
// vhci_hcd (openct-vtoken) and QEMU's own USB devices.
//
//	make e2e
//	make e2e E2E='TestE2E$/^(plug|stop)$'
//	make e2e E2E='TestE2E$/^cost$'	what it costs to serve a token (cost/)
//
// The root image is built from packages once and cached (image.sh); the
// machine boots once for all cases and forgets everything at its end. The
// packages under test are built before (make deb) and installed in the guest.
//
// A case is a function in cases_test.go's list. It drives the guest with
// guest.sh and friends; what it leaves behind (a process, a socket, an entry,
// a failed unit) fails it. The journal of a failed case is kept in
// build/e2e/<case>.journal, with the console and QEMU's own messages beside.
//
// Settings, all optional:
//
//	OPENCT_E2E_ACCEL      kvm or tcg; without it KVM is used where it works
//	OPENCT_E2E_CACHE      folder for images (default .cache/e2e)
//	OPENCT_E2E_RELEASE    release of Debian in the machine, such as trixie (default: this one's)
//	OPENCT_E2E_PLUGS      how often tokens are plugged in again (default: 40)
//	OPENCT_E2E_CALLS      any text: case cost counts system calls, too; it may hang
//	OPENCT_E2E_DEBS       folder with the packages under test (default build/deb)
//	OPENCT_E2E_LOCAL      folder that "make install" has filled, for the system without systemd (default build/local)
//	OPENCT_E2E_ARTEFACTS  folder for journals (default build/e2e)
package vm
