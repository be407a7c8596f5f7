package ccid

// slotChange is what NotifySlotChange says of one slot (CCID 1.1, 6.3.1): two
// bits, from the least significant pair of the first byte up.
type slotChange struct {
	slot    int
	present bool
	changed bool // since the last notification
}

// maxSlotsPerByte is how many slots one byte of a NotifySlotChange tells of.
const maxSlotsPerByte = 4

// hardwareError is RDR_to_PC_HardwareError (CCID 1.1, 6.3.2).
type hardwareError struct {
	slot, seq byte
	code      byte // bit 0: overcurrent
}

const overcurrent = 0x01

// parseSlotChange reads a NotifySlotChange for a reader of so many slots. It
// returns the slots whose bits arrived: none if b is another message, fewer
// than there are if it is too short.
func parseSlotChange(b []byte, slots int) []slotChange {
	if len(b) < 2 || b[0] != msgNotifySlotChange {
		return nil
	}
	n := min(slots, maxSlotsPerByte*(len(b)-1))
	changes := make([]slotChange, n)
	for s := range changes {
		bits := b[1+s/maxSlotsPerByte] >> (2 * (s % maxSlotsPerByte))
		changes[s] = slotChange{slot: s, present: bits&1 != 0, changed: bits&2 != 0}
	}
	return changes
}

// parseHardwareError reads a HardwareError; ok is false for anything else.
func parseHardwareError(b []byte) (e hardwareError, ok bool) {
	if len(b) < 4 || b[0] != msgHardwareError {
		return hardwareError{}, false
	}
	return hardwareError{slot: b[1], seq: b[2], code: b[3]}, true
}

// interruptSize is the size of a reader's longest notification in bytes: one,
// and two bits a slot (CCID 1.1, 6.3.1), or the four of a HardwareError.
func interruptSize(slots int) int { return max(4, 1+(2*slots+7)/8) }
