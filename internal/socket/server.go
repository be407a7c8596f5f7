package socket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Handler serves the clients of a Server.
type Handler interface {
	// Connect is called once for each connection, before anything else. What it
	// returns runs the connection's requests.
	Connect(c *Conn) Session
}

// Session is one client as the handler sees it. Its methods are called one after
// the other, from one goroutine; those of different clients at the same time.
type Session interface {
	// Handle runs one request and puts its result into reply. Any result but
	// Success sends the code and no payload. ctx ends when the server fails or
	// Wait gives up; a client that goes away does not end it.
	Handle(ctx context.Context, req *Request, reply *Reply) Code

	// Disconnect is called once, after the last Handle has returned, even if
	// the server has failed. It is the place to release the client's locks.
	Disconnect()
}

// Limits of a server.
const (
	// defaultMaxConns is as many clients as C OpenCT's poll set could hold
	// (mainloop.c).
	defaultMaxConns = 256
	// defaultMaxPerUser leaves half of them to other users.
	defaultMaxPerUser = 128
	// rootReserve is how many more connections only root may have.
	rootReserve = 16
	// newcomerShare is the part of all connections that is kept for users who
	// have none yet: one in so many.
	newcomerShare = 4

	// defaultWriteTimeout is how long a client may leave its reply unread
	// once the socket's buffer is full.
	defaultWriteTimeout = 10 * time.Second

	failTimeout    = 100 * time.Millisecond // for one client's last reply
	minAcceptDelay = 5 * time.Millisecond   // after a failed accept, doubling
	maxAcceptDelay = time.Second
	warnInterval   = time.Minute // between reports of the same trouble
)

// Options of a server; the zero value is good. A client for which there is no
// room is closed at once.
type Options struct {
	MaxConns     int           // of all users; the last of them are for users who have none, and root has some more
	MaxPerUser   int           // of one user and of one range of subordinate ids; root is exempt
	Subuid       string        // file with the ranges of subordinate ids; "" means /etc/subuid
	WriteTimeout time.Duration // for one reply

	// Credentials says who connected; nil means PeerCred. Its error is not
	// fatal: the client is then nobody's.
	Credentials func(net.Conn) (Cred, error)

	Log *slog.Logger // nil: silence. It never sees a packet's contents.
}

// Server serves the clients of one reader.
type Server struct {
	handler Handler
	opt     Options
	ctx     context.Context // of every Handle
	cancel  context.CancelCauseFunc

	mu       sync.Mutex
	conns    map[*Conn]struct{}
	perUser  map[uint32]int // connections of each user, by Conn.user
	high     int            // connections of users from minSubordinate up
	lastID   uint64
	listener net.Listener
	warned   time.Time     // when a user's limit was last reported
	stopped  chan struct{} // closed when nothing is accepted any more
	idle     chan struct{} // closed when the server is stopped and conns is empty
}

// ErrServerClosed is what Serve returns after Fail or Wait.
var ErrServerClosed = errors.New("socket server is closed")

