package ccid

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"openct/internal/atr"
	"openct/internal/golden"
	"openct/internal/ifd"
	"openct/internal/usb"
)

// record is one line of testdata/readers.tsv: the class descriptor's numbers
// of a real reader, from the dumps their owners sent to the libccid project.
type record map[string]string

// records reads testdata/readers.tsv.
func records(t testing.TB) []record {
	t.Helper()
	f, err := os.Open("testdata/readers.tsv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	var header []string
	var all []record
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if header == nil {
			header = fields
			continue
		}
		r := record{}
		for i, name := range header {
			r[name] = fields[i]
		}
		all = append(all, r)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// number reads a column; an empty one, which the dump lacked, is 0.
func (r record) number(t testing.TB, column string, base int) uint32 {
	t.Helper()
	s, ok := r[column]
	if !ok {
		t.Fatalf("no column %s", column)
	}
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(s, base, 32)
	if err != nil {
		t.Fatalf("%s of %s:%s: %v", column, r["vid"], r["pid"], err)
	}
	return uint32(n)
}

// descriptor builds what such a reader would show.
func (r record) descriptor(t testing.TB) *usb.Descriptor {
	t.Helper()
	dec := func(c string) uint32 { return r.number(t, c, 10) }
	hex := func(c string) uint32 { return r.number(t, c, 16) }
	le := binary.LittleEndian
	b := make([]byte, descriptorSize)
	b[0], b[1] = descriptorSize, descriptorType
	major, minor, _ := strings.Cut(r["bcdCCID"], ".")
	bcd, err := strconv.ParseUint(major+minor, 16, 16)
	if err != nil {
		t.Fatal(err)
	}
	le.PutUint16(b[2:], uint16(bcd))
	b[4], b[5] = byte(dec("bMaxSlotIndex")), byte(hex("bVoltageSupport"))
	le.PutUint32(b[6:], hex("dwProtocols_lo"))
	le.PutUint32(b[10:], dec("dwDefaultClock_kHz"))
	le.PutUint32(b[14:], dec("dwMaximumClock_kHz"))
	le.PutUint32(b[19:], dec("dwDataRate_bps"))
	le.PutUint32(b[23:], dec("dwMaxDataRate_bps"))
	b[27] = byte(dec("bNumDataRatesSupported"))
	le.PutUint32(b[28:], dec("dwMaxIFSD"))
	le.PutUint32(b[40:], hex("dwFeatures"))
	le.PutUint32(b[44:], dec("dwMaxCCIDMessageLength"))
	b[48], b[49] = byte(hex("bClassGetResponse")), byte(hex("bClassEnvelope"))
	le.PutUint16(b[50:], uint16(hex("wLcdLayout")))
	b[52], b[53] = byte(hex("bPINSupport")), byte(dec("bMaxCCIDBusySlots"))

	i := usb.Interface{
		Number: uint8(dec("bInterfaceNumber")), Class: uint8(hex("bInterfaceClass")),
		Protocol: uint8(dec("bInterfaceProtocol")), Extra: b,
	}
	switch dec("bNumEndpoints") {
	case 3:
		i.Endpoints = []usb.Endpoint{{Address: 0x81, Type: 2, MaxPacket: 64}, {Address: 0x02, Type: 2, MaxPacket: 64}, {Address: 0x83, Type: 3, MaxPacket: 8}}
	case 2:
		i.Endpoints = []usb.Endpoint{{Address: 0x81, Type: 2, MaxPacket: 64}, {Address: 0x02, Type: 2, MaxPacket: 64}}
	case 1:
		i.Endpoints = []usb.Endpoint{{Address: 0x83, Type: 3, MaxPacket: 8}}
	}
	return &usb.Descriptor{
		Vendor: uint16(hex("vid")), Product: uint16(hex("pid")), Release: 0xFFFF,
		Interfaces: []usb.Interface{i},
	}
}

// sampleTA1 are the speeds that cards in the field ask for.
var sampleTA1 = []byte{0x11, 0x18, 0x38, 0x94, 0x95, 0x96, 0x97}

// atrWith is a T=1 card's ATR with the TA1 given.
func atrWith(t testing.TB, ta1 byte) *atr.ATR {
	t.Helper()
	raw := []byte{0x3B, 0x90, ta1, 0x81, 0x31, 0xFE, 0x45}
	var tck byte
	for _, b := range raw[1:] {
		tck ^= b
	}
	a, err := atr.Parse(append(raw, tck))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// decision is one line of the golden file.
func decision(t testing.TB, d *usb.Descriptor) string {
	plans, err := decideAll(d)
	if err != nil {
		return fmt.Sprintf("%s refused: %v", d.ID(), err)
	}
	p := plans[0]
	line := fmt.Sprintf("%s %v", d.ID(), p)
	if !p.Parameters {
		return line
	}
	var speeds []string
	for _, ta1 := range sampleTA1 {
		sp, err := p.chooseSpeed(atrWith(t, ta1), nil)
		if err != nil {
			t.Fatal(err)
		}
		if sp.fidi != ta1 {
			speeds = append(speeds, fmt.Sprintf("%02X as %02X", ta1, sp.fidi))
		}
	}
	if speeds != nil {
		line += "; speeds " + strings.Join(speeds, ", ")
	}
	return line
}

// TestDecisions compares what the driver decides for every known reader with
// what was reviewed, testdata/decisions.golden, line by line.
func TestDecisions(t *testing.T) {
	var got []string
	for _, r := range records(t) {
		got = append(got, decision(t, r.descriptor(t)))
	}
	if len(got) < 600 {
		t.Fatalf("only %d readers", len(got))
	}
	golden.Compare(t, "testdata/decisions.golden", strings.Join(got, "\n")+"\n")
}

// TestDecisionRules checks the same decisions against rules stated over the
// raw numbers, so that a golden file kept too lightly does not hide a mistake.
func TestDecisionRules(t *testing.T) {
	seen := map[string]int{}
	for _, r := range records(t) {
		d := r.descriptor(t)
		features := r.number(t, "dwFeatures", 16)
		seen[r["dwFeatures"]]++
		fail := func(format string, args ...any) {
			t.Helper()
			t.Errorf("%s, dwFeatures %08X: %s", d.ID(), features, fmt.Sprintf(format, args...))
		}
		plans, err := decideAll(d)
		refused := r.number(t, "bNumEndpoints", 10) < 2
		if refused != (err != nil) {
			fail("refused: %v, want %v", err, refused)
		}
		if err != nil {
			if !errors.Is(err, ifd.ErrIncompatible) {
				fail("refused with %v", err)
			}
			continue
		}
		p, q := plans[0], quirkOf(d)
		level := map[uint32]Level{0x10000: TPDU, 0x20000: ShortAPDU, 0x40000: ExtendedAPDU, 0: Characters}[features&0x70000]
		if !q.extended && !q.shortOnly && p.Level != level {
			fail("level %v", p.Level)
		}
		token := features&0xFFFF == 0x0840
		if p.Token != token {
			fail("token %v", p.Token)
		}
		if p.Parameters != (features&0x40 == 0 && !token) {
			fail("parameters %v", p.Parameters)
		}
		if p.Negotiate && (features&0xC0 != 0 || token || q.noPPS) {
			fail("PPS by the host")
		}
		if p.Negotiate != (features&0xC0 == 0 && !token && !q.noPPS) {
			fail("PPS %v", p.Negotiate)
		}
		if p.SetRate != (p.Negotiate && features&0x20 == 0) {
			fail("rate by hand %v", p.SetRate)
		}
		if auto := p.Voltages[0] == voltageAuto; auto != (features&0x0C != 0 || r.number(t, "bVoltageSupport", 16) == 0) {
			fail("voltages %v", p.Voltages)
		}
		if p.Announce && (features&0x400 != 0 || level != TPDU || r.number(t, "dwMaxIFSD", 10) == 0 && q.ifsd == 0 || q.noIFS) {
			fail("IFSD is announced")
		}
		if p.IFSD < 1 || p.IFSD > 254 || p.IFSD+4+headerSize > p.MaxMessage {
			fail("IFSD %d in messages of %d", p.IFSD, p.MaxMessage)
		}
		if want := int(r.number(t, "bMaxSlotIndex", 10)) + 1; p.Slots != want && !q.onlySlot0 {
			fail("%d slots, want %d", p.Slots, want)
		}
		if p.Busy < 1 || p.Busy > p.Slots {
			fail("%d of %d slots at a time", p.Busy, p.Slots)
		}
		if pin := r.number(t, "bPINSupport", 16); p.Verify != (pin&1 != 0 && !q.noPINPad) || p.Modify != (pin&2 != 0 && !q.noPINPad) {
			fail("PIN pad %v %v for %02X", p.Verify, p.Modify, pin)
		}
		if p.Event != (r.number(t, "bNumEndpoints", 10) == 3) {
			fail("notifies %v", p.Event)
		}
		if !p.T0 && !p.T1 {
			fail("no protocol")
		}
		maxRate := r.number(t, "dwMaxDataRate_bps", 10)
		for _, ta1 := range sampleTA1 {
			sp, err := p.chooseSpeed(atrWith(t, ta1), nil)
			if err != nil {
				fail("TA1 %02X: %v", ta1, err)
			}
			if rate := bitRate(p.Clock, sp.fidi); sp.fidi != defaultFiDi && (rate > maxRate || q.maxRate != 0 && rate > q.maxRate) {
				fail("TA1 %02X: %d bit/s, the reader does %d", ta1, rate, maxRate)
			}
		}
	}
	t.Logf("%d combinations of features", len(seen))
	if len(seen) < 80 {
		t.Errorf("only %d combinations of features; the table is cut", len(seen))
	}
}

// decideAll says what the driver would do with a device: a Plan for each reader in it.
func decideAll(d *usb.Descriptor) ([]Plan, error) {
	fns, err := findFunctions(d)
	if err != nil {
		return nil, err
	}
	plans := make([]Plan, len(fns))
	for i, f := range fns {
		if plans[i], err = decide(f, quirkOf(d)); err != nil {
			return nil, fmt.Errorf("%s, interface %d: %w", d.ID(), f.iface, err)
		}
	}
	return plans, nil
}
