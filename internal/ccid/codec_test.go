package ccid

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"openct/internal/ifd"
	"openct/internal/proto"
	"openct/internal/usb"
)

// readerP1 is the class descriptor of the virtual reader P1 (see package vusb).
const readerP1 = "36 21 10 01 00 07 03 00 00 00 A0 0F 00 00 A0 0F 00 00 00 01 2A 00 00 16 40 05 00 00 FE 00" +
	"00 00 00 00 00 00 00 00 00 00 30 00 01 00 0F 01 00 00 FF FF 00 00 00 01"

func fromHex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err) // a constant of this file
	}
	return b
}

// TestMessages: every message the codec writes, byte by byte (CCID 1.1, 6.1).
func TestMessages(t *testing.T) {
	for _, c := range []struct {
		name   string
		m      message
		want   string
		answer byte
	}{
		{"IccPowerOn", iccPowerOn(voltage1V8), "62 00000000 01 A5 03 00 00", 0x80},
		{"IccPowerOff", iccPowerOff(), "63 00000000 01 A5 00 00 00", 0x81},
		{"GetSlotStatus", getSlotStatus(), "65 00000000 01 A5 00 00 00", 0x81},
		{"XfrBlock", xfrBlock(3, levelContinues, []byte{1, 2, 3}), "6F 03000000 01 A5 03 03 00 01 02 03", 0x80},
		{"XfrBlock, next block", xfrBlock(0, levelFetch, nil), "6F 00000000 01 A5 00 10 00", 0x80},
		{"SetParameters T=0", setParameters(cardParameters{t: 0, fidi: 0x11, inverse: true, guard: 2, wi: 10, clockStop: 1}), "61 05000000 01 A5 00 00 00 11 02 02 0A 01", 0x82},
		{"SetParameters T=1", setParameters(cardParameters{t: 1, fidi: 0x95, crc: true, guard: 255, bwiCwi: 0x45, ifsc: 254}), "61 07000000 01 A5 01 00 00 95 11 FF 45 00 FE 00", 0x82},
		{"Escape", escape([]byte{0x1F, 0x01}), "6B 02000000 01 A5 00 00 00 1F 01", 0x83},
		{"Mechanical", mechanical(mechEject), "71 00000000 01 A5 02 00 00", 0x81},
		{"Abort", abortMessage(), "72 00000000 01 A5 00 00 00", 0x81},
		{"SetDataRateAndClockFrequency", setRateAndClock(4000, 344086), "73 08000000 01 A5 00 00 00 A00F0000 16400500", 0x84},
		{"Secure, verify", secureVerify(pinEntry{timeout: 30, format: 0x82, block: 8, min: 4, max: 8, validation: endAtKey, messages: 1, lang: langEnglish, prologue: [3]byte{0, 0x40, 5}, apdu: []byte{0, 0x20, 0, 1}}),
			"69 13000000 01 A5 00 00 00 00 1E 82 08 00 08 04 02 01 09 04 00 00 40 05 00 20 00 01", 0x80},
		{"Secure, modify", secureModify(pinModification{pinEntry: pinEntry{format: 0x82, block: 8, min: 4, max: 8, validation: endAtKey, messages: 3, lang: langEnglish, apdu: []byte{0, 0x24, 0, 1}}, offsetNew: 8, confirm: 3, indexes: 3}),
			"69 18000000 01 A5 00 00 00 01 00 82 08 00 00 08 08 04 03 02 03 09 04 00 01 02 00 00 00 00 24 00 01", 0x80},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.m.append(nil, 1, 0xA5)
			if want := fromHex(c.want); !bytes.Equal(got, want) {
				t.Errorf("got  % X\nwant % X", got, want)
			}
			if c.m.answer != c.answer {
				t.Errorf("answer %02X, want %02X", c.m.answer, c.answer)
			}
			if !strings.HasPrefix(c.name, c.m.name()) {
				t.Errorf("called %q", c.m.name())
			}
		})
	}
}