// NewServer makes a server; Serve starts it.
func NewServer(h Handler, opt Options) *Server {
	if opt.MaxConns <= 0 {
		opt.MaxConns = defaultMaxConns
	}
	if opt.MaxPerUser <= 0 {
		opt.MaxPerUser = defaultMaxPerUser
	}
	if opt.Subuid == "" {
		opt.Subuid = subuidFile
	}
	if opt.WriteTimeout <= 0 {
		opt.WriteTimeout = defaultWriteTimeout
	}
	if opt.Credentials == nil {
		opt.Credentials = PeerCred
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		handler: h,
		opt:     opt,
		conns:   make(map[*Conn]struct{}),
		perUser: make(map[uint32]int),
		idle:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// Serve accepts clients from l, each in its own goroutine, until the server
// is stopped or l fails for good. It is called once. The server closes l.
func (s *Server) Serve(l net.Listener) error {
	if !s.listen(l) {
		l.Close()
		return ErrServerClosed
	}
	defer s.stop()
	var delay time.Duration
	for {
		nc, err := l.Accept()
		if err != nil {
			switch {
			case s.isStopped():
				return ErrServerClosed
			case !retryAccept(err):
				return fmt.Errorf("accepting clients: %w", err)
			}
			delay = min(max(2*delay, minAcceptDelay), maxAcceptDelay)
			s.opt.Log.Warn("cannot accept a client, trying again", "error", err, "delay", delay)
			select {
			case <-time.After(delay):
			case <-s.stopped:
				return ErrServerClosed
			}
			continue
		}
		delay = 0
		if c := s.admit(nc); c != nil {
			go s.run(c)
		} else {
			nc.Close()
		}
	}
}

// retryAccept tells whether accept may succeed later: a client that gave up,
// or a shortage (accept(2)).
func retryAccept(err error) bool {
	for _, e := range []error{unix.ECONNABORTED, unix.EINTR, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// admit makes a connection of a client, nil if it must not have one.
func (s *Server) admit(nc net.Conn) *Conn {
	cred, err := s.opt.Credentials(nc)
	if err != nil {
		s.opt.Log.Debug("no credentials of a client", "error", err)
		cred = Cred{UID: unknownID, GID: unknownID}
	}
	return s.add(nc, cred)
}

// run serves one client to its end.
func (s *Server) run(c *Conn) {
	session := s.handler.Connect(c)
	c.serve(session)
	session.Disconnect()
	c.nc.Close() // a client that sees the end has no lock any more
	c.clear()
	s.remove(c)
}

func (s *Server) add(nc net.Conn, cred Cred) *Conn {
	user := subordinateRange(s.opt.Subuid, cred.UID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isStopped() {
		return nil
	}
	if !s.roomLocked(user) {
		if now := time.Now(); now.Sub(s.warned) >= warnInterval {
			s.warned = now
			s.opt.Log.Warn("too many connections: a client is refused", "uid", cred.UID, "pid", cred.PID,
				"of its user", s.perUser[user], "of all", len(s.conns))
		}
		return nil
	}
	s.lastID++
	c := newConn(s, nc, cred)
	c.ID, c.user = s.lastID, user
	s.conns[c] = struct{}{}
	s.perUser[user]++
	if user >= minSubordinate {
		s.high++
	}
	return c
}

// roomLocked tells whether a user may have one more connection. However many
// users one person plays, root gets in, and so does a user who has no connection.
func (s *Server) roomLocked(user uint32) bool {
	limit, own := s.opt.MaxConns, s.perUser[user]
	common := limit - limit/newcomerShare
	switch {
	case user == 0:
		return len(s.conns) < limit+rootReserve
	case user >= minSubordinate && s.high >= common:
		return false // one person may be all of them
	case own == 0:
		return len(s.conns) < limit
	}
	return own < s.opt.MaxPerUser && len(s.conns) < common
}

func (s *Server) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.perUser[c.user]--; s.perUser[c.user] == 0 {
		delete(s.perUser, c.user)
	}
	if c.user >= minSubordinate {
		s.high--
	}
	s.idleLocked()
}

// idleLocked tells Wait when the last connection is over.
func (s *Server) idleLocked() {
	if s.isStopped() && len(s.conns) == 0 {
		select {
		case <-s.idle:
		default:
			close(s.idle)
		}
	}
}

func (s *Server) listen(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isStopped() {
		return false
	}
	s.listener = l
	return true
}

func (s *Server) isStopped() bool {
	select {
	case <-s.stopped:
		return true
	default:
		return false
	}
}

// stop ends accepting, once, and returns the connections there are. The name of
// the socket is free when it returns.
func (s *Server) stop() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isStopped() {
		close(s.stopped)
		if s.listener != nil {
			s.listener.Close()
		}
		s.idleLocked()
	}
	return s.connsLocked()
}

// Conns returns the clients connected now.
func (s *Server) Conns() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connsLocked()
}

func (s *Server) connsLocked() []*Conn {
	conns := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// Fail ends the service because the reader is gone: every client that waits
// for a reply gets code at once, though its Handle may be stuck, and all
// connections are closed. The context of Handle ends with code as its cause.
// Fail returns when this is sent; Wait waits for the handlers.
func (s *Server) Fail(code Code) {
	conns := s.stop()
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c.fail(code)
		}()
	}
	wg.Wait()
	s.cancel(code)
}

// Wait ends the service: nothing is accepted any more, idle connections are
// closed at once, the others after their current reply. It returns nil when all
// clients are disconnected. If ctx ends first, Wait closes all connections, ends
// the context of Handle, and returns ctx's error; it does not wait for Handle
// then.
func (s *Server) Wait(ctx context.Context) error {
	for _, c := range s.stop() {
		c.drain()
	}
	select {
	case <-s.idle:
		s.cancel(ErrServerClosed)
		return nil
	case <-ctx.Done():
	}
	for _, c := range s.Conns() {
		c.nc.Close()
	}
	s.cancel(ErrServerClosed) // after that a Handle may return, and must not be answered
	return ctx.Err()
}
