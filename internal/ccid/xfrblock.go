package ccid

// wLevelParameter of a chained extended APDU (CCID 1.1, 6.1.4). At TPDU and
// short APDU level it is levelWhole.
const (
	levelWhole     uint16 = 0x0000 // begins and ends here
	levelBegins    uint16 = 0x0001 // more follow
	levelEnds      uint16 = 0x0002 // continues and ends
	levelContinues uint16 = 0x0003 // continues, more follow
	levelFetch     uint16 = 0x0010 // empty: the next block of the response, please
)

// bChainParameter of a DataBlock (CCID 1.1, 6.2.1).
const (
	chainWhole     = 0x00
	chainBegins    = 0x01 // more of the response follows
	chainEnds      = 0x02
	chainContinues = 0x03
	chainGoOn      = 0x10 // empty: the next block of the command, please
)

// xfrBlock sends a TPDU, an APDU or a part of one (CCID 1.1, 6.1.4). bwi
// multiplies the block waiting time for this one exchange, 0 leaves it. The
// answer's data is the card's answer.
func xfrBlock(bwi byte, level uint16, data []byte) message {
	return message{
		typ:    msgXfrBlock,
		param:  [3]byte{bwi, byte(level), byte(level >> 8)},
		data:   data,
		answer: msgDataBlock,
	}
}
