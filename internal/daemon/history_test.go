package daemon

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"openct/internal/socket"
	"openct/internal/status"
	"openct/internal/vusb/card"
)

// What has happened stays in the side file when it is over.
func TestSideFileTellsEvents(t *testing.T) {
	s := start(t, initialised(t), card.NewEcho(), nil)
	ctx := context.Background()
	accepted := func(n int) { s.detail(func(d status.Detail) bool { return len(d.Events) == n }) }
	first := s.client(0)
	accepted(1)
	second := s.client(0)
	accepted(2)
	handle, err := first.Lock(ctx, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // noted once
		if _, err := second.Lock(ctx, 0, false); !errors.Is(err, socket.Locked) {
			t.Fatalf("got %v, want %v", err, socket.Locked)
		}
	}
	if err := first.Unlock(ctx, 0, handle); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Lock(ctx, 0, false); err != nil {
		t.Fatal(err)
	}
	second.Close() // with its lock
	d := s.detail(func(d status.Detail) bool { return len(d.Events) >= 8 })

	me := func(connection uint64) status.Client {
		return status.Client{Connection: connection, PID: os.Getpid(), UID: uint32(os.Getuid())}
	}
	want := []status.Event{
		{Seq: 1, Event: status.Connected, Client: me(1)},
		{Seq: 2, Event: status.Connected, Client: me(2)},
		{Seq: 3, Event: status.Locked, Exclusive: true, Client: me(1)},
		{Seq: 4, Event: status.Conflict, Exclusive: true, Client: me(2), Holder: me(1)},
		{Seq: 5, Event: status.Unlocked, Exclusive: true, Client: me(1)},
		{Seq: 6, Event: status.Locked, Client: me(2)},
		{Seq: 7, Event: status.Unlocked, Client: me(2)},
		{Seq: 8, Event: status.Disconnected, Client: me(2)},
	}
	for i := range d.Events {
		if d.Events[i].Time.IsZero() {
			t.Errorf("event %d has no time", i)
		}
		d.Events[i].Time = want[min(i, len(want)-1)].Time
	}
	if diff := cmp.Diff(want, d.Events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if len(d.Connections) != 1 || d.Connections[0].Client != me(1) || d.Clients != 1 {
		t.Errorf("%d clients, connections %+v", d.Clients, d.Connections)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	var h history
	for n := range 3 * status.MaxEvents {
		kind := status.Connected
		if n%2 == 1 {
			kind = status.Disconnected
		}
		h.add(status.Event{Event: kind, Client: status.Client{Connection: uint64(n / 2)}})
	}
	events, connections := h.now()
	if len(events) != status.MaxEvents || len(connections) != 0 {
		t.Errorf("%d events, %d connections", len(events), len(connections))
	}
	if first, last := events[0].Seq, events[len(events)-1].Seq; first != 2*status.MaxEvents+1 || last != 3*status.MaxEvents {
		t.Errorf("events %d to %d", first, last)
	}
}
