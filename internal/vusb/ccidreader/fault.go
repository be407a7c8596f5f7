package ccidreader

import "time"

// Fault is one thing a virtual CCID reader does wrong. Faults of the USB
// transfers themselves (stalls, unplugging) are Port's.
type Fault struct {
	// On selects the commands it may hit by message type; 0 selects all.
	On byte

	Skip  int // so many of them pass unharmed first
	Times int // so many are hit; 0 means 1, negative for ever

	// What happens to the answer.
	Lose       bool          // it never comes
	Stale      int           // so many answers to older commands come first
	Extensions int           // so many time extensions come first; negative: without end
	Factor     byte          // bError of the time extensions, 1 if 0
	Delay      time.Duration // it takes so long, and time extensions are so far apart
	Think      time.Duration // from the last time extension to the answer, Delay if 0
	Empty      int           // so many empty transfers come first
	NoEnd      bool          // no empty packet after a last full one
	Longer     int           // dwLength is so much too large, or too small if negative
	Type       byte          // it has this message type
	Slot       byte          // its slot number is so much too large
	Fail       bool          // the command fails with Code ...
	Code       byte          // ... which is bError
	Mangle     func([]byte) []byte
	Pull       bool   // the card is pulled instead of answering
	PPS        string // "slow", "mute" or "wrong" instead of the card's response
}

// Card is how a card in a virtual reader differs from an easy one.
type Card struct {
	Voltages   byte // bit 0 5 V, bit 1 3 V, bit 2 1.8 V; 0: all
	AutoFails  bool // automatic voltage selection does not find it
	RefuseIFS  bool // it does not take longer blocks
	WTX        int  // it asks for time so often before each answer ...
	Multiplier byte // ... this many waiting times, 1 if 0
}

// Keys is what the user does at the keypad for one PIN entry.
type Keys struct {
	PIN, New string
	Cancel   bool // the red key
	Nothing  bool // no key at all, until the reader's time is up
	Mismatch bool // the two new PINs differ: SW 6402
}

// Inject adds a fault; at most one hits a command, the first that can.
func (r *Reader) Inject(f Fault) {
	if f.Times == 0 {
		f.Times = 1
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, &f)
}

// Heal removes all faults.
func (r *Reader) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
}

// Keys queues what the user does at the keypad, one entry each.
func (r *Reader) Keys(k ...Keys) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = append(r.keys, k...)
}

func (r *Reader) hitLocked(typ byte) Fault {
	for i, f := range r.faults {
		if f.On != 0 && f.On != typ {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				r.faults = append(r.faults[:i:i], r.faults[i+1:]...)
			}
		}
		return *f
	}
	return Fault{}
}
