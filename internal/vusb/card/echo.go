package card

// Echo is a card for measuring. It answers every command APDU, whatever its
// class and instruction, at once with P1*256+P2 bytes 00 01 02 ... (modulo
// 256) and 9000.
type Echo struct {
	atr []byte

	// buf holds the counting bytes, except at mark, where the status word of
	// the last response stands.
	buf  []byte
	mark int
}

var _ Card = (*Echo)(nil)

// NewEcho makes an echo card with a T=1 ATR:
// 3B 84 81 31 FE 45 45 43 48 4F 8E.
func NewEcho() *Echo {
	return NewEchoATR(T1ATR("ECHO"))
}

// NewEchoATR makes an echo card with another ATR.
func NewEchoATR(atr []byte) *Echo {
	return &Echo{atr: atr}
}

// ATR implements Card.
func (e *Echo) ATR() []byte { return e.atr }

// Reset implements Card. The card has no state.
func (e *Echo) Reset() {}

// Transmit implements Card. A command of fewer than four bytes is refused
// with 6700. The longest response has 65535 bytes and the status word.
func (e *Echo) Transmit(apdu []byte) []byte {
	n := 0
	sw := uint16(swWrongLength)
	if len(apdu) >= 4 {
		n = int(apdu[2])<<8 | int(apdu[3])
		sw = swOK
	}
	for i := e.mark; i < len(e.buf) && i < e.mark+2; i++ {
		e.buf[i] = byte(i)
	}
	for len(e.buf) < n+2 {
		e.buf = append(e.buf, byte(len(e.buf)))
	}
	e.buf[n], e.buf[n+1] = byte(sw>>8), byte(sw)
	e.mark = n
	return e.buf[:n+2]
}
