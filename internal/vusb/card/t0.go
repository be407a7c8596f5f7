package card

// T0 is the card's side of T=0 (ISO/IEC 7816-3, 10 and 12.2). A device that works with whole TPDUs calls TPDU. A device that works
// with characters calls Stream, or Header and Data if it keeps track of
// the phases itself. Its owner calls it from one goroutine at a time.
//
// In T=0 a command carries data either way, not both. A response to a command
// with data waits for GET RESPONSE, announced with 61xx; a wrong Le is
// answered with 6Cxx.
//
// The fields may be set at any time between two commands.
type T0 struct {
	// Incoming tells from the header whether the command brings data, which
	// in T=0 a card has to know; it is asked only when P3 is not 0, and not by
	// TPDU, which sees the data. nil: the interindustry instructions that do.
	Incoming func(header [5]byte) bool

	// NULLs is how many NULL bytes (60) the card sends before it goes on
	// after a header, and before a status word that follows data.
	NULLs int

	// SingleByte makes the card move data one byte per procedure byte (the
	// complement of INS).
	SingleByte bool

	// Announce9000 makes the card say 9000 instead of 61xx when a response
	// waits for GET RESPONSE, as old cards do.
	Announce9000 bool

	// Mangle, if set, sees what Header, Data or TPDU is about to return, with
	// its number since NewT0 counted from 0, and returns what leaves instead.
	Mangle func(n int, out []byte) []byte

	card Card

	head [5]byte
	want int    // data bytes still to come for head
	data []byte // data of head so far
	in   []byte // header bytes so far, in Stream

	resp []byte // response data that waits for GET RESPONSE
	sw   uint16 // status word that goes with the last of it
	sent int
}

// p3Max is what P3 = 0 means for data from the card.
const p3Max = 256

// NewT0 puts a card behind T=0. The first call should be Reset.
func NewT0(c Card) *T0 { return &T0{card: c} }

// Reset is a reset of the card. It returns the ATR.
func (t *T0) Reset() []byte {
	t.card.Reset()
	t.want, t.in, t.resp = 0, t.in[:0], nil
	return t.card.ATR()
}

// TPDU takes a whole command TPDU: a header alone, whose P3 may be missing, or
// a header and exactly P3 bytes. It returns data and status word.
func (t *T0) TPDU(in []byte) []byte {
	return t.mangle(t.tpdu(in))
}

func (t *T0) tpdu(in []byte) []byte {
	t.want = 0
	var h [5]byte
	switch copy(h[:], in); {
	case len(in) < 4:
		return status(swWrongLength)
	case len(in) <= 5:
		return t.outgoing(h)
	case h[4] == 0 || len(in) != 5+int(h[4]):
		return status(swWrongLength)
	}
	return t.incoming(h, in[5:])
}

// Expects is how many data bytes the card takes after a header.
func (t *T0) Expects(h [5]byte) int {
	if h[4] == 0 {
		return 0
	}
	incoming := t.Incoming
	if incoming == nil {
		incoming = isIncoming
	}
	if !incoming(h) {
		return 0
	}
	return int(h[4])
}

// Want is how many of the data bytes of the current command are still to
// come; 0 if the card waits for a header.
func (t *T0) Want() int { return t.want }

// Header takes the header of a command and returns what the card sends
// then: a procedure byte that asks for data, or procedure byte, data and
// status word, or the status word.
func (t *T0) Header(h [5]byte) []byte {
	t.head, t.data = h, t.data[:0]
	t.want = t.Expects(h)
	out := t.nulls(nil)
	if t.want > 0 {
		return t.mangle(append(out, t.ack()))
	}
	return t.mangle(t.deliver(out, t.outgoing(h)))
}

// deliver sends a response to a header: data, if there is, behind its
// procedure byte.
func (t *T0) deliver(out, resp []byte) []byte {
	data, sw := resp[:len(resp)-2], resp[len(resp)-2:]
	switch {
	case len(data) == 0:
		return append(out, sw...)
	case t.SingleByte:
		for _, b := range data {
			out = append(out, t.ack(), b)
		}
	default:
		out = append(append(out, t.ack()), data...)
	}
	return append(t.nulls(out), sw...)
}

// Data takes data bytes of the command, at most as many as Want says; more
// are ignored. It returns what the card sends then, nothing while it waits
// for the rest of what it asked for.
func (t *T0) Data(b []byte) []byte {
	b = b[:min(len(b), t.want)]
	if len(b) == 0 {
		return nil
	}
	t.data = append(t.data, b...)
	t.want -= len(b)
	switch {
	case t.want > 0 && t.SingleByte:
		return t.mangle([]byte{t.ack()})
	case t.want > 0:
		return nil
	}
	return t.mangle(append(t.nulls(nil), t.incoming(t.head, t.data)...))
}

