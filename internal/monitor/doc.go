// Package monitor tells what happens at this machine's readers as it happens:
// devices that are plugged in and leave, readers that become ready, cards, clients,
// locks, faults. It prints nothing.
//
// It learns that from what is there anyway, and changes nothing:
//
//	the kernel's events of devices          plugged, unplugged (devices.go)
//	the status file and the files beside it everything of a reader (snapshot.go, compare.go)
//	the handlers' processes                 one that is killed (process.go)
//
// All three wake it. Between two events it sleeps.
package monitor
