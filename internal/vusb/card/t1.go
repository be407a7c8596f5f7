package card

import "time"

// T1Options are the properties of a card's T=1 side. The zero value is a card
// with LRC that takes blocks of any legal length and never asks for time.
type T1Options struct {
	// MaxINF is the longest information field the card takes, 1 to 254; 0
	// means 254. A longer one silences the card until Reset, as it does
	// eTokens, which take 32 whatever their ATR promises.
	MaxINF int

	// CRC makes the checksum a two-byte CRC instead of an LRC.
	CRC bool

	// AnyNAD makes the card answer every node address, the two nodes
	// exchanged. Without it a NAD other than 00 is an error.
	AnyNAD bool

	// Think is how long the card works on a command. It is spent inside
	// Block, through Sleep.
	Think time.Duration

	// WTX is how often the card asks for more time for each command, with
	// S(WTX request) of WTXMultiplier (0 means 1). Think is spread evenly
	// over the waits before, between and after the requests.
	WTX           int
	WTXMultiplier byte

	// Sleep replaces time.Sleep for Think.
	Sleep func(time.Duration)
}

// maxAPDU is the longest command APDU: header, extended Lc, 65535 bytes,
// extended Le.
const maxAPDU = 4 + 3 + 65535 + 2

// T1 is the card's side of T=1 (ISO/IEC 7816-3, 11).
// It is as strict as a card can be, so that a host's mistakes show. Its owner
// calls it from one goroutine at a time.
type T1 struct {
	// Mangle, if set, sees every block before it leaves the card, with its
	// number since NewT1 counted from 0, and returns what leaves instead: a
	// spoilt, cut, doubled or strange block, or nothing. The card itself
	// believes it sent the block whole, and may change block as it likes.
	Mangle func(n int, block []byte) []byte

	// MangleIn, if set, stands on the way in: it sees every block from the
	// host, counted likewise, and returns what reaches the card.
	MangleIn func(n int, block []byte) []byte

	card Card
	opt  T1Options

	ns, nr byte // number of the card's next I-block, and of the one expected
	maxINF int  // the longest information field taken now
	ifsd   int  // the longest information field the host takes
	mute   bool

	apdu     []byte // command so far
	resp     []byte // response not yet acknowledged, from the block last sent
	inFlight int    // how much of resp the last I-block carried; -1: nothing sent yet

	queue     []sRequest // what the card wants to ask
	waitFor   byte       // control byte of the S-response awaited, 0: none
	waitValue byte
	repeats   int  // how often the request awaiting it was repeated
	working   bool // the command is complete and waits to be run
	rounds    int  // WTX requests left before it is

	nad         byte   // of the card's next block
	last        []byte // last block sent, before Mangle; empty after a reset
	out         []byte // block being built
	taken, sent int    // blocks so far, for MangleIn and Mangle
}

// sRequest is an S-block the card sends of its own accord.
type sRequest struct {
	pcb   byte
	value byte
}

// NewT1 puts a card behind T=1. The first call should be Reset.
func NewT1(c Card, o T1Options) *T1 {
	if o.MaxINF <= 0 || o.MaxINF > maxIFS {
		o.MaxINF = maxIFS
	}
	if o.WTXMultiplier == 0 {
		o.WTXMultiplier = 1
	}
	if o.Sleep == nil {
		o.Sleep = time.Sleep
	}
	t := &T1{card: c, opt: o}
	t.restart()
	return t
}

// Reset is a reset of the card. It returns the ATR. Pending requests are
// forgotten; Mangle stays.
func (t *T1) Reset() []byte {
	t.card.Reset()
	t.restart()
	t.mute = false
	t.queue = t.queue[:0]
	return t.card.ATR()
}

// RequestIFS makes the card announce, instead of its next I-block or
// acknowledgement, that it takes information fields of n bytes. The new size
// holds once the host has confirmed it.
func (t *T1) RequestIFS(n byte) { t.queue = append(t.queue, sRequest{sIFS, n}) }

