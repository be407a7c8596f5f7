package driver

import (
	"context"
	"fmt"
	"time"

	"openct/internal/ifd"
	"openct/internal/proto"
)

// Bytes of a command that go out at once, behind the first (C OpenCT's
// ifd-gempc.c).
const (
	gemMaxInput    = 248
	gemMaxExchange = 254
)

// gemError is a status byte that says what went wrong.
type gemError struct{ status byte }

func (e *gemError) Error() string {
	text := gemTexts[e.status]
	if text == "" {
		text = e.Unwrap().Error()
	}
	return fmt.Sprintf("reader answers %02X: %s", e.status, text)
}

func (e *gemError) Unwrap() error {
	switch e.status {
	case gemUnknown:
		return ifd.ErrNotSupported
	case gemWithdrawn, gemAbsent:
		return ifd.ErrNoCard
	}
	return ifd.ErrComm
}

// exchange sends one command. The status is gemOK or gemMore.
func (g *gemPC) exchange(ctx context.Context, command []byte, timeout time.Duration) (status byte, data []byte, err error) {
	answer, err := g.gbp.Exchange(ctx, command, nil, timeout)
	if err == nil && len(answer) == 0 {
		err = fmt.Errorf("answer without a status: %w", ifd.ErrComm)
	}
	if err != nil {
		return 0, nil, err
	}
	switch answer[0] {
	case gemOK, gemMore:
		return answer[0], answer[1:], nil
	case gemStopped, gemNot9000:
		return gemOK, answer[1:], nil
	}
	return 0, nil, &gemError{answer[0]}
}

// command is exchange for an answer that is in one block.
func (g *gemPC) command(ctx context.Context, command []byte, timeout time.Duration) ([]byte, error) {
	status, data, err := g.exchange(ctx, command, timeout)
	if err == nil && status == gemMore {
		err = fmt.Errorf("answer in more than one block: %w", ifd.ErrComm)
	}
	return data, err
}

// card sends a command to the card: what does not fit into a block goes ahead of
// the rest. The response is fetched until there is no more of it.
func (g *gemPC) card(ctx context.Context, kind byte, command, resp []byte, room int, timeout time.Duration) ([]byte, error) {
	most := gemMaxExchange
	if kind == gemInput {
		most = gemMaxInput
	}
	if len(command) > most {
		tail := command[most:]
		block := append(append([]byte{kind}, gemRest...), byte(len(tail)))
		block = append(block, tail...)
		_, err := g.command(ctx, block, gemCommand)
		clear(block) // there may be a PIN
		if err != nil {
			return nil, err
		}
	}
	block := append([]byte{kind}, command[:min(len(command), most)]...)
	defer func() { clear(block) }()
	resp = resp[:0]
	for {
		status, data, err := g.exchange(ctx, block, timeout)
		if err != nil {
			return nil, err
		}
		resp = append(resp, data...)
		switch {
		case len(resp) > room:
			return nil, fmt.Errorf("response of more than %d bytes: %w", room, ifd.ErrComm)
		case status == gemOK && len(resp) < 2:
			return nil, fmt.Errorf("response of %d bytes: %w", len(resp), ifd.ErrComm)
		case status == gemOK:
			return resp, nil
		case len(data) == 0:
			return nil, fmt.Errorf("response without an end: %w", ifd.ErrComm)
		}
		clear(block)
		if kind == gemInput {
			kind = gemOutput
		}
		block = append(append(append(block[:0], kind), gemRest...), 0xFF)
	}
}

// gemT1 carries APDUs to a card that speaks T=1 with the reader.
type gemT1 struct {
	proto.Session
	g *gemPC
}

// ID implements proto.Engine.
func (e *gemT1) ID() proto.ID { return proto.T1 }

// Limits implements proto.Limiter.
func (e *gemT1) Limits() proto.Limits { return proto.ShortAPDU }

// Transmit implements proto.Engine.
func (e *gemT1) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	if err := e.Lost(); err != nil {
		return nil, err
	}
	c, err := proto.ParseCommand(apdu)
	if err == nil && c.Extended {
		err = fmt.Errorf("%w: the reader takes short ones", proto.ErrInvalidAPDU)
	}
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err // nothing was sent yet
	}
	resp, err = e.g.card(ctx, gemExchange, apdu, resp, proto.ShortAPDU.Response, gemCard)
	if err != nil {
		return nil, e.Lose(err)
	}
	return resp, nil
}

// gemT0 carries APDUs to a card that speaks T=0 with the reader. The command that
// takes APDUs is for T=1 alone.
type gemT0 struct {
	*proto.T0Engine
	link *gemT0Link
}

// Transmit implements proto.Engine.
func (e *gemT0) Transmit(ctx context.Context, apdu, resp []byte) ([]byte, error) {
	c, err := proto.ParseCommand(apdu)
	e.link.bare = err == nil && c.Data == nil && c.Le == 0
	return e.T0Engine.Transmit(ctx, apdu, resp)
}

// gemT0Link carries whole TPDUs. One of 5 bytes brings data, but for an APDU that
// is bare.
type gemT0Link struct {
	g    *gemPC
	bare bool
	tpdu []byte
}

// Send implements proto.Link. The answer to a command is the rest of the exchange.
func (l *gemT0Link) Send(_ context.Context, tpdu []byte) error {
	l.tpdu = append(l.tpdu[:0], tpdu...)
	return nil
}

// Recv implements proto.Link.
func (l *gemT0Link) Recv(ctx context.Context, buf []byte, timeout time.Duration) (int, error) {
	kind := byte(gemInput)
	if len(l.tpdu) == 5 && !l.bare {
		kind = gemOutput
	}
	resp, err := l.g.card(ctx, kind, l.tpdu, nil, len(buf), timeout)
	clear(l.tpdu) // there may be a PIN
	return copy(buf, resp), err
}
