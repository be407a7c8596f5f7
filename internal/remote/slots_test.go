package remote

import (
	"context"
	"errors"
	"testing"
	"time"

	"openct/internal/device"
	"openct/internal/ifd"
	"openct/internal/socket"
)

// A far end whose slots contradict each other is one that cannot tell of cards.
func TestFarEndThatTellsOfSomeSlots(t *testing.T) {
	f := newFar(t, map[socket.Command]answer{
		socket.CmdStatus: func(h socket.Header, p []byte) []byte {
			if p[1] == socket.UnitReader {
				return reply(0, "\x00\x05Token\x01\x02\x00\x01")(h, p)
			}
			return reply(0, "\x02\x01\x00")(h, p)
		},
		socket.CmdWatch: func(h socket.Header, p []byte) []byte {
			if p[1] == 1 {
				return reply(socket.InvalidCmd, "")(h, p)
			}
			return reply(0, "\x08\x01\x01\x02\x01\x01")(h, p)
		},
	})
	rd, err := f.open(unhurried)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := rd.(ifd.Notifier); ok {
		t.Error("it cannot tell of cards")
	}
	if st, err := rd.Slots()[0].(ifd.Presence).Status(context.Background()); err != nil || st.Present {
		t.Errorf("slot 0, whose card has left: %+v, %v", st, err)
	}
	rd.Close()
	for n := range 4 {
		select {
		case <-f.ended:
		case <-time.After(patience):
			t.Fatalf("%d of 4 connections have ended", n)
		}
	}
}

// While the user is asked for a card at one slot, the other slot's clients get their
// locks and their card, and give the locks back.
func TestSlotsDoNotWaitForEachOther(t *testing.T) {
	asked := make(chan struct{})
	f := newFar(t, map[socket.Command]answer{
		socket.CmdStatus: reply(0, "\x00\x05Token\x01\x02\x00\x01"),
		socket.CmdRequest: func(socket.Header, []byte) []byte {
			close(asked)
			return nil
		},
	})
	rd, err := f.open(unhurried)
	if err != nil {
		t.Fatal(err)
	}
	request := make(chan error, 1)
	go func() {
		_, err := rd.Slots()[0].(ifd.Requester).Request(context.Background(), time.Minute, "")
		request <- err
	}()
	<-asked
	ctx, cancel := context.WithTimeout(context.Background(), patience/2)
	defer cancel()
	other := rd.Slots()[1].(*slot)
	if err := other.Lock(ctx, true); err != nil {
		t.Errorf("lock: %v", err)
	}
	if _, err := (&engine{s: other}).Transmit(ctx, []byte{0, 0xA4, 0, 0}, nil); err != nil {
		t.Errorf("APDU: %v", err)
	}
	if err := other.Unlock(ctx, true); err != nil {
		t.Errorf("unlock: %v", err)
	}
	select {
	case err := <-request:
		t.Errorf("the request has ended: %v", err)
	default:
	}
	rd.Close()
	if err := <-request; !errors.Is(err, device.ErrUnplugged) {
		t.Errorf("request: %v, want %v", err, device.ErrUnplugged)
	}
}