// TestResponses: answers, whole and not.
func TestResponses(t *testing.T) {
	for _, c := range []struct {
		name    string
		in      string
		icc     iccStatus
		command commandStatus
		data    string
		bad     bool
	}{
		{name: "status", in: "81 00000000 00 01 01 00 00", icc: iccInactive},
		{name: "data", in: "80 02000000 00 03 00 00 00 90 00", data: "90 00"},
		{name: "failed", in: "80 00000000 00 03 42 FE 00", icc: iccAbsent, command: commandFailed},
		{name: "time extension", in: "80 00000000 00 03 80 05 00", command: commandTimeExtension},
		{name: "reserved bits", in: "80 00000000 00 03 C3 05 00", icc: iccAbsent, command: commandFailed},
		{name: "nine bytes", in: "81 00000000 00 01 01 00", bad: true},
		{name: "nothing", in: "", bad: true},
		{name: "too short for its length", in: "80 03000000 00 03 00 00 00 90 00", bad: true},
		{name: "padded", in: "80 01000000 00 03 00 00 00 90 00", data: "90"},
		{name: "length that overflows", in: "80 FFFFFFFF 00 03 00 00 00 90 00", bad: true},
		{name: "a host's message", in: "65 00000000 00 03 00 00 00", bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := parseResponse(fromHex(c.in))
			if c.bad {
				wantIs(t, err, errMalformed)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.icc() != c.icc || r.command() != c.command {
				t.Errorf("card %d, command %d", r.icc(), r.command())
			}
			if !bytes.Equal(r.data, fromHex(c.data)) {
				t.Errorf("data % X, want %s", r.data, c.data)
			}
		})
	}
}

