package ccidreader

// cardLine is what the line to a card is like after a reset: what a card's
// maker knows and its ATR tells. It is read here by itself, not with the
// driver's parser: the virtual reader passes an ATR on as the bytes it is, and
// must not agree with the driver about a byte that both misread.
type cardLine struct {
	first    int // protocol, T=0 or T=1
	fidi     byte
	specific bool // TA2: no PPS, and fidi from the start
	crc      bool // T=1
	ifsc     int  // T=1
}

// readLine walks the interface bytes (ISO/IEC 7816-3, 8.2.3). Those that
// are missing keep their defaults.
func readLine(b []byte) cardLine {
	a := cardLine{fidi: 0x11, ifsc: 32}
	if len(b) < 2 {
		return a
	}
	y, at, t := b[1]>>4, 2, 0
	for group := 1; ; group++ {
		var value [4]int // TA, TB, TC, TD
		for i := range value {
			value[i] = -1
			if y>>i&1 != 0 && at < len(b) {
				value[i] = int(b[at])
				at++
			}
		}
		switch ta, tc := value[0], value[2]; {
		case group == 1 && ta >= 0:
			a.fidi = byte(ta)
		case group == 2 && ta >= 0 && t != 15:
			a.specific, a.first = true, ta&0x0F
		case group > 2 && t == 1:
			if ta > 0 {
				a.ifsc = min(ta, 254)
			}
			a.crc = tc > 0 && tc&1 != 0
		}
		td := value[3]
		if td < 0 {
			return a
		}
		y, t = byte(td)>>4, td&0x0F
		if group == 1 && t != 15 {
			a.first = t
		}
	}
}

// fiTable and diTable are Fi and Di by their codes (ISO/IEC 7816-3, tables 7 and
// 8); 0 is reserved.
var (
	fiTable = [16]uint64{372, 372, 558, 744, 1116, 1488, 1860, 0, 0, 512, 768, 1024, 1536, 2048, 0, 0}
	diTable = [16]uint64{0, 1, 2, 4, 8, 16, 32, 64, 12, 20, 0, 0, 0, 0, 0, 0}
)
