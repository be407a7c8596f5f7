package ccid

import (
	"fmt"
	"strings"

	"openct/internal/ifd"
	"openct/internal/proto"
)

// Level is how much of a card's protocol the reader leaves to the host
// (CCID 1.1, 3).
type Level int

const (
	TPDU         Level = iota + 1 // the host speaks T=0 or T=1
	ShortAPDU                     // the reader does; commands of at most 261 bytes
	ExtendedAPDU                  // the reader does; longer commands are chained
	Characters                    // the host does everything, byte by byte
)

func (l Level) String() string {
	return [...]string{"?", "TPDU", "short APDU", "extended APDU", "characters"}[l]
}

// Plan is what the driver decided to do with a reader: its class descriptor,
// without its contradictions and what is known to be wrong in it.
type Plan struct {
	Level Level
	Slots int  // usable ones
	Busy  int  // commands in flight at the same time
	Token bool // the card cannot be taken out
	Event bool // insertion and removal are reported
	T0    bool // card protocols
	T1    bool

	Voltages   []voltage // in the order they are tried
	Negotiate  bool      // the host sends the PPS
	Parameters bool      // the host sends SetParameters
	SetRate    bool      // the host sets the data rate by hand after a PPS
	Clock      uint32    // kHz, before any change
	MaxRate    uint32    // bit/s
	Rates      int       // entries of the rate table; 0: every rate to MaxRate
	IFSD       int       // T=1 at TPDU level
	Announce   bool      // the host announces IFSD to the card

	MaxMessage int // bytes, header included

	Verify, Modify, Display bool

	eject bool // has a motor
	quirk quirk
}

// Values that stand for ones the descriptor does not have.
const (
	shortMessage   = headerSize + 261 // the longest short APDU
	wrongMessage   = 263              // declared by readers that take shortMessage
	fallbackClock  = 4000             // kHz
	defaultIFSD    = 32               // ISO/IEC 7816-3, 11.4.2: until the host says otherwise
	maxIFSD        = 254
	blockOverhead  = 3 + 1 // prologue and LRC
	minMessage     = headerSize + blockOverhead + 1 + defaultIFSD
	maxBusySlots   = 16
	maxClock       = 100_000 // kHz; more is an error of the descriptor: ISO/IEC 7816-3, table 7, ends at 20 MHz
	maxUsableSlots = 8       // of OpenCT's status file
)

// decide makes a plan of one class descriptor.
func decide(f function, q quirk) (Plan, error) {
	d := f.desc
	p := Plan{
		Slots: min(d.Slots, maxUsableSlots),
		Token: d.Features.IsToken(),
		Event: f.interrupt != 0,
		T0:    d.Protocols&protocolT0 != 0,
		T1:    d.Protocols&protocolT1 != 0,
		Clock: d.DefaultClock, MaxRate: d.MaxRate, Rates: d.NumRates,
		Display: d.LCDLines > 0 && d.LCDColumns > 0,
		eject:   d.Mechanical&mechanicalEject != 0,
		quirk:   q,
	}
	var err error
	if p.Level, err = level(d.Features); err != nil {
		return Plan{}, err
	}
	switch {
	case q.extended && p.Level == ShortAPDU:
		p.Level = ExtendedAPDU
	case q.shortOnly && p.Level == ExtendedAPDU:
		p.Level = ShortAPDU
	}
	if q.onlySlot0 {
		p.Slots = 1
	}
	p.Busy = min(max(1, d.BusySlots), p.Slots, maxBusySlots)
	if !p.T0 && !p.T1 {
		p.T0, p.T1 = true, true // a reader speaks one of them; the card decides
	}
	if p.Clock == 0 {
		p.Clock = fallbackClock
	}
	if q.maxRate != 0 {
		p.MaxRate = min(p.MaxRate, q.maxRate)
	}
	p.Voltages = voltages(d)
	p.Parameters = !p.Token && !d.Features.Has(AutoNegotiation)
	p.Negotiate = p.Parameters && !d.Features.Has(AutoPPS) && !q.noPPS
	p.SetRate = p.Negotiate && !d.Features.Has(AutoRate)
	p.MaxMessage = maxMessage(d.MaxMessage)
	p.IFSD, p.Announce = ifsd(d, q, p.MaxMessage)
	p.Announce = p.Announce && p.Level == TPDU && p.T1
	if !q.noPINPad && p.Level != Characters {
		p.Verify = d.PINSupport&pinSupportVerify != 0
		p.Modify = d.PINSupport&pinSupportModify != 0
	}
	return p, nil
}