func wantIs(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

// TestRateAndClock: what the reader says it set.
func TestRateAndClock(t *testing.T) {
	_, _, err := parseRateAndClock(response{data: make([]byte, 7)})
	wantIs(t, err, errMalformed)
	clock, rate, err := parseRateAndClock(response{data: fromHex("A00F0000 16400500")})
	if err != nil || clock != 4000 || rate != 344086 {
		t.Errorf("clock %d, rate %d, %v", clock, rate, err)
	}
}

// TestFailures: every bError, for a card that is there and one that is not
// (CCID 1.1, table 6.2-2).
func TestFailures(t *testing.T) {
	for _, c := range []struct {
		code   byte
		m      message
		want   error
		absent error // with bmICCStatus 2; nil: the same
	}{
		{0xFF, xfrBlock(0, 0, nil), errAborted, nil},
		{0xFE, xfrBlock(0, 0, nil), ifd.ErrComm, ifd.ErrNoCard},
		{0xFE, iccPowerOn(0), ifd.ErrNoATR, ifd.ErrNoCard},
		{0xFD, xfrBlock(0, 0, nil), errParity, ifd.ErrNoCard},
		{0xFC, xfrBlock(0, 0, nil), ifd.ErrComm, ifd.ErrNoCard},
		{0xFB, xfrBlock(0, 0, nil), errHardware, ifd.ErrNoCard},
		{0xF8, iccPowerOn(0), ifd.ErrNoATR, ifd.ErrNoCard},
		{0xF7, iccPowerOn(0), ifd.ErrNoATR, ifd.ErrNoCard},
		{0xF6, setParameters(cardParameters{}), ifd.ErrIncompatible, ifd.ErrNoCard},
		{0xF5, xfrBlock(0, 0, nil), ifd.ErrIncompatible, ifd.ErrNoCard},
		{0xF4, xfrBlock(0, 0, nil), ifd.ErrComm, ifd.ErrNoCard},
		{0xF3, xfrBlock(0, 0, nil), errDeactivated, ifd.ErrNoCard},
		{0xF2, xfrBlock(0, 0, nil), usb.ErrTimeout, nil},
		{0xF0, secureVerify(pinEntry{}), ifd.ErrUserTimeout, nil},
		{0xEF, secureVerify(pinEntry{}), ifd.ErrUserAbort, nil},
		{0xE0, xfrBlock(0, 0, nil), usb.ErrTimeout, nil},
		{0x00, escape(nil), ifd.ErrNotSupported, nil},
		{0x05, getSlotStatus(), errBadSlot, nil},
		{0x01, xfrBlock(0, 0, nil), proto.ErrInvalidAPDU, ifd.ErrNoCard},
		{0x01, secureVerify(pinEntry{}), errRejected, ifd.ErrNoCard},
		{0x7F, setParameters(cardParameters{}), errRejected, ifd.ErrNoCard},
		{0xA2, iccPowerOn(0), errHardware, ifd.ErrNoCard},
		{0xA3, iccPowerOn(0), ifd.ErrNoATR, ifd.ErrNoCard},
		{0xAB, xfrBlock(0, 0, nil), ifd.ErrComm, ifd.ErrNoCard},
		{0xB0, xfrBlock(0, 0, nil), ifd.ErrComm, ifd.ErrNoCard},
		{0xBB, iccPowerOn(0), ifd.ErrComm, ifd.ErrNoCard},
		{0xBD, xfrBlock(0, 0, nil), ifd.ErrComm, ifd.ErrNoCard},
		{0xBE, xfrBlock(0, 0, nil), ifd.ErrComm, ifd.ErrNoCard},
		{0x80, xfrBlock(0, 0, nil), errVendor, ifd.ErrNoCard},
		{0xC0, xfrBlock(0, 0, nil), errVendor, ifd.ErrNoCard},
	} {
		t.Run(fmt.Sprintf("%02X/%s", c.code, c.m.name()), func(t *testing.T) {
			wantIs(t, failure(c.m, response{status: 0x40, code: c.code}), c.want)
			want := c.absent
			if want == nil {
				want = c.want
			}
			wantIs(t, failure(c.m, response{status: 0x42, code: c.code}), want)
		})
	}
}

// TestInterruptMessages: slots 0 to 4 of a notification, and what is none
// (CCID 1.1, 6.3).
func TestInterruptMessages(t *testing.T) {
	for _, c := range []struct {
		name  string
		in    string
		slots int
		want  []slotChange
	}{
		{"inserted", "50 03", 1, []slotChange{{0, true, true}}},
		{"removed", "50 02", 1, []slotChange{{0, false, true}}},
		{"no news", "50 01", 1, []slotChange{{0, true, false}}},
		{"five slots", "50 30 01", 5, []slotChange{{0, false, false}, {1, false, false}, {2, true, true}, {3, false, false}, {4, true, false}}},
		{"five slots, one byte", "50 C0", 5, []slotChange{{0, false, false}, {1, false, false}, {2, false, false}, {3, true, true}}},
		{"longer than need be", "50 03 FF FF FF FF FF FF", 1, []slotChange{{0, true, true}}},
		{"nothing but the type", "50", 1, nil},
		{"another type", "40 03", 1, nil},
		{"empty", "", 1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := parseSlotChange(fromHex(c.in), c.slots)
			if len(got) != len(c.want) || len(got) > 0 && !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
	e, ok := parseHardwareError(fromHex("51 00 07 01"))
	if !ok || e != (hardwareError{0, 7, overcurrent}) {
		t.Errorf("hardware error %+v, %v", e, ok)
	}
	for _, in := range []string{"51 00 07", "50 00 07 01", ""} {
		if _, ok := parseHardwareError(fromHex(in)); ok {
			t.Errorf("%q passes as a hardware error", in)
		}
	}
}

// TestClassDescriptor: the fields, and what is refused.
func TestClassDescriptor(t *testing.T) {
	got, err := parseClassDescriptor(fromHex(readerP1))
	if err != nil {
		t.Fatal(err)
	}
	want := &ClassDescriptor{
		Release: 0x0110, Slots: 1, Voltages: 7, Protocols: 3, DefaultClock: 4000, MaxClock: 4000,
		DefaultRate: 10753, MaxRate: 344086, MaxIFSD: 254, Features: 0x00010030, MaxMessage: 271,
		ClassGetResponse: 0xFF, ClassEnvelope: 0xFF, BusySlots: 1,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if s := got.Features.String(); s != "auto clock, auto rate, TPDU" {
		t.Errorf("features %q", s)
	}
	if s := Features(0).String(); s != "none" {
		t.Errorf("no features: %q", s)
	}
	for _, c := range []struct {
		name string
		edit func([]byte) []byte
		ok   bool
	}{
		{"longer buffer", func(b []byte) []byte { return append(b, 7, 5, 0x81) }, true},
		{"bLength 60", func(b []byte) []byte { b[0] = 60; return append(b, make([]byte, 6)...) }, true},
		{"type FF", func(b []byte) []byte { b[1] = 0xFF; return b }, true},
		{"bcdCCID 1000", func(b []byte) []byte { b[2], b[3] = 0x00, 0x10; return b }, true},
		{"IFSD 0", func(b []byte) []byte { clear(b[28:32]); return b }, true},
		{"53 bytes", func(b []byte) []byte { return b[:53] }, false},
		{"bLength 53", func(b []byte) []byte { b[0] = 53; return b }, false},
		{"bLength 0", func(b []byte) []byte { b[0] = 0; return b }, false},
		{"HID descriptor", func([]byte) []byte { return fromHex("09 21 11 01 00 01 22 3F 00") }, false},
		{"another type", func(b []byte) []byte { b[1] = 0x24; return b }, false},
		{"nothing", func([]byte) []byte { return nil }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.edit(fromHex(readerP1))
			if _, err := parseClassDescriptor(b); (err == nil) != c.ok {
				t.Errorf("error %v", err)
			}
		})
	}
	for _, c := range []struct {
		name  string
		extra string
		ok    bool
	}{
		{"alone", readerP1, true},
		{"behind a HID descriptor", "09 21 11 01 00 01 22 3F 00" + readerP1, true},
		{"ahead of an endpoint's", readerP1 + "02 FF", true},
		{"behind one of length 1", "01 24" + readerP1, false},
		{"behind one that is too long", "40 24" + readerP1, false},
		{"none", "05 24 00 10 01", false},
		{"nothing", "", false},
	} {
		t.Run("find/"+c.name, func(t *testing.T) {
			if _, err := findClassDescriptor(fromHex(c.extra)); (err == nil) != c.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestQuirks: releases that bound a fact.
func TestQuirks(t *testing.T) {
	for _, c := range []struct {
		name                     string
		vendor, product, release uint16
		check                    func(quirk) bool
	}{
		{"nothing known", 0xFFF0, 1, 0, func(q quirk) bool { return reflect.DeepEqual(q, quirk{}) }},
		{"several facts", 0x04E6, 0xE003, 0x0600, func(q quirk) bool {
			return q.vendorClass && q.allIndexes && q.modifyMessage != nil && q.minRelease == 0x0510
		}},
		{"vendor class", 0x04E6, 0x0003, 0, func(q quirk) bool { return reflect.DeepEqual(q, quirk{vendorClass: true}) }},
		{"within the releases", 0x0529, 0x0620, 0x0012, func(q quirk) bool { return q.noIFS }},
		{"below", 0x0529, 0x0620, 0x0011, func(q quirk) bool { return !q.noIFS }},
		{"above", 0x0529, 0x0620, 0x0014, func(q quirk) bool { return !q.noIFS }},
		{"old GemPC Twin serial", 0x08E6, 0x3480, 0x0100, func(q quirk) bool { return q.muteIsNone }},
		{"new one", 0x08E6, 0x3480, 0x0200, func(q quirk) bool { return !q.muteIsNone }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if q := quirkOf(&usb.Descriptor{Vendor: c.vendor, Product: c.product, Release: c.release}); !c.check(q) {
				t.Errorf("%+v", q)
			}
		})
	}
}