// RequestWTX makes the card ask for n times the block waiting time instead of
// sending its next I-block or acknowledgement.
func (t *T1) RequestWTX(n byte) { t.queue = append(t.queue, sRequest{sWTX, n}) }

// Abort makes the card give up the chain that is going on, its own or the
// host's, instead of sending its next I-block or acknowledgement.
func (t *T1) Abort() { t.queue = append(t.queue, sRequest{sAbort, 0}) }

// restart is the state after a reset and after S(RESYNCH).
func (t *T1) restart() {
	t.ns, t.nr = 0, 0
	t.maxINF, t.ifsd = t.opt.MaxINF, initialIFS
	t.waitFor, t.last = 0, t.last[:0]
	t.drop()
}

// drop forgets the command and the response that are under way.
func (t *T1) drop() {
	t.apdu, t.resp, t.inFlight = t.apdu[:0], nil, -1
	t.rounds, t.working = 0, false
}

// Block takes one block from the host and returns the card's block, nothing
// if the card stays silent. The result is valid until the next call.
func (t *T1) Block(in []byte) []byte {
	if t.mute {
		return nil
	}
	if t.MangleIn != nil {
		in = t.MangleIn(t.taken, append([]byte(nil), in...))
	}
	t.taken++
	out := t.receive(in)
	if t.mute {
		return nil
	}
	t.last = append(t.last[:0], out...)
	n := t.sent
	t.sent++
	if t.Mangle == nil {
		return t.last
	}
	return t.Mangle(n, append([]byte(nil), t.last...))
}

// receive decides on the answer to a block.
func (t *T1) receive(in []byte) []byte {
	edc := edcLen(t.opt.CRC)
	if len(in) < 3+edc || !edcOK(in, t.opt.CRC) {
		return t.r(errEDC)
	}
	nad, pcb, length := in[0], in[1], int(in[2])
	if length != len(in)-3-edc || !validPCB(pcb, length) || !t.validNAD(nad) {
		return t.r(errOther)
	}
	inf := in[3 : 3+length]
	t.nad = nad<<4 | nad>>4
	switch {
	case length > t.maxINF:
		t.mute = true
		return nil
	case pcb&^sResponse == sResynch:
		if pcb&sResponse != 0 {
			return t.r(errOther) // only the host may ask, so only the card answers
		}
		t.restart()
		return t.block(sResynch|sResponse, nil)
	case t.waitFor != 0:
		return t.sAnswer(pcb, inf)
	case pcb&0x80 == 0:
		return t.i(pcb, inf)
	case pcb&0xC0 == pcbR:
		return t.acknowledged(pcb&pcbNR != 0)
	}
	return t.s(pcb, inf)
}

func (t *T1) validNAD(nad byte) bool {
	if t.opt.AnyNAD {
		return nad&0x88 == 0 && (nad == 0 || nad>>4 != nad&7)
	}
	return nad == 0
}

// i takes an I-block.
func (t *T1) i(pcb byte, inf []byte) []byte {
	if pcb&pcbNS != t.nr*pcbNS || t.chaining() {
		return t.r(errOther)
	}
	t.resp, t.inFlight = nil, -1
	t.nr ^= 1
	t.apdu = append(t.apdu, inf...)
	switch {
	case len(t.apdu) > maxAPDU:
		t.queue = append(t.queue, sRequest{sAbort, 0})
	case pcb&pcbMore == 0:
		t.working, t.rounds = true, t.opt.WTX
		t.think()
	}
	return t.turn()
}

// chaining tells whether the host owes an acknowledgement.
func (t *T1) chaining() bool { return t.inFlight >= 0 && t.inFlight < len(t.resp) }

// think is the card's work between two requests for time.
func (t *T1) think() {
	if t.opt.Think > 0 {
		t.opt.Sleep(t.opt.Think / time.Duration(t.opt.WTX+1))
	}
}

