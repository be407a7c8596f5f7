package proto

import "fmt"

// session remembers whether an engine and its card still understand each
// other. It is the one place where that is lost and, by a resynchronisation,
// found again.
type session struct {
	lost error // what every call gets from now on, nil while all is well
}

// lose ends the session because of err and returns what the failing call
// reports: err, still there for errors.Is, and ErrResetRequired.
func (s *session) lose(protocol string, err error) error {
	s.lost = fmt.Errorf("%s: %w (earlier: %v)", protocol, ErrResetRequired, err)
	return &lostError{protocol, err}
}

// lostError is the error of the call that lost the session.
type lostError struct {
	protocol string
	err      error
}

func (e *lostError) Error() string {
	return fmt.Sprintf("%s: %v; %v", e.protocol, e.err, ErrResetRequired)
}

func (e *lostError) Unwrap() []error { return []error{e.err, ErrResetRequired} }
