// Package socket is OpenCT's reader socket: the protocol between the handler
// of one reader and the programs that use its cards (libopenct, OpenSC,
// openct-tool). PROTOCOL.md beside this file describes what travels; the
// files here hold one part of it each:
//
//	codes.go   error codes of a reply
//	tlv.go     arguments and results: tag, length, value
//	frame.go   the 12-byte header and the sizes
//	listen.go  the socket file: made with the right mode, removed when ours
//	conn.go    one client at the server: its requests in order (quick.go, its
//	           system calls; wait.go, a request that waits for news)
//	server.go  all clients: accepting, limits, shutting down (subuid.go, which
//	           ids are one user's)
//	dial.go    connecting to a reader's socket
//	client.go  the other side, for the commands of this project and its tests
//	           (clientpin.go, its PIN entry)
//	paths.go   where sockets are
//
// The package knows packets, not cards: the Handler runs the commands. It
// imports nothing else of this module.
package socket
