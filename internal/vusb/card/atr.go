package card

// CardOSATR is the answer to reset of a CardOS M4.2 chip as it sits in an
// Aladdin eToken PRO 64k (doc/devices/etoken.md).
var CardOSATR = [...]byte{0x3B, 0xF2, 0x18, 0x00, 0x02, 0xC1, 0x0A, 0x31, 0xFE, 0x58, 0xC8, 0x09, 0x75}

// maxHistorical is how many historical bytes T0's low nibble can announce.
const maxHistorical = 15

// BuildATR puts an answer to reset together: TS for direct convention, T0,
// the interface bytes, the historical bytes (the first 15) and TCK where it
// belongs (ISO/IEC 7816-3, 8.2). The bits 0x10, 0x20, 0x40 and 0x80 of first
// say which of TA1, TB1, TC1 and TD1 the interface bytes begin with.
func BuildATR(first byte, interfaceBytes []byte, historical string) []byte {
	if len(historical) > maxHistorical {
		historical = historical[:maxHistorical]
	}
	atr := []byte{0x3B, first&0xF0 | byte(len(historical))}
	atr = append(atr, interfaceBytes...)
	atr = append(atr, historical...)
	if needsTCK(first, interfaceBytes) {
		var tck byte
		for _, b := range atr[1:] {
			tck ^= b
		}
		atr = append(atr, tck)
	}
	return atr
}

// needsTCK follows the TD chain: a TCK is there as soon as anything but T=0
// is named.
func needsTCK(y byte, b []byte) bool {
	for y&0x80 != 0 {
		td := -1
		for bit := byte(0x10); bit != 0; bit <<= 1 {
			if y&bit != 0 {
				td++
			}
		}
		if td >= len(b) {
			return false // announced, but not there: the caller wants it broken
		}
		if b[td]&0x0F != 0 {
			return true
		}
		y, b = b[td], b[td+1:]
	}
	return false
}

// T1ATR is an ATR that offers T=1 alone, with IFSC 254, BWI 4 and CWI 5.
func T1ATR(historical string) []byte {
	return BuildATR(0x80, []byte{0x81, 0x31, 0xFE, 0x45}, historical)
}

// T0ATR is an ATR that offers T=0 alone, with the default parameters.
func T0ATR(historical string) []byte {
	return BuildATR(0, nil, historical)
}
