package verify

import (
	"slices"

	serialrecord "openct/internal/serial/record"
	usbrecord "openct/internal/usb/record"
)

// pieces is what was sent in several pieces. It is masked as a whole, and then
// put back.
type pieces struct {
	parts [][]byte
	whole []byte
}

func (p *pieces) add(b []byte) {
	p.parts = append(p.parts, b)
	p.whole = append(p.whole, b...)
}

// back puts what was masked in its places.
func (p *pieces) back() {
	rest := p.whole
	for _, part := range p.parts {
		rest = rest[copy(part, rest):]
	}
}

// runs masks a step of a device that answers in pieces: mask gets what came between
// two things that the driver sent, in one. On USB that is what part says; other, if
// there is one, masks the rest of what comes there.
func (m *masker) runs(s *Step, part func(*usbrecord.IO) bool, mask func(run []byte), other func(*usbrecord.IO)) {
	var all []*pieces
	var now *pieces
	end := func() {
		if now != nil {
			mask(now.whole)
			all = append(all, now)
		}
		now = nil
	}
	take := func(b []byte) {
		if now == nil {
			now = &pieces{}
		}
		now.add(b)
	}
	for i := range s.USB {
		switch op := &s.USB[i]; {
		case op.Kind > usbrecord.Interrupt:
		case !op.In():
			end()
			m.sent = sent{request: op.Setup.Request, data: op.W}
			m.host.take(op.W)
		case part(op):
			take(op.R)
		case other != nil:
			other(op)
		default:
			clear(op.R)
		}
	}
	for i := range s.Serial {
		switch st := &s.Serial[i]; st.Kind {
		case serialrecord.Write:
			end()
			m.sent = sent{data: slices.Clone(st.Data)}
			m.host.take(st.Data)
		case serialrecord.Lines, serialrecord.Break:
			end()
		case serialrecord.Answer:
			take(st.Data)
		}
	}
	end()
	m.finish()
	for _, p := range all {
		p.back()
	}
}

func isBulk(op *usbrecord.IO) bool      { return op.Kind == usbrecord.Bulk }
func isInterrupt(op *usbrecord.IO) bool { return op.Kind == usbrecord.Interrupt }
