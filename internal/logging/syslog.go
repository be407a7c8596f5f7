package logging

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"
)

// syslogSocket is where syslogd takes messages (syslog(3)).
const syslogSocket = "/dev/log"

// facilityDaemon is the facility of system daemons (RFC 5424, table 1), in its place
// beside the severity.
const facilityDaemon = 3 << 3

// syslogSink writes to syslog as C OpenCT does: facility daemon, the pid in the
// tag, errors as warnings (C OpenCT's ct_error, error.c). The package log/syslog
// writes the same, but also to other machines, for which it links the resolver of
// host names.
type syslogSink struct {
	path  string // of syslogd's socket
	ident string

	mu   sync.Mutex
	conn *net.UnixConn
}

func newSyslog(path, ident string) (*syslogSink, error) {
	conn, err := dialSyslog(path)
	if err != nil {
		return nil, err
	}
	return &syslogSink{path: path, ident: ident, conn: conn}, nil
}

// dialSyslog connects to syslogd's socket: most take datagrams, some a stream.
func dialSyslog(path string) (*net.UnixConn, error) {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if errors.Is(err, unix.EPROTOTYPE) { // a stream (connect(2))
		conn, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	}
	return conn, err
}

// write sends an entry as a message in the form of RFC 3164, section 4.1, without a
// host name, as syslog(3) does. A syslogd that was restarted has a new socket, so it
// is connected to again when the message cannot be sent.
func (s *syslogSink) write(e entry) error {
	severity := max(priority(e.level), journal.PriWarning)
	message := fmt.Appendf(nil, "<%d>%s %s[%d]: %s\n", facilityDaemon|severity, time.Now().Format(time.Stamp), s.ident, os.Getpid(), e.text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.conn.Write(message); err == nil {
		return nil
	}
	conn, err := dialSyslog(s.path)
	if err != nil {
		return err
	}
	s.conn.Close()
	s.conn = conn
	_, err = conn.Write(message)
	return err
}
