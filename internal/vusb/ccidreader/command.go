package ccidreader

import (
	"encoding/binary"
)

// keptCommands bounds the record of what the host sent; the older half of it
// is forgotten when it is full.
const keptCommands = 1 << 13

// answer is an answer under construction.
type answer struct {
	typ   byte
	fail  bool
	code  byte // bError
	param byte
	data  []byte
	mute  bool // no answer at all
}

// answerType is the type of the answer to each command (CCID 1.1, table
// 6.1-1); commands nobody knows are answered with a SlotStatus.
func answerType(command byte) byte {
	switch command {
	case 0x62, 0x6F, 0x69:
		return 0x80
	case 0x61, 0x6C, 0x6D:
		return 0x82
	case 0x6B:
		return 0x83
	case 0x73:
		return 0x84
	}
	return 0x81
}

// command takes one bulk-OUT transfer.
func (u *unit) command(b []byte) {
	r := u.r
	if len(b) < 10 || int(binary.LittleEndian.Uint32(b[1:])) != len(b)-10 {
		r.violateLocked("message of %d bytes: % X", len(b), b[:min(10, len(b))])
		return
	}
	if len(b) > int(r.p.Message) && r.p.Message != 263 {
		r.violateLocked("message of %d bytes, at most %d", len(b), r.p.Message)
	}
	c := Command{
		Type: b[0], Slot: b[5], Seq: b[6], Param: [3]byte(b[7:10]),
		Data: append([]byte(nil), b[10:]...), Unit: u.n,
	}
	if len(r.commands) == keptCommands {
		r.commands = append(r.commands[:0], r.commands[keptCommands/2:]...)
	}
	r.commands = append(r.commands, c)
	if int(c.Slot) >= len(u.slots) {
		u.send(c, Fault{}, answer{typ: answerType(c.Type), fail: true, code: 0x05}, 2)
		return
	}
	s := u.slots[c.Slot]
	if c.Type == 0x72 {
		u.aborted(s, c)
		return
	}
	if u.seq >= 0 && c.Seq != byte(u.seq+1) {
		r.violateLocked("bSeq %02X after %02X", c.Seq, u.seq)
	}
	u.seq = int(c.Seq)
	u.checkRFU(c)

	busy := 0
	for _, other := range u.slots {
		if other.pending {
			busy++
		}
	}
	if s.pending || busy >= r.p.Busy {
		r.violateLocked("%d commands at a time (slot %d)", busy+1, c.Slot)
		u.send(c, Fault{}, answer{typ: answerType(c.Type), fail: true, code: 0xE0}, s.status())
		return
	}

	f := r.hitLocked(c.Type)
	if f.Lose {
		return
	}
	if f.Pull {
		s.remove()
		u.notifyLocked(s)
	}
	var a answer
	if f.Fail {
		a = answer{fail: true, code: f.Code}
	} else {
		a = s.execute(c, f)
	}
	if a.mute {
		return
	}
	a.typ = answerType(c.Type)
	if a.fail && (c.Type == 0x62 || c.Type == 0x6F) && s.card == nil && a.code == 0 {
		a.code = 0xFE
	}
	u.send(c, f, a, s.status())
}

// checkRFU complains of bytes that are reserved and not zero.
func (u *unit) checkRFU(c Command) {
	var rfu []byte
	switch c.Type {
	case 0x62, 0x61, 0x6E, 0x71:
		rfu = c.Param[1:]
	case 0x63, 0x65, 0x6C, 0x6D, 0x6B, 0x73:
		rfu = c.Param[:]
	}
	for _, b := range rfu {
		if b != 0 {
			u.r.violateLocked("reserved bytes % X in message %02X", c.Param, c.Type)
			return
		}
	}
}

// aborted is the message half of an abort: the command of the same number is
// forgotten, and a SlotStatus says so (CCID 1.1, 6.1.13).
func (u *unit) aborted(s *slot, c Command) {
	if s.abort != int(c.Seq) {
		u.r.violateLocked("Abort message %02X without the request", c.Seq)
	}
	s.cancel()
	s.abort = -1
	f := u.r.hitLocked(c.Type)
	if !f.Lose {
		u.send(c, f, answer{typ: 0x81, fail: f.Fail, code: f.Code}, s.status())
	}
}

// encode writes an answer to c.
func (a answer) encode(c Command, icc byte, extension bool) []byte {
	status := icc
	switch {
	case extension:
		status |= 0x80
	case a.fail:
		status |= 0x40
	}
	b := []byte{a.typ, 0, 0, 0, 0, c.Slot, c.Seq, status, a.code, a.param}
	b = append(b, a.data...)
	binary.LittleEndian.PutUint32(b[1:], uint32(len(a.data)))
	return b
}

// send puts the answer on its way, with what goes wrong about it.
func (u *unit) send(c Command, f Fault, a answer, icc byte) {
	s := &slot{}
	if int(c.Slot) < len(u.slots) {
		s = u.slots[c.Slot]
	}
	if f.Type != 0 {
		a.typ = f.Type
	}
	msg := a.encode(c, icc, false)
	if f.Slot != 0 {
		msg[5] += f.Slot
	}
	if f.Longer != 0 {
		n := int(binary.LittleEndian.Uint32(msg[1:])) + f.Longer
		binary.LittleEndian.PutUint32(msg[1:], uint32(n))
	}
	if f.Mangle != nil {
		msg = f.Mangle(msg)
	}
	final := func() {
		s.pending, s.timer = false, nil
		for range f.Empty {
			u.in.Add(nil, false)
		}
		for range f.Stale {
			old := u.stale
			if old == nil {
				old = answer{typ: 0x81}.encode(Command{Slot: c.Slot, Seq: c.Seq - 1}, icc, false)
			}
			u.in.Add(old, true)
		}
		u.in.Add(msg, !f.NoEnd)
		u.stale = msg
	}
	s.pending = true
	u.extend(s, c, f, a.typ, icc, f.Extensions, final)
}

// extend sends the time extensions that precede an answer, one each Delay.
func (u *unit) extend(s *slot, c Command, f Fault, typ, icc byte, left int, final func()) {
	wait := f.Delay
	if left == 0 && f.Extensions > 0 && f.Think > 0 {
		wait = f.Think
	}
	s.timer = u.r.after(wait, func() {
		if left == 0 {
			final()
			return
		}
		ext := answer{typ: typ, code: max(1, f.Factor)}
		u.in.Add(ext.encode(c, icc, true), true)
		if left < 0 && f.Delay == 0 {
			return // without end and without a pause: one has to do
		}
		u.extend(s, c, f, typ, icc, left-1, final)
	})
}
