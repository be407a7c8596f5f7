package kaan

import (
	"openct/internal/proto"
)

// memoryKinds are the terminal's numbers of memory cards.
var memoryKinds = map[proto.ID]byte{
	proto.I2CShort: 0x80, proto.I2CLong: 0x80, proto.ThreeWire: 0x81, proto.TwoWire: 0x82, proto.Eurochip: 0x93,
}

// pin is a PIN entry: control byte, position or positions, command.
func (t *Terminal) pin(s *slot, modify bool, perform []byte) []byte {
	positions := 1
	if modify {
		positions = 2
	}
	if len(perform) < 1+positions+4 {
		return wrongLen
	}
	control, at, apdu := perform[0], perform[1:1+positions], append([]byte(nil), perform[1+positions:]...)
	switch apdu[1] { // what the terminal lets the user type a PIN for
	case 0x20, 0x24, 0x26, 0x28, 0x2C:
	default:
		return notAllowed
	}
	if s.card == nil || !s.on {
		return noCard
	}
	t.entries++
	k := Keys{PIN: t.PIN, New: t.PIN}
	if len(t.keys) > 0 {
		k, t.keys = t.keys[0], t.keys[1:]
	}
	switch {
	case k.Cancel:
		return cancelled
	case k.Mismatch:
		return mismatch
	case k.Nothing, k.PIN == "" && k.New == "":
		return nothing
	}
	for i, pin := range []string{k.PIN, k.New}[:positions] {
		coded := encode(control, pin)
		switch offset := int(at[i]) - 1; {
		case modify && at[i] == 0: // no old PIN
		case len(apdu) == 4: // Lc and PIN are the terminal's
			apdu = append(append(apdu, byte(len(coded))), coded...)
		case offset < 5 || offset+len(coded) > len(apdu):
			return wrongP1P2
		default:
			copy(apdu[offset:], coded)
		}
	}
	return s.transmit(apdu)
}

// encode is a PIN as control byte says: ASCII, or BCD filled up with F.
func encode(control byte, pin string) []byte {
	if control&1 != 0 {
		return []byte(pin)
	}
	var b []byte
	for i := 0; i < len(pin); i += 2 {
		c := pin[i]<<4 | 0x0F
		if i+1 < len(pin) {
			c = pin[i]<<4 | pin[i+1]&0x0F
		}
		b = append(b, c)
	}
	return b
}