// level reads the exchange level. More than one is a contradiction that only
// exists on paper; the highest wins. None is character level, which makes no
// sense for a token: there is no line to have characters on.
func level(f Features) (Level, error) {
	switch {
	case f.Has(LevelExtAPDU):
		return ExtendedAPDU, nil
	case f.Has(LevelShortAPDU):
		return ShortAPDU, nil
	case f.Has(LevelTPDU):
		return TPDU, nil
	case f.IsToken():
		return 0, fmt.Errorf("token declares no exchange level: %w", ifd.ErrIncompatible)
	}
	return Characters, nil
}

// voltages is the order in which a card is powered: automatic where the reader
// can, then each class it supports from the highest, as cards expect that do
// not know the others.
func voltages(d *ClassDescriptor) []voltage {
	var vs []voltage
	if d.Features.Has(AutoVoltage) || d.Features.Has(AutoActivation) {
		vs = append(vs, voltageAuto)
	}
	for i, v := range []voltage{voltage5V, voltage3V, voltage1V8} {
		if d.Voltages&(1<<i) != 0 {
			vs = append(vs, v)
		}
	}
	if vs == nil {
		return []voltage{voltageAuto}
	}
	return vs
}

// maxMessage makes dwMaxCCIDMessageLength usable. Some readers declare 263
// and take the 271 bytes of the longest short APDU.
func maxMessage(declared uint32) int {
	switch {
	case declared == wrongMessage, declared < minMessage:
		return shortMessage
	case declared > messageLimit:
		return messageLimit
	}
	return int(declared)
}

// ifsd is the longest information field of a T=1 block that the reader takes,
// and whether the card has to be told. A block must fit into a message, too.
func ifsd(d *ClassDescriptor, q quirk, message int) (size int, announce bool) {
	declared := d.MaxIFSD
	if q.ifsd != 0 {
		declared = q.ifsd
	}
	if declared == 0 {
		return defaultIFSD, false
	}
	size = min(int(min(declared, maxIFSD)), message-headerSize-blockOverhead)
	return size, !d.Features.Has(AutoIFSD) && !q.noIFS
}

// String is a line for logs and for the doctor.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v, %d slot(s)", p.Level, p.Slots)
	if p.Busy > 1 {
		fmt.Fprintf(&b, " (%d at a time)", p.Busy)
	}
	switch {
	case p.Token:
		b.WriteString(", token")
	case p.Event:
		b.WriteString(", reports cards")
	default:
		b.WriteString(", is asked for cards")
	}
	var ts []string
	if p.T0 {
		ts = append(ts, "T=0")
	}
	if p.T1 {
		ts = append(ts, "T=1")
	}
	b.WriteString(", " + strings.Join(ts, "+"))
	vs := make([]string, len(p.Voltages))
	for i, v := range p.Voltages {
		vs[i] = v.String()
	}
	b.WriteString(", power " + strings.Join(vs, "/"))
	switch {
	case p.Negotiate && p.SetRate:
		b.WriteString(", PPS and data rate by host")
	case p.Negotiate:
		b.WriteString(", PPS by host")
	case p.Parameters:
		b.WriteString(", parameters by host")
	default:
		b.WriteString(", negotiates itself")
	}
	fmt.Fprintf(&b, ", to %d bit/s", p.MaxRate)
	if p.Rates > 0 {
		fmt.Fprintf(&b, " in %d steps", p.Rates)
	}
	if p.Level == TPDU && p.T1 {
		fmt.Fprintf(&b, ", IFSD %d", p.IFSD)
		if !p.Announce {
			b.WriteString(" unannounced")
		}
	}
	fmt.Fprintf(&b, ", messages of %d", p.MaxMessage)
	for _, o := range []struct {
		have bool
		what string
	}{{p.Verify, "verifies PINs"}, {p.Modify, "changes PINs"}, {p.Display, "display"}} {
		if o.have {
			b.WriteString(", " + o.what)
		}
	}
	return b.String()
}

// hostSpeaks says whether the host speaks the card's protocol, and not the reader.
func (p Plan) hostSpeaks() bool { return p.Level == TPDU || p.Level == Characters }

// supports says whether the reader speaks card protocol t.
func (p Plan) supports(t proto.ID) bool { return t == proto.T0 && p.T0 || t == proto.T1 && p.T1 }