// turn is the card's turn to send an I-block or an acknowledgement: unless
// there is something to ask first.
func (t *T1) turn() []byte {
	if len(t.queue) > 0 {
		q := t.queue[0]
		t.queue = append(t.queue[:0], t.queue[1:]...)
		return t.ask(q)
	}
	if t.working {
		if t.rounds > 0 {
			t.rounds--
			return t.ask(sRequest{sWTX, t.opt.WTXMultiplier})
		}
		t.working = false
		t.resp, t.inFlight = t.card.Transmit(t.apdu), -1
		t.apdu = t.apdu[:0]
	}
	if t.resp == nil {
		return t.r(errNone)
	}
	return t.sendI()
}

// ask sends an S-request.
func (t *T1) ask(q sRequest) []byte {
	t.waitFor, t.waitValue, t.repeats = q.pcb|sResponse, q.value, 0
	if q.pcb == sAbort {
		return t.block(q.pcb, nil)
	}
	return t.block(q.pcb, []byte{q.value})
}

// maxRepeats is how often the card repeats a request the host does not answer
// as it should, before it does without.
const maxRepeats = 2

// sAnswer takes the block after an S-request: its response, or else the
// request is sent again.
func (t *T1) sAnswer(pcb byte, inf []byte) []byte {
	if pcb != t.waitFor || (len(inf) == 1 && inf[0] != t.waitValue) {
		if t.repeats < maxRepeats {
			t.repeats++
			return t.last
		}
		t.waitFor = 0
		return t.turn()
	}
	t.waitFor = 0
	switch pcb &^ sResponse {
	case sIFS:
		if inf[0] != 0 && int(inf[0]) <= maxIFS {
			t.maxINF = int(inf[0])
		}
	case sWTX:
		if t.working {
			t.think()
		}
	case sAbort:
		t.drop()
	}
	return t.turn()
}

// acknowledged takes an R-block. N(R) alone decides: the number of the block
// sent last asks for it once more, the other acknowledges it. What the host
// complains of does not matter to the card.
func (t *T1) acknowledged(nr bool) []byte {
	wantsNext := nr == (t.ns != 0)
	switch {
	case t.inFlight < 0 && len(t.last) > 0:
		return t.last // no I-block is out: the last R- or S-block got lost
	case t.inFlight < 0:
		return t.r(errOther)
	case !wantsNext:
		t.ns ^= 1
		t.inFlight = -1
		return t.sendI()
	case !t.chaining():
		return t.r(errOther) // nothing is left to send
	}
	t.resp = t.resp[t.inFlight:]
	t.inFlight = -1
	return t.turn()
}

// s takes an S-block other than RESYNCH that answers nothing.
func (t *T1) s(pcb byte, inf []byte) []byte {
	switch pcb {
	case sIFS:
		if inf[0] == 0 || int(inf[0]) > maxIFS {
			break
		}
		t.ifsd = int(inf[0])
		return t.block(sIFS|sResponse, inf)
	case sAbort:
		t.drop()
		return t.block(sAbort|sResponse, nil)
	}
	return t.r(errOther) // WTX is the card's to ask, the rest are answers to nothing
}

// sendI sends as much of the response as the host takes.
func (t *T1) sendI() []byte {
	n := min(len(t.resp), t.ifsd)
	pcb := t.ns * pcbNS
	if n < len(t.resp) {
		pcb |= pcbMore
	}
	t.inFlight = n
	t.ns ^= 1
	return t.block(pcb, t.resp[:n])
}

// r makes an R-block.
func (t *T1) r(reason byte) []byte {
	return t.block(pcbR|t.nr*pcbNR|reason, nil)
}

// block makes a block.
func (t *T1) block(pcb byte, inf []byte) []byte {
	t.out = append(t.out[:0], t.nad, pcb, byte(len(inf)))
	t.out = appendEDC(append(t.out, inf...), t.opt.CRC)
	return t.out
}
