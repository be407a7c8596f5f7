package card

// Status words the virtual cards use (ISO/IEC 7816-4, 5.6).
const (
	swOK               = 0x9000
	swMoreData         = 0x6100 // low byte: how much waits for GET RESPONSE, 0 for 256 or more
	swWrongPIN         = 0x63C0 // low nibble: tries left
	swWrongLength      = 0x6700
	swNoChannels       = 0x6881
	swNoSecureMessages = 0x6882
	swNoChaining       = 0x6884
	swSecurityStatus   = 0x6982
	swBlocked          = 0x6983
	swConditions       = 0x6985
	swWrongData        = 0x6A80
	swNotFound         = 0x6A82
	swWrongP1P2        = 0x6A86
	swNoReference      = 0x6A88
	swWrongLe          = 0x6C00 // low byte: the right Le
	swUnknownINS       = 0x6D00
	swUnknownCLA       = 0x6E00
	swWrongOffset      = 0x6B00
	swMemoryFailure    = 0x6581
	swInternal         = 0x6F00
)

// Instructions, named as in ISO/IEC 7816-4.
const (
	insVerify              = 0x20
	insChangeReferenceData = 0x24
	insResetRetryCounter   = 0x2C
	insGenerateKeyPair     = 0x47
	insGetChallenge        = 0x84
	insGeneralAuthenticate = 0x87
	insSelect              = 0xA4
	insReadBinary          = 0xB0
	insGetResponse         = 0xC0
	insGetData             = 0xCA
	insGetDataBER          = 0xCB
	insUpdateBinary        = 0xD6
	insPutData             = 0xDB
)

// command is a parsed command APDU.
type command struct {
	cla, ins, p1, p2 byte
	data             []byte

	// le is how many bytes the sender takes at most. Without an Le field it
	// is the largest number the form of the command allows: many programs
	// leave Le out and still read the response.
	le int
}

// parseCommand takes a command APDU apart: cases 1 to 4, short and extended
// (ISO/IEC 7816-3, 12.1.3).
func parseCommand(apdu []byte) (c command, ok bool) {
	if len(apdu) < 4 {
		return c, false
	}
	c = command{cla: apdu[0], ins: apdu[1], p1: apdu[2], p2: apdu[3], le: 256}
	body := apdu[4:]
	switch {
	case len(body) == 0: // case 1
		return c, true
	case len(body) == 1: // case 2
		c.le = shortLe(body[0])
		return c, true
	case body[0] != 0: // cases 3 and 4, short
		lc := int(body[0])
		c.data = body[1:]
		if len(c.data) == lc+1 {
			c.le = shortLe(c.data[lc])
			c.data = c.data[:lc]
		}
		return c, len(c.data) == lc
	case len(body) < 3:
		return c, false
	}
	c.le = 65536
	n := int(body[1])<<8 | int(body[2])
	if len(body) == 3 { // case 2, extended
		c.le = extendedLe(n)
		return c, true
	}
	c.data = body[3:]
	if len(c.data) == n+2 {
		c.le = extendedLe(int(c.data[n])<<8 | int(c.data[n+1]))
		c.data = c.data[:n]
	}
	return c, n > 0 && len(c.data) == n
}

func shortLe(b byte) int {
	if b == 0 {
		return 256
	}
	return int(b)
}

func extendedLe(n int) int {
	if n == 0 {
		return 65536
	}
	return n
}

// status is a response without data.
func status(sw uint16) []byte {
	return []byte{byte(sw >> 8), byte(sw)}
}

// withStatus appends a status word to data.
func withStatus(data []byte, sw uint16) []byte {
	return append(data, byte(sw>>8), byte(sw))
}

// tlv appends one BER-TLV to dst. The tag has one to three bytes, high one
// first.
func tlv(dst []byte, tag uint32, value []byte) []byte {
	for shift := 16; shift >= 0; shift -= 8 {
		if tag>>shift != 0 || shift == 0 {
			dst = append(dst, byte(tag>>shift))
		}
	}
	switch n := len(value); {
	case n < 0x80:
		dst = append(dst, byte(n))
	case n < 0x100:
		dst = append(dst, 0x81, byte(n))
	default: // no object here reaches 64 KiB
		dst = append(dst, 0x82, byte(n>>8), byte(n))
	}
	return append(dst, value...)
}

// nextTLV takes the first BER-TLV with a one-byte tag off b.
func nextTLV(b []byte) (tag byte, value, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, nil, false
	}
	tag, n, b := b[0], int(b[1]), b[2:]
	switch {
	case n < 0x80:
	case n == 0x81 && len(b) >= 1:
		n, b = int(b[0]), b[1:]
	case n == 0x82 && len(b) >= 2:
		n, b = int(b[0])<<8|int(b[1]), b[2:]
	default:
		return 0, nil, nil, false
	}
	if n > len(b) {
		return 0, nil, nil, false
	}
	return tag, b[:n], b[n:], true
}
