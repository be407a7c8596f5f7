package proto

// Limits are the longest APDUs that a part of the way to the card carries, in
// bytes. A part that takes short APDUs alone has ShortAPDU's Command or less.
type Limits struct {
	Command  int // header, Lc, data, Le
	Response int // data and status word
}

// ShortAPDU are the limits of ISO/IEC 7816-4, 5.1 for short length fields.
var ShortAPDU = Limits{Command: 5 + 255 + 1, Response: 256 + 2}

// Limiter is an Engine, or a driver's slot, that carries less than ISO/IEC
// 7816-4 allows.
type Limiter interface {
	Limits() Limits
}

// LimitsOf are the limits of an engine or a slot: MaxCommand and MaxResponse
// where it has none of its own.
func LimitsOf(x any) Limits {
	if l, ok := x.(Limiter); ok {
		return l.Limits()
	}
	return Limits{MaxCommand, MaxResponse}
}

// Min is what two parts carry together.
func (l Limits) Min(o Limits) Limits {
	return Limits{min(l.Command, o.Command), min(l.Response, o.Response)}
}
