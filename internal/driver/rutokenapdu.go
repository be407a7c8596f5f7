package driver

import "encoding/binary"

// The Rutoken S describes files and objects with headers of 32 bytes and
// writes numbers with the high byte first. Its clients (OpenSC, the vendor's
// own driver) speak ISO's TLVs and write numbers with the low byte first. Here
// one becomes the other (doc/devices/rutoken.md).

// rutokenFile is the length of a file's or object's native header.
const rutokenFile = 32

// Lengths of the access rules, tag 86: in the TLV, where the last seven have a
// byte in four, and in the header.
const (
	rutokenRulesTLV    = 40
	rutokenRulesSingle = 8 // so many of the header's 15 stand alone
	rutokenRulesAt     = 17
)

// toNative translates a command. What cannot be translated goes as it is: the
// token says what is wrong with it.
func (c *tpdu) toNative() {
	if c.header[0] != 0x00 || len(c.data) == 0 {
		return
	}
	data := append([]byte(nil), c.data...)
	switch h := c.header; {
	case h[1] == 0xA4 || h[1] == 0xE4: // SELECT, DELETE: a path
		swapPairs(data)
	case h[1] == 0xE0: // CREATE FILE
		data = fileHeader(data)
	case h[1] == 0xDA && h[2] == 0x01 && (h[3] == 0x65 || h[3] == 0x62): // make a key, an object
		data = objectHeader(data)
	default:
		return
	}
	if data != nil && len(data) <= 0xFF {
		c.data, c.header[4] = data, byte(len(data))
	}
}

// fromNative translates the data of a response with 9000 to a command.
func fromNative(header [4]byte, data []byte) []byte {
	switch {
	case header[0] == 0x00 && header[1] == 0xA4 && len(data) == rutokenFile:
		return fileTLV(data)
	case header[0] == 0x80 && header[1] == 0x30 && len(data) >= rutokenFile:
		return objectTLV(data)
	case header == [4]byte{0x00, 0xCA, 0x01, 0x11}: // current file
		swapPairs(data)
	case header == [4]byte{0x00, 0xCA, 0x01, 0x81}, header == [4]byte{0x00, 0xCA, 0x01, 0x8A}: // serial number, free memory
		for b := data; len(b) >= 4; b = b[4:] {
			binary.LittleEndian.PutUint32(b, binary.BigEndian.Uint32(b))
		}
	}
	return data
}

// swapPairs changes the byte order of 16-bit numbers. An odd last byte stays.
func swapPairs(b []byte) {
	for ; len(b) >= 2; b = b[2:] {
		b[0], b[1] = b[1], b[0]
	}
}

// rutokenTLVs takes TLVs apart. Tags and lengths are single bytes, the length
// any; the last of a tag counts.
func rutokenTLVs(b []byte) (map[byte][]byte, bool) {
	m := map[byte][]byte{}
	for len(b) > 0 {
		if len(b) < 2 || len(b)-2 < int(b[1]) {
			return nil, false
		}
		end := 2 + int(b[1])
		m[b[0]], b = b[2:end], b[end:]
	}
	return m, true
}

// fileHeader makes a native header of a file control template, nil if it is
// none.
func fileHeader(fcp []byte) []byte {
	if len(fcp) < rutokenFile || fcp[0] != 0x62 || len(fcp)-2 < int(fcp[1]) {
		return nil
	}
	m, ok := rutokenTLVs(fcp[2 : 2+int(fcp[1])])
	if !ok || len(m[0x82]) != 2 || len(m[0x83]) != 2 {
		return nil
	}
	h := make([]byte, rutokenFile)
	putSwapped(h[0:], m[0x81]) // total size
	putSwapped(h[2:], m[0x80]) // size of the body
	copy(h[4:6], m[0x82])      // type
	putSwapped(h[6:], m[0x83]) // file identifier
	putRules(h, m[0x86])
	return h
}

// objectHeader makes a native header, with the body behind it, of an object's
// TLVs; nil if they are none.
func objectHeader(b []byte) []byte {
	m, ok := rutokenTLVs(b)
	if !ok || len(b) < rutokenFile+len(m[0xA5]) {
		return nil
	}
	h := make([]byte, rutokenFile)
	putSwapped(h[0:], m[0x80]) // size of the body
	if len(m[0x83]) == 2 {
		copy(h[2:4], m[0x83]) // type and identifier
	}
	if len(m[0x85]) == 3 {
		copy(h[4:7], m[0x85]) // options, flags, tries
	}
	putRules(h, m[0x86])
	if body := m[0xA5]; len(body) == int(h[1]) {
		h = append(h, body...)
	}
	return h
}

// putSwapped stores a 16-bit number. One of another length does not count.
func putSwapped(h, value []byte) {
	if len(value) == 2 {
		h[0], h[1] = value[1], value[0]
	}
}

// putRules stores access rules. Those of another length do not count.
func putRules(h, rules []byte) {
	if len(rules) != rutokenRulesTLV {
		return
	}
	n := copy(h[rutokenRulesAt:], rules[:rutokenRulesSingle])
	for i := rutokenRulesAt + n; i < rutokenFile; i++ {
		h[i] = rules[n]
		n += 4
	}
}

// appendRules makes tag 86 of a native header.
func appendRules(b, h []byte) []byte {
	var rules [rutokenRulesTLV]byte
	n := copy(rules[:rutokenRulesSingle], h[rutokenRulesAt:])
	for i := rutokenRulesAt + n; i < rutokenFile; i++ {
		rules[n] = h[i]
		n += 4
	}
	return append(append(b, 0x86, rutokenRulesTLV), rules[:]...)
}

// fileTLV makes a file control template of a native header.
func fileTLV(h []byte) []byte {
	b := []byte{
		0x62, 0x3D,
		0x81, 2, h[1], h[0],
		0x80, 2, h[3], h[2],
		0x82, 2, h[4], h[5],
		0x83, 2, h[7], h[6],
		0x8A, 1, h[8],
	}
	return appendRules(b, h)
}

// objectTLV makes TLVs of a native header and the body behind it.
func objectTLV(h []byte) []byte {
	n := nativeBody(h)
	var b []byte
	if n > 0 {
		b = append(b, 0x80, 2, h[1], h[0])
	}
	b = append(b,
		0x83, 2, h[2], h[3],
		0x85, 3, h[4], h[5], h[6])
	b = appendRules(b, h)
	if n > 0 && len(h)-rutokenFile >= n {
		b = append(append(b, 0xA5, byte(n)), h[rutokenFile:rutokenFile+n]...)
	}
	return b
}

// nativeBody is the length of an object's body, 0 if it is not told. It takes
// the high byte of the number, as C OpenCT and the vendor's driver do, where
// the way to the token uses the low one: a body shorter than 256 bytes is
// lost. Which of them the token means takes a token to find out.
func nativeBody(h []byte) int {
	const room = 255 - 4 - 4 - 5 - (2 + rutokenRulesTLV) - 2 // what A5 may hold in 255 bytes
	if n := int(h[0]); n < room {
		return n
	}
	return 0
}