// Stream takes any bytes as they come and returns what the card sends. With
// SingleByte, bytes the card has not asked for yet are taken all the same.
func (t *T0) Stream(b []byte) []byte {
	var out []byte
	for len(b) > 0 {
		if t.want > 0 {
			n := t.want
			if t.SingleByte {
				n = 1
			}
			n = min(n, len(b))
			out = append(out, t.Data(b[:n])...)
			b = b[n:]
			continue
		}
		n := min(5-len(t.in), len(b))
		t.in = append(t.in, b[:n]...)
		b = b[n:]
		if len(t.in) == 5 {
			h := [5]byte(t.in)
			t.in = t.in[:0]
			out = append(out, t.Header(h)...)
		}
	}
	return out
}

// ack is the procedure byte that goes before data.
func (t *T0) ack() byte {
	if t.SingleByte {
		return ^t.head[1]
	}
	return t.head[1]
}

func (t *T0) nulls(out []byte) []byte {
	for range t.NULLs {
		out = append(out, 0x60)
	}
	return out
}

func (t *T0) mangle(out []byte) []byte {
	n := t.sent
	t.sent++
	if t.Mangle == nil {
		return out
	}
	return t.Mangle(n, append([]byte(nil), out...))
}

// incoming runs a command with data. What the card returns besides the
// status word waits for GET RESPONSE.
func (t *T0) incoming(h [5]byte, data []byte) []byte {
	apdu := append(append([]byte(nil), h[:]...), data...)
	t.run(append(apdu, 0)) // with Le, or the card would have to keep its response
	switch {
	case len(t.resp) == 0:
		return status(t.sw)
	case t.Announce9000:
		return status(swOK)
	}
	return status(t.more())
}

// outgoing runs a command without data and returns what P3 asks for.
func (t *T0) outgoing(h [5]byte) []byte {
	p3 := shortLe(h[4])
	if h[1] != insGetResponse || len(t.resp) == 0 {
		t.run(h[:])
	}
	switch n := len(t.resp); {
	case n == 0:
		return status(t.sw)
	case n < p3: // both at once cannot be 256
		if h[1] != insGetResponse {
			t.resp = nil // the command comes again
		}
		return status(swWrongLe | uint16(n))
	}
	p3 = min(p3, len(t.resp))
	out := append([]byte(nil), t.resp[:p3]...)
	t.resp = t.resp[p3:]
	if len(t.resp) > 0 {
		return withStatus(out, t.more())
	}
	return withStatus(out, t.sw)
}

// run gives the card a command and keeps the response.
func (t *T0) run(apdu []byte) {
	resp := t.card.Transmit(apdu)
	n := len(resp) - 2
	t.resp = append([]byte(nil), resp[:n]...)
	t.sw = uint16(resp[n])<<8 | uint16(resp[n+1])
}

// more is 61xx for what waits.
func (t *T0) more() uint16 {
	if len(t.resp) >= p3Max {
		return swMoreData
	}
	return swMoreData | uint16(len(t.resp))
}

// isIncoming knows the instructions of ISO/IEC 7816-4 and -8 that bring data
// in T=0.
func isIncoming(h [5]byte) bool {
	switch h[1] &^ 1 { // an odd INS says that the data is BER-TLV
	case 0x0C, // erase record
		0x0E,                   // erase binary
		0x10,                   // perform SCQL operation
		insVerify,              // 20, 21
		0x22,                   // manage security environment
		insChangeReferenceData, // 24
		0x26, 0x28,             // disable, enable verification requirement
		0x2A,                        // perform security operation
		insResetRetryCounter,        // 2C
		insGenerateKeyPair &^ 1,     // 46, 47
		0x82,                        // external authenticate
		insGeneralAuthenticate &^ 1, // 86, 87
		0x88,                        // internal authenticate
		0xA0, 0xA2,                  // search binary, search record
		insSelect,
		0xC2,             // envelope
		0xD0, 0xD2, 0xD6, // write binary, write record, update binary
		insPutData &^ 1,  // DA, DB
		0xDC,             // update record
		0xE0, 0xE2, 0xE4: // create file, append record, delete file
		return true
	}
	return h[1] == insGetDataBER // CA, its even sister, brings none
}
