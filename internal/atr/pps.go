package atr

import (
	"errors"
	"fmt"
	"math/bits"

	"openct/internal/proto"
)

// Protocol and parameters selection (ISO/IEC 7816-3, 9):
//
//	FF PPS0 [PPS1] [PPS2] [PPS3] PCK
const (
	ppss        = 0xFF
	announce1   = 0x10 // PPS1: FI and DI
	announceAll = 0x70 // PPS1, PPS2, PPS3
)

// Reasons for not getting through with a PPS; test with errors.Is.
var (
	// ErrNotOffered: the card does not speak the protocol asked for.
	ErrNotOffered = errors.New("card does not offer this protocol")

	// ErrSpecific: the card is in specific mode and takes no PPS.
	ErrSpecific = errors.New("card is in specific mode")

	// ErrPPS: the response is none, or not one to this request. The card has
	// to be reset.
	ErrPPS = errors.New("card refused the protocol selection")
)

// PPS builds the request that selects protocol t and, unless pps1 is Absent,
// the factors coded in pps1 as in TA1. PPS2 is never sent: its meaning is
// gone from the standard, and cards were seen to fall over it.
func (a *ATR) PPS(t proto.ID, pps1 int) ([]byte, error) {
	if s, ok := a.Specific(); ok {
		return nil, fmt.Errorf("%w: T=%d", ErrSpecific, s)
	}
	if !a.Offers(t) {
		return nil, fmt.Errorf("%w: T=%d", ErrNotOffered, t)
	}
	req := []byte{ppss, byte(t)}
	if pps1 != Absent {
		req[1] |= announce1
		req = append(req, byte(pps1))
	}
	return append(req, xor(req)), nil
}

// NeedPPS says how many more bytes of a PPS response are missing after b, as
// far as b tells. 0 means complete.
func NeedPPS(b []byte) int {
	want := 3
	if len(b) >= 2 {
		want += bits.OnesCount8(b[1] & announceAll)
	}
	return max(0, want-len(b))
}

// CheckPPS compares the card's response with the request. accepted says
// whether the factors of PPS1 are in use from now on; otherwise the default
// ones are, though the protocol is selected. Every error wraps ErrPPS.
func CheckPPS(request, response []byte) (accepted bool, err error) {
	if NeedPPS(request) != 0 {
		return false, fmt.Errorf("%w: the request has only %d bytes", ErrPPS, len(request))
	}
	switch {
	case NeedPPS(response) > 0:
		return false, fmt.Errorf("%w: only %d bytes", ErrPPS, len(response))
	case len(response) > 3+bits.OnesCount8(response[1]&announceAll):
		return false, fmt.Errorf("%w: %d bytes are too many", ErrPPS, len(response))
	case response[0] != ppss:
		return false, fmt.Errorf("%w: first byte %02X, want FF", ErrPPS, response[0])
	case xor(response) != 0:
		return false, fmt.Errorf("%w: wrong checksum", ErrPPS)
	case response[1]&0x0F != request[1]&0x0F:
		return false, fmt.Errorf("%w: selected T=%d, asked for T=%d", ErrPPS, response[1]&0x0F, request[1]&0x0F)
	case response[1]&^request[1] != 0:
		return false, fmt.Errorf("%w: parameters that were not requested (PPS0 %02X)", ErrPPS, response[1])
	}
	if response[1]&announce1 == 0 {
		return false, nil
	}
	if response[2] != request[2] {
		return false, fmt.Errorf("%w: PPS1 %02X, asked for %02X", ErrPPS, response[2], request[2])
	}
	return true, nil
}
