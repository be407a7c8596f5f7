package ccidreader

// secure is a PIN entry (CCID 1.1, 6.1.11): the scripted keys are put into
// the command, which goes to the card.
func (s *slot) secure(c Command) answer {
	p := s.r.p
	if p.PIN == 0 {
		return failed(0x00)
	}
	if s.card == nil || !s.powered {
		return failed(0xFE)
	}
	e, code := parsePINEntry(c.Data, p.PIN)
	if code != 0 {
		s.r.violateLocked("Secure: byte %d is not understood: % X", code, c.Data)
		return failed(code)
	}
	k := Keys{PIN: s.r.PIN, New: s.r.PIN, Nothing: s.r.PIN == ""}
	if len(s.r.keys) > 0 {
		k, s.r.keys = s.r.keys[0], s.r.keys[1:]
	}
	switch {
	case k.Nothing:
		return failed(0xF0)
	case k.Cancel:
		return failed(0xEF)
	case k.Mismatch:
		return answer{data: s.wrap(e, []byte{0x64, 0x02})}
	}
	apdu := e.fill(k)
	if apdu == nil {
		return failed(0xF0) // too long or too short: the user gives up
	}
	return answer{data: s.exchange(e, apdu)}
}

// pinEntry is the data of Secure.
type pinEntry struct {
	modify   bool
	ascii    bool
	offsets  []int // of the PINs in the command's data
	block    int
	min, max int
	prologue []byte
	apdu     []byte
}

// parsePINEntry reads the data of Secure; code is the offset within the
// message of the first byte that is wrong.
func parsePINEntry(b []byte, support uint8) (e pinEntry, code byte) {
	if len(b) < 15 {
		return e, 1
	}
	e.modify = b[0] == 1
	if b[0] > 1 || support&(1<<b[0]) == 0 {
		return e, 10
	}
	if b[2]&0x80 == 0 || b[2]&3 == 0 || b[2]&3 == 3 {
		return e, 12
	}
	e.ascii = b[2]&3 == 2
	e.block = int(b[3] & 0x0F)
	at := int(b[2] >> 3 & 0x0F)
	var rest []byte // prologue and command
	if e.modify {
		if len(b) < 20 {
			return e, 1
		}
		confirm := b[9]
		if confirm&2 != 0 {
			e.offsets = append(e.offsets, at+int(b[5]))
		}
		e.offsets = append(e.offsets, at+int(b[6]))
		e.max, e.min = int(b[7]), int(b[8])
		if b[10] == 0 || b[10] > 7 {
			return e, 20
		}
		messages := b[11]
		n := 1
		if messages > 0 {
			n++
		}
		if messages >= 3 {
			n++
		}
		rest = b[14:]
		if len(rest) < n+3 {
			return e, 1
		}
		rest = rest[n:]
	} else {
		e.offsets = []int{at}
		e.max, e.min = int(b[5]), int(b[6])
		if b[7] == 0 || b[7] > 7 {
			return e, 17
		}
		rest = b[12:]
	}
	if e.min > e.max || e.max == 0 {
		return e, 15
	}
	if len(rest) < 7 {
		return e, 1
	}
	e.prologue, e.apdu = rest[:3], rest[3:]
	return e, 0
}

// fill puts the PINs into the command; nil if they do not fit.
func (e pinEntry) fill(k Keys) []byte {
	apdu := append([]byte(nil), e.apdu...)
	pins := []string{k.PIN, k.New}
	if len(e.offsets) == 1 && e.modify {
		pins = []string{k.New}
	}
	for i, at := range e.offsets {
		pin := pins[i]
		if len(pin) < e.min || len(pin) > e.max {
			return nil
		}
		coded := []byte(pin)
		if !e.ascii {
			coded = coded[:0]
			for j := 0; j < len(pin); j += 2 {
				b := pin[j]&0x0F<<4 | 0x0F
				if j+1 < len(pin) {
					b = pin[j]&0x0F<<4 | pin[j+1]&0x0F
				}
				coded = append(coded, b)
			}
		}
		if len(apdu) == 4 {
			return append(append(apdu, byte(len(coded))), coded...)
		}
		if len(coded) > e.block || 5+at+len(coded) > len(apdu) {
			return nil
		}
		copy(apdu[5+at:], coded)
	}
	return apdu
}

// exchange sends the finished command to the card at the reader's level.
func (s *slot) exchange(e pinEntry, apdu []byte) []byte {
	if s.level() != levelTPDU {
		return s.card.Transmit(apdu)
	}
	if s.cardT == 0 {
		return s.t0.TPDU(apdu)
	}
	block := append([]byte{e.prologue[0], e.prologue[1], byte(len(apdu))}, apdu...)
	if int(e.prologue[2]) != len(e.apdu) {
		s.r.violateLocked("bTeoPrologue % X for a command of %d bytes", e.prologue, len(e.apdu))
	}
	return append([]byte(nil), s.t1.Block(append(block, lrc(block)))...)
}

// wrap makes a block of the reader's own status word, where blocks are due.
func (s *slot) wrap(e pinEntry, sw []byte) []byte {
	if s.level() != levelTPDU || s.cardT == 0 {
		return sw
	}
	block := append([]byte{e.prologue[0], e.prologue[1], byte(len(sw))}, sw...)
	return append(block, lrc(block))
}

func lrc(b []byte) (sum byte) {
	for _, x := range b {
		sum ^= x
	}
	return sum
}
