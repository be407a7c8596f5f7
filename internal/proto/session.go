package proto

import "fmt"

// Session remembers whether host and card still know each other's state. Engines
// embed it; so does a driver that exchanges APDUs by itself. The zero value is the
// session of a card that was just reset.
type Session struct {
	lost error // what every exchange gets until the reset, nil while all is well
}

// Lost is what every exchange gets once the session was lost, nil before.
func (s *Session) Lost() error { return s.lost }

// Lose ends the session because of err and returns what the exchange under way
// reports: err, still there for errors.Is, and ErrResetRequired.
func (s *Session) Lose(err error) error {
	s.lost = fmt.Errorf("%w (earlier: %v)", ErrResetRequired, err)
	return fmt.Errorf("%w; %w", err, ErrResetRequired)
}
