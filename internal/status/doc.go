// Package status is the status file, <socket dir>/status: sixteen fixed
// entries in shared memory through which every program that uses OpenCT's
// client library learns which readers there are and whether a card is in.
// Old clients map it once and look at it for ever, so three things hold at any
// instant: the layout is C OpenCT's to the byte (layout.go), the inode outlives
// init and shutdown (init.go), and an entry is written in an order that a reader
// may interrupt anywhere (slot.go).
//
// Beside it in the same directory, all hidden from a client that lists it:
//
//	.lock         byte n is locked by the handler of entry n, byte 16 by whoever
//	              is claiming an entry, init or shutdown (lock.go)
//	.status.keep  the status file between shutdown and the next init
//	.<n>.json     what people want to know beyond the 108 bytes (detail.go)
package status
