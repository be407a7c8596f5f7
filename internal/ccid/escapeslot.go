package ccid

import (
	"context"
	"fmt"

	"openct/internal/atr"
	"openct/internal/ifd"
	"openct/internal/proto"
)

// escapeSlot is C OpenCT's virtual slot behind an OmniKey 5121's real ones. It
// always holds a "card" whose ATR is FF, and passes what it is sent to the
// reader itself.
type escapeSlot struct{ s *slot }

var _ ifd.Slot = (*escapeSlot)(nil)

// Reset implements ifd.Slot.
func (*escapeSlot) Reset(context.Context) ([]byte, error) { return []byte{0xFF}, nil }

// Protocol implements ifd.Slot.
func (e *escapeSlot) Protocol(_ context.Context, p proto.ID, _ *atr.ATR) (proto.Engine, error) {
	if p != proto.Escape && p != proto.Default {
		return nil, fmt.Errorf("protocol %v on the reader's own slot: %w", p, ifd.ErrNotSupported)
	}
	return proto.NewEscape(e.s.transmitEscape), nil
}
