package proto

import (
	"context"
	"fmt"
)

// Exchange sends one command APDU and appends the response to resp[:0].
type Exchange func(ctx context.Context, apdu, resp []byte) ([]byte, error)

// PassThrough is an Engine for readers that run the card's protocol
// themselves and take whole APDUs. It has no session to lose: every error is
// the reader's, unchanged.
type PassThrough struct {
	id       ID
	exchange Exchange
}

var _ Engine = (*PassThrough)(nil)

// NewTransparent makes the engine of protocol "transparent": APDUs to the card.
func NewTransparent(exchange Exchange) *PassThrough {
	return &PassThrough{Transparent, exchange}
}

// NewEscape makes the engine of protocol "escape": commands to the reader
// itself, which no ATR ever selects.
func NewEscape(exchange Exchange) *PassThrough {
	return &PassThrough{Escape, exchange}
}

// ID is Transparent or Escape.
func (p *PassThrough) ID() ID { return p.id }

// Transmit hands the command to the reader.
func (p *PassThrough) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	if len(apdu) == 0 || len(apdu) > MaxCommand {
		return nil, fmt.Errorf("%v: %w: %d bytes", p.id, ErrInvalidAPDU, len(apdu))
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%v: %w", p.id, err)
	}
	resp, err := p.exchange(ctx, apdu, resp[:0])
	if err != nil {
		return nil, err
	}
	if len(resp) > MaxResponse {
		return nil, fmt.Errorf("%v: %w: %d bytes", p.id, ErrTooLong, len(resp))
	}
	return resp, nil
}
