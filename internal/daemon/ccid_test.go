package daemon

import (
	"context"
	"errors"
	"testing"
	"time"

	"openct/internal/devname"
	"openct/internal/socket"
	"openct/internal/vusb"
	"openct/internal/vusb/card"
	"openct/internal/vusb/ccidreader"
)

// askedCard tells when an APDU has reached it.
type askedCard struct {
	card.Card
	asked chan struct{}
}

func (c *askedCard) Transmit(apdu []byte) []byte {
	close(c.asked)
	return c.Card.Transmit(apdu)
}

// A reader reports that the card is gone while it should be answering an APDU,
// and never answers. The client learns at once that there is no card, and
// another client's STATUS has waited for neither.
func TestCardGoneWhileTheReaderWaits(t *testing.T) {
	ctx := context.Background()
	chip := &askedCard{card.NewEchoATR([]byte{0x3B, 0x02, 0x14, 0x50}), make(chan struct{})}
	model := ccidreader.New(ccidreader.Profile{Features: 0x00020030}, chip)
	port := vusb.Plug("virtual reader", model)
	s := start(t, initialised(t), card.NewEcho(), func(o *Options) {
		o.Target = devname.Target{Driver: "ccid", Type: "virtual", Path: "test"}
		o.Openers = openers(port.Open)
	})
	client, other := s.client(0), s.client(0)
	if _, err := client.Reset(ctx, 0); err != nil {
		t.Fatal(err)
	}
	model.Inject(ccidreader.Fault{On: 0x6F, Delay: time.Hour})
	done := make(chan error, 1)
	go func() {
		_, err := client.Transact(ctx, 0, []byte{0x00, 0xA4, 0x00, 0x00})
		done <- err
	}()
	<-chip.asked
	if present, _, err := other.CardStatus(ctx, 0); err != nil || !present {
		t.Errorf("STATUS during the APDU: present %v, %v", present, err)
	}
	select {
	case err := <-done:
		t.Fatalf("the APDU has ended: %v", err)
	default:
	}
	model.Remove(0)
	select {
	case err := <-done:
		if !errors.Is(err, socket.NoCard) {
			t.Errorf("error %v, want %v", err, socket.NoCard)
		}
	case <-time.After(patience):
		t.Fatal("the APDU does not end")
	}
	if present, _, err := other.CardStatus(ctx, 0); err != nil || present {
		t.Errorf("STATUS afterwards: present %v, %v", present, err)
	}
}
